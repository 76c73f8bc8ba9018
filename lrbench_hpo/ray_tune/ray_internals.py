"""Everything that reads private state of a running Ray, in one place.

Ray gives a searcher neither its controller nor, when the config is empty, the metric and mode of
``tune.run`` or the stopping criteria, and it does not report the end of trials that a stopper or a
time budget ends. So these functions read Python's call stack, attributes of Ray's controller and
trials, and the names of its files. `TRIED_VERSIONS` names the releases of Ray that all of this
holds for; ``tests/ray_tune/test_ray_internals.py`` fails on any other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lrbench_hpo.errors import MissingExtraError, StudyError

with MissingExtraError.unless_installed("ray", "ray"):
    from pyarrow.fs import FileSelector, FileSystem  # type: ignore[import-untyped]
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.search import Repeater
    from ray.tune.utils import flatten_dict

TRIED_VERSIONS = ("2.60.0",)


def controller() -> Any:
    """Ray's controller, if this is called from within one; None otherwise."""
    for frame in _callers():
        caller = frame.f_locals.get("self")
        if hasattr(caller, "_scheduler_alg"):
            return caller
    return None


def metric_and_mode_of_run() -> tuple[Any, Any]:
    """The metric and mode of the ``tune.run`` that this is called from within; None for each."""
    for frame in _callers():
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "ray.tune.tune":
            return frame.f_locals.get("metric"), frame.f_locals.get("mode")
    return None, None


def _callers() -> Iterator[FrameType]:
    """The frames below this module's, from the innermost."""
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        yield frame


def experiment_spec(host: Any) -> Mapping[str, Any]:
    """What an experiment was given, such as ``stop``; empty when unknown.

    Args:
        host: Ray's controller, or None.
    """
    experiment = getattr(getattr(host, "_search_alg", None), "_experiment", None)
    return {} if experiment is None else dict(experiment.spec)


def trials_by_id(host: Any) -> dict[str, Any] | None:
    """Ray's trials by their id; None when they are unknown, or when a searcher sees groups of them.

    Args:
        host: Ray's controller, or None.
    """
    if host is None or _repeated(host):
        return None
    return {trial.trial_id: trial for trial in host.get_trials()}


def last_result(trial: Any) -> Mapping[str, Any]:
    """The last report of a trial of Ray, as Ray keeps it; empty when there is none."""
    last: Mapping[str, Any] = trial.run_metadata.last_result  # `trial.last_result` may ask a worker
    return last if "training_iteration" in last else {}


def last_report(trial: Any) -> tuple[dict[str, Any] | None, bool]:
    """The last report of a finished trial with names by ``/``, if any, and whether it failed."""
    last = last_result(trial)
    return (flatten_dict(dict(last)) if last else None), trial.status == trial.ERROR


def refuse_repeater(host: Any) -> None:
    """Refuse to repeat trials that are populations, with a message that names the alternatives.

    Args:
        host: Ray's controller, or None.

    Raises:
        StudyError: if several trials are one to the searcher, which gets their mean only.
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


def refuse_population_based_training(host: Any) -> None:
    """Refuse such a scheduler, before Ray refuses the pair without a reason.

    Args:
        host: Ray's controller, or None.

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


def accept_reports_without_metric() -> None:
    """Let a trial lack the metric: otherwise Ray ends all trials for one such report."""
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")


def experiment_exists(storage: str | None, name: str | None) -> bool:
    """Whether there is an experiment of that name to go on with.

    `Tuner.can_restore` knows only what a Tuner has begun, not what `tune.run` has.

    Args:
        storage: folder or URL; ``~/ray_results`` when None.
        name: of the experiment; None for a new one.
    """
    if name is None:
        return False
    folder = storage or str(Path("~/ray_results").expanduser())
    try:
        system, path = FileSystem.from_uri(f"{folder.rstrip('/')}/{name}")
        found = system.get_file_info(FileSelector(path, allow_not_found=True))
    except (OSError, ValueError):
        return True  # Ray, which knows more kinds of storage, looks itself
    return any(file.base_name.startswith("experiment_state-") for file in found)
