"""Optuna and Ray Tune around the usual training loop."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna

from benchmarks.search_time.jobs import Job, Watch
from benchmarks.search_time.plain import PlainSetup, suggest, train
from benchmarks.search_time.tasks import EVALUATIONS

CORES = 2
_JOIN_SECONDS = 30

# --- Optuna: processes that share a study, each on one core ---------------------------------------


def optuna_search(job: Job) -> dict[str, Any]:
    """TPE and MedianPruner as they come, one process a core, a journal file as the storage."""
    setup = PlainSetup.of(job.task, job.data)

    def open_study(storage: optuna.storages.BaseStorage, number: int) -> optuna.Study:
        return optuna.create_study(
            study_name="search",
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=CORES * job.seed + number),
            pruner=optuna.pruners.MedianPruner(),
        )

    return by_processes(job, setup, open_study, _plain_objective)


Seen = Callable[[int], bool]  # iterations since it was last asked: is it over?
Objective = Callable[[optuna.Trial, PlainSetup, Job, Seen], float]
OpenStudy = Callable[[optuna.storages.BaseStorage, int], optuna.Study]


def _plain_objective(trial: optuna.Trial, setup: PlainSetup, job: Job, seen: Seen) -> float:
    suggest(trial)
    config = trial.params
    training = train(setup, config["lr"], setup.scheduled(config), setup.points, job.training_seed)
    return follow(trial, training, seen)


def follow(trial: optuna.Trial, training: Iterable[tuple[int, float]], seen: Seen) -> float:
    best, before = 0.0, 0
    for iteration, top1 in training:
        best = max(best, top1)
        over = seen(iteration - before)
        before = iteration
        trial.report(top1, iteration)
        if over or trial.should_prune():
            raise optuna.TrialPruned
    return best


def by_processes(
    job: Job, setup: PlainSetup, open_study: OpenStudy, objective: Objective
) -> dict[str, Any]:
    """Forked workers, which hold the images and modules already, as scripts started by hand do."""
    fork = multiprocessing.get_context("fork")
    reports, over = fork.Queue(), fork.Event()
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder, "journal"))

        def work(number: int) -> None:
            backend = optuna.storages.journal.JournalFileBackend(journal)
            study = open_study(optuna.storages.JournalStorage(backend), number)

            def seen(iterations: int) -> bool:
                reports.put((iterations, None))
                return over.is_set()

            def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
                if trial.state.name == "COMPLETE":
                    policy = trial.user_attrs.get("policy", trial.params)
                    reports.put((0, (trial.value, policy, time.time())))
                if over.is_set() or len(study.get_trials(deepcopy=False)) >= job.trials:
                    study.stop()

            study.optimize(lambda trial: objective(trial, setup, job, seen), callbacks=[ended])

        watch = Watch(job)
        workers = [fork.Process(target=work, args=(number,)) for number in range(CORES)]
        for worker in workers:
            worker.start()
        alive = True
        while alive and not watch.over:
            alive = any(worker.is_alive() for worker in workers)  # before the last look
            while not reports.empty():
                iterations, found = reports.get()
                watch.iterations += iterations
                if found is not None:
                    watch.ended(*found)
            time.sleep(0.01)
        over.set()
        result = watch.result()
        for worker in workers:
            worker.join(_JOIN_SECONDS)
            worker.kill()
        backend = optuna.storages.journal.JournalFileBackend(journal)
        study = optuna.load_study(
            study_name="search", storage=optuna.storages.JournalStorage(backend)
        )
        return {**result, "trials": len(study.trials)}


# --- Ray Tune -------------------------------------------------------------------------------------


def ray_trial(config: dict[str, Any], setup: PlainSetup, seed: int) -> None:
    """The same loop as a trainable."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    training = train(setup, config["lr"], setup.scheduled(config), setup.points, seed)
    best, before = 0.0, 0
    for iteration, top1 in training:
        best = max(best, top1)
        tune.report(
            {
                "top1": top1,
                "best": best,
                "at": time.time(),
                "iterations": iteration - before,
                "whole": iteration == setup.iterations,
            }
        )
        before = iteration


def ray_search(job: Job) -> dict[str, Any]:
    """OptunaSearch and ASHA as they come, two trials at once, actors kept from trial to trial."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    # Ray's workers run at niceness 15 by default, and would give their cores to any other job.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
    setup = PlainSetup.of(job.task, job.data)
    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        address="local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    watch = Watch(job)

    class Stopper(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            watch.iterations += result["iterations"]
            if result["whole"]:
                watch.ended(result["best"], result["config"], result["at"])
            return watch.over

        def stop_all(self) -> bool:
            return watch.over

    try:
        with tempfile.TemporaryDirectory() as folder:
            done = tune.run(
                tune.with_parameters(ray_trial, setup=setup, seed=job.training_seed),
                metric="best",
                mode="max",
                search_alg=OptunaSearch(suggest, metric="best", mode="max", seed=job.seed),
                scheduler=ASHAScheduler(max_t=EVALUATIONS),
                num_samples=job.trials,
                max_concurrent_trials=CORES,
                resources_per_trial={"cpu": 1},
                reuse_actors=True,
                stop=Stopper(),
                storage_path=folder,
                verbose=0,
            )
            result = watch.result()
    finally:
        ray.shutdown()
    return {**result, "trials": len(done.trials)}
