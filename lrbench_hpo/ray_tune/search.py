"""A whole search on Ray with the defaults that are right: what ``lrbench-hpo tune --ray`` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from lrbench_hpo.database import opened
from lrbench_hpo.errors import LRBenchError, MissingExtraError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.cluster import CONNECT_PATIENCE, Share
from lrbench_hpo.ray_tune.on_worker import (
    check_on_worker,
    measure_on_worker,
    range_test_on_worker,
    train_on_worker,
)
from lrbench_hpo.ray_tune.ray_internals import experiment_exists
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.ray_tune.trainable import Train
from lrbench_hpo.records.member_reports import MEMBER
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.repeats import same_training
from lrbench_hpo.records.run import Run, Task, own_source
from lrbench_hpo.study import results

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from ray import tune
    from ray.exceptions import RayTaskError
    from ray.tune.schedulers import TrialScheduler

_MAX_FAILURES = 3  # of a trial: lost nodes and workers; it goes on from its last checkpoint


def check(
    config: Mapping[str, Any], share: Share, notify: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Load the data and build the network where trials will run, before any of them does.

    Args:
        config: of `lrbench_hpo.train`, without a policy.
        share: what a trial gets.
        notify: called with a line when this takes long.

    Returns:
        What `check_on_worker` finds.

    Raises:
        LRBenchError: as on the worker.
    """
    checked: dict[str, Any] = _on_worker(check_on_worker, share, dict(config), notify=notify)
    return checked


def range_test(
    config: Mapping[str, Any], share: Share, notify: Callable[[str], None] | None = None
) -> RangeTest:
    """An LR range test where trials will run: `check`'s arguments, with ``max_iterations``."""
    return RangeTest.from_dict(_on_worker(range_test_on_worker, share, dict(config), notify=notify))


def stored_trainings(
    database: str | None, checked: Mapping[str, Any], max_iterations: int, seed: int
) -> dict[LRPolicy, Run]:
    """Runs in the LR database that trials of this search would only repeat, by their policy.

    Args:
        database: URL or file of the LR database.
        checked: what `check` found.
        max_iterations: the budget, in iterations.
        seed: of weights and data order.
    """
    if not checked["repeatable"]:
        return {}
    task = Task.from_dict(checked["task"])
    with opened(database) as db:
        runs = db.find(
            task.dataset,
            task.model,
            source=own_source(),
            status="complete",
            imported=False,
            max_iterations=max_iterations,
            seed=seed,
        )
    same = same_training(runs, task, max_iterations, seed, checked["environment"])
    return {run.policy: run for run in same}


def run(
    searcher: LRBenchSearcher,
    config: Mapping[str, Any],
    *,
    share: Share,
    trials: int,
    scheduler: TrialScheduler,
    storage: str | None,
    name: str | None,
    callbacks: Sequence[tune.Callback],
) -> list[Any]:
    """Run a search on the cluster that is connected; Ctrl-C ends it and keeps what is done.

    Args:
        searcher: what suggests the policies.
        config: of `lrbench_hpo.train`.
        share: what a trial gets.
        trials: how many.
        scheduler: of trials.
        storage: folder or URL that all nodes can write to; ``~/ray_results`` when None.
        name: of the experiment in the storage, which is resumed if it is there; a new one of
            Ray's choice when None.
        callbacks: of Ray Tune.

    Returns:
        Ray's trials.
    """
    # Its panels and tables would break through the caller's progress view.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    analysis = tune.run(
        Train,
        name=name,
        config={**config, "resources": share.to_dict()},
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=trials,
        max_concurrent_trials=share.concurrent,
        reuse_actors=True,
        max_failures=_MAX_FAILURES,
        raise_on_failed_trial=False,
        # With 1, Ray would write down the whole experiment at each trial's only checkpoint.
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        storage_path=storage,
        callbacks=list(callbacks),
        resume="AUTO" if experiment_exists(storage, name) else None,
        verbose=0,
    )
    found: list[Any] = analysis.trials
    return found


def checkpoint_of_winner(study: optuna.Study, trials: Sequence[Any]) -> Any:
    """The checkpoint with the winner's weights; None when this search has not trained it.

    Args:
        study: the searcher's.
        trials: of Ray.

    Raises:
        StudyError: when no trial has finished without diverging.
    """
    winner = results.winner_to_test(study)
    if winner.user_attrs.get("recalled"):
        return None
    wanted = winner.user_attrs["trial_id"]
    return next((trial.checkpoint for trial in trials if trial.trial_id == wanted), None)


def test(
    study: optuna.Study, trials: Sequence[Any], config: Mapping[str, Any], share: Share
) -> dict[str, Any]:
    """Measure the study's winner on the test split, once.

    A winner whose weights are not at hand is trained again.

    Args:
        study: the searcher's.
        trials: of Ray.
        config: of `lrbench_hpo.train`, without a policy.
        share: what a trial gets.

    Raises:
        StudyError: when no trial has finished without diverging.
    """
    checkpoint = checkpoint_of_winner(study, trials)
    winner = results.winner_to_test(study)
    known = results.tested(study, winner)
    if known is not None:
        return known
    config = {**config, "lr_policy": winner.user_attrs["policy"]}
    measured = (
        _on_worker(train_on_worker, share, config)
        if checkpoint is None
        else _on_worker(measure_on_worker, share, config, checkpoint, winner.user_attrs.get(MEMBER))
    )
    measured["trial"] = winner.number
    study.set_user_attr("test", measured)
    found: dict[str, Any] = measured
    return found


def _on_worker(
    function: Any, share: Share, *arguments: Any, notify: Callable[[str], None] | None = None
) -> Any:
    """Run a function where a trial would run; its errors arrive as they are."""
    task = ray.remote(function).options(num_cpus=share.cpus, num_gpus=share.gpus)
    reference = task.remote(*arguments)
    ready, _ = ray.wait([reference], timeout=CONNECT_PATIENCE)
    if not ready and notify is not None:
        notify("waiting for a worker: it starts, loads the data, or the cluster is busy")
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, LRBenchError):
            raise type(cause)(str(cause)) from None
        raise
