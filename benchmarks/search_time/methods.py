"""Our search, the same with one part changed, and the table of all methods."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

import lrbench_hpo
from benchmarks.search_time.jobs import Job, Watch
from benchmarks.search_time.peers import (
    CORES,
    Seen,
    by_processes,
    follow,
    optuna_search,
    ray_search,
)
from benchmarks.search_time.plain import PlainSetup, train
from benchmarks.search_time.tasks import EVALUATIONS
from lrbench_hpo.exchange.shipped import import_measured
from lrbench_hpo.study.population import PopulationSearch, open_workers
from lrbench_hpo.study.pruner import LRMinimaPruner


def fresh_database(job: Job, measured: bool = False) -> Path:
    """A new LR database with the published rows, and with the runs that come along or not."""
    file = Path(tempfile.mkdtemp(dir=job.folder), "lr.db")
    if measured:
        whole = job.folder / "measured.db"
        if not whole.exists():
            with lrbench_hpo.connect(file) as database:
                import_measured(database)
            shutil.copy(file, whole)
        shutil.copy(whole, file)
    else:
        lrbench_hpo.connect(file).close()
    return file


def ours_search(
    job: Job,
    *,
    measured: bool = False,
    prior: bool = True,
    stopping: bool = True,
    processes: int | None = None,
) -> dict[str, Any]:
    """`create_study` and `optimize`, as `lrbench-hpo tune --population` calls them.

    No LR range test runs: the published rows tell the LR scale of both tasks.

    Args:
        job: the search.
        measured: whether the LR database holds the runs that come with the package.
        prior: whether known policies and the sampler that weighs them are used; else cold TPE, in
            the same space.
        stopping: whether losers are stopped early.
        processes: as in `optimize`.
    """
    database = fresh_database(job, measured)
    watch = Watch(job)
    study = lrbench_hpo.create_study(
        job.task.dataset,
        job.task.model,
        max_iterations=job.task.iterations,
        database=database,
        pruner=LRMinimaPruner() if stopping else None,
        seed=job.seed,
    )
    if not prior:
        study = _cold(study, job.seed)
    objective = _objective(job, database)

    def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state.name == "COMPLETE":
            watch.ended(trial.user_attrs.get("top1"), trial.user_attrs["policy"])

    def moved(trial: optuna.Trial, iteration: int) -> None:
        if watch.over:
            raise _OverError

    objective.on_progress = moved
    # What `optimize` does, with workers that can be asked for its counts afterwards.
    workers = open_workers(study, objective, processes=processes)
    search = PopulationSearch(study, objective, workers, [ended])
    try:
        with contextlib.suppress(_OverError):
            search.run(job.trials, time.monotonic() + job.cap)
        watch.iterations, watch.trials = workers.trained_iterations, len(study.trials)
        counts = {"shared": workers.saved_iterations, "stopped": search.spared}
        result = {**watch.result(), **counts, "notes": list(workers.notes)}
    finally:
        search.close()
    shutil.rmtree(database.parent, ignore_errors=True)
    return result


def _objective(job: Job, database: Path) -> lrbench_hpo.Objective:
    """What our searches train, with the search's own images and seed."""
    return lrbench_hpo.Objective(
        job.data,
        job.task.model,
        database=database,
        seed=job.training_seed,
        device="cpu",
        evaluations=EVALUATIONS,
    )


def _cold(study: optuna.Study, seed: int) -> optuna.Study:
    """A study of the same task, space, reference LR and pruner, with TPE and no known policies."""
    cold = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=study.pruner
    )
    cold.set_user_attr("lrbench", study.user_attrs["lrbench"])
    return cold


def plain_ours_search(job: Job) -> dict[str, Any]:
    """Our prior, sampler and pruner around the usual loop: no trainer of ours."""
    setup = PlainSetup.of(job.task, job.data)
    database = fresh_database(job)

    def open_study(storage: optuna.storages.BaseStorage, number: int) -> optuna.Study:
        return lrbench_hpo.create_study(
            job.task.dataset,
            job.task.model,
            max_iterations=job.task.iterations,
            database=database,
            storage=storage,
            study_name="search",
            load_if_exists=True,
            pruner=LRMinimaPruner(),
            seed=CORES * job.seed + number,
        )

    try:
        return by_processes(job, setup, open_study, _policy_objective)
    finally:
        shutil.rmtree(database.parent, ignore_errors=True)


def _policy_objective(trial: optuna.Trial, setup: PlainSetup, job: Job, seen: Seen) -> float:
    policy = lrbench_hpo.suggest_policy(trial)
    points = policy.evaluation_points(setup.iterations, EVALUATIONS)
    training = train(setup, 1.0, policy.torch_scheduler, points, job.training_seed)
    return follow(trial, training, seen)


class _OverError(Exception):
    """The search's time is over."""


MAIN = ("optuna", "ray", "ours")
METHODS: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "optuna": optuna_search,
    "ray": ray_search,
    "ours": ours_search,
    "ours, measured runs known": lambda job: ours_search(job, measured=True),
    "ours without the prior": lambda job: ours_search(job, prior=False),
    "ours without stopping": lambda job: ours_search(job, stopping=False),
    "ours, a process a core": lambda job: ours_search(job, processes=CORES),
    "ours in the plain loop": plain_ours_search,
}
# Ours are stopped sooner, as they usually reach the target early.
SHARE_OF_CAP: Mapping[str, float] = {
    "ours": 1 / 4,
    "ours, measured runs known": 1 / 4,
    "ours without stopping": 1 / 4,
    "ours, a process a core": 1 / 4,
    "ours in the plain loop": 1 / 2,
}
# With one thread a process: two such processes train sooner than two threads of one, or than data
# workers, do. Ours decides for itself.
ONE_THREAD = ("optuna", "ray", "ours in the plain loop")
