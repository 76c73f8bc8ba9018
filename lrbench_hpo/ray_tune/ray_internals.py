"""Everything that reads private state of Ray, in one place; a test names the versions it holds for.

Ray tells a searcher neither ``tune.run``'s metric and mode when the config is empty, nor its
controller, nor the trials that end while nobody listens. So these functions look at the call stack
and at attributes of the controller.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from lrbench_hpo.errors import MissingExtraError, StudyError

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.search import Repeater
    from ray.tune.utils import flatten_dict


def controller() -> Any:
    """Ray's controller, if it is what asks; no searcher is given it, so this looks at the stack."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        asking = frame.f_locals.get("self")
        if hasattr(asking, "_scheduler_alg"):
            return asking
    return None


def ray_trials(host: Any) -> dict[str, Any] | None:
    """Ray's trials by their id; None when unknown, or when a trial is not a searcher's alone.

    Args:
        host: Ray's controller.
    """
    if host is None:
        return None
    if _repeated(host):
        return None  # a searcher is told of a group of trials when the last of them has ended
    return {trial.trial_id: trial for trial in host.get_trials()}


def refuse_repeater(host: Any) -> None:
    """Say what to do instead of repeating trials that are populations.

    Args:
        host: Ray's controller.

    Raises:
        StudyError: if several trials are one to the searcher, which is told their mean only.
    """
    if _repeated(host):
        raise StudyError(
            "Repeater tells the mean of several trials, and not how each policy of a population "
            "did: search without population, or without Repeater"
        )


def _repeated(host: Any) -> bool:
    searcher = getattr(getattr(host, "_search_alg", None), "searcher", None)
    while searcher is not None:
        if isinstance(searcher, Repeater):
            return True
        searcher = getattr(searcher, "searcher", None)
    return False


def last_words(trial: Any) -> tuple[dict[str, Any] | None, bool]:
    """The last report of a trial that is over, and whether it failed."""
    last = trial.run_metadata.last_result  # `trial.last_result` may ask a worker that is gone
    reported = "training_iteration" in last
    return (flatten_dict(dict(last)) if reported else None), trial.status == trial.ERROR


def given_to_run() -> tuple[Any, Any]:
    """Metric and mode that ``tune.run`` was given, which Ray tells no searcher without config."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "ray.tune.tune":
            return frame.f_locals.get("metric"), frame.f_locals.get("mode")
    return None, None


def experiment_spec(host: Any) -> Mapping[str, Any]:
    """What an experiment was given; Ray tells a searcher nothing when its config is empty.

    Args:
        host: Ray's controller.
    """
    experiment = getattr(getattr(host, "_search_alg", None), "_experiment", None)
    return {} if experiment is None else dict(experiment.spec)


def refuse_population_based_training(host: Any) -> None:
    """Say what to do instead, before Ray refuses the pair without saying why.

    Args:
        host: Ray's controller.

    Raises:
        StudyError: if its scheduler is one that takes no searcher.
    """
    scheduler = getattr(host, "_scheduler_alg", None)
    if isinstance(scheduler, PopulationBasedTraining):
        name = type(scheduler).__name__
        raise StudyError(
            f"{name} changes policies while trials run and takes them from no searcher: use "
            f"ASHAScheduler(time_attr='iteration') with LRBenchSearcher, or {name} without "
            "search_alg"
        )


def take_reports_without_metric() -> None:
    """Let a trial lack the metric: otherwise Ray ends all trials for one such report."""
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
