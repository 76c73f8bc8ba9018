"""``tune --ray``: the main job, with its trials on a Ray cluster."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrbench_hpo.cli import study_output, tables
from lrbench_hpo.cli.job import Job, OnRay
from lrbench_hpo.cli.search_start import search_settings
from lrbench_hpo.cli.tune_local import INTERRUPTED
from lrbench_hpo.records.run import Task

if TYPE_CHECKING:
    from rich.console import Console

    from lrbench_hpo.ray_tune.cluster import Share
    from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
    from lrbench_hpo.records.range_test import RangeTest
    from lrbench_hpo.records.run import Run

# Of these, the trainable wants to know what is given; the rest is the searcher's alone.
_OF_TRAINING = ("max_iterations", "batch_size", "optimizer")


def tune_ray(job: Job, options: OnRay) -> int:
    """Run a job on Ray; the exit status."""
    import optuna

    from lrbench_hpo.database import opened
    from lrbench_hpo.ray_tune import cluster
    from lrbench_hpo.ray_tune.searcher import LRBenchSearcher

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = checked_storage(job.storage)
    # What is wrong without a cluster is said before one is asked.
    cluster.scheduler_for(options.scheduler, max_iterations=1)
    cluster.checked_amounts(options.cpus, options.gpus, options.concurrent)
    LRBenchSearcher(objective=job.settings["objective"])
    with opened(job.database) as db:
        db.check_writable()
    console = tables.console()
    with cluster.connected(options.address) as address:
        search = Search(console, job, options)
        study = search.searcher.study
        study_output.print_start(console, study)
        study_output.say(console, search.describe(address))
        unstored: tuple[Run, ...] = ()
        try:
            ended = search.run(console, storage)
        finally:
            unstored = search.record.flush()
            study = search.searcher.study
            study_output.finish(console, study, unstored, search.record.file, job.json_file)
        if not ended:
            study_output.print_how_to_go_on(console, job.study_name)
            return INTERRUPTED
        if why := search.failure():
            click.echo(f"lrbench-hpo: {why}", err=True)
            return 1
        search.test(console)
        study_output.print_test(console, study, job.json_file)
    return 1 if unstored else 0


class Search:
    """A search on the cluster that is connected, from its checks to the test of the winner.

    Args:
        console: where to tell what takes long.
        job: what to search.
        options: of ``--ray``.
    """

    def __init__(self, console: Console, job: Job, options: OnRay) -> None:
        from lrbench_hpo.ray_tune import cluster
        from lrbench_hpo.ray_tune import search as ray_search
        from lrbench_hpo.ray_tune.node_data import path_of
        from lrbench_hpo.ray_tune.record_runs import RecordRuns
        from lrbench_hpo.ray_tune.searcher import LRBenchSearcher

        self.job = job
        self.scheduler_name = options.scheduler
        self.share: Share = cluster.share_of(
            options.cpus, options.gpus, options.concurrent, trials=job.trials
        )
        self.population = _population(job, self.share)
        # Of Ray's; the policies of the last population may be more than were asked for.
        self.trials = math.ceil(job.trials / (self.population or 1))
        concurrent = min(self.share.concurrent, self.trials)
        self.share = dataclasses.replace(self.share, concurrent=concurrent)
        given = {**job.training, **{name: job.settings[name] for name in _OF_TRAINING}}
        self.config: dict[str, Any] = {
            "dataset": path_of(job.dataset),
            "model": job.model,
            **{name: value for name, value in given.items() if value is not None},
            **_data_folder(job.training["data"]),
        }
        together = {"executor": job.executor, "early_stopping": job.early_stopping}
        self.config |= together if self.population else {}
        tell = partial(study_output.say, console)
        checked = ray_search.check(self.config, self.share, tell)
        self.record = RecordRuns(job.database)
        known = _known_of_data(checked["task"])
        settings = search_settings(
            *(console, job, checked["dataset"], known, job.database),
            partial(self._measured, Task.from_dict(checked["task"]), tell),
        )
        self.searcher: LRBenchSearcher = LRBenchSearcher(
            checked["dataset"],
            job.model,
            database=job.database,
            task=known,
            seed=job.training["seed"],
            population=self.population,
            **settings,
        )
        budget = self.searcher.settings.scale.max_iterations
        self.config["max_iterations"] = budget
        self.scheduler = cluster.scheduler_for(self.scheduler_name, budget)
        seed = job.training["seed"]
        stored = ray_search.stored_trainings(job.database, checked, budget, seed)
        self.searcher.recall(stored)
        self._ended: list[Any] = []

    def _measured(self, task: Task, tell: Callable[[str], None], budget: int) -> RangeTest:
        """A range test where trials will run, stored from here."""
        from lrbench_hpo.database import opened
        from lrbench_hpo.ray_tune import search as ray_search

        config = {**self.config, "max_iterations": budget}
        result = ray_search.range_test(config, self.share, tell)
        with opened(self.job.database) as db:
            db.add_range_test(task, result)
        return result

    def describe(self, address: str) -> str:
        """One line: where trials run, how many at once, with what each."""
        share = self.share
        where = "a Ray of your own on this machine" if address == "local" else f"Ray at {address}"
        each = f"{share.cpus:g} CPU{'s' if share.cpus != 1 else ''}"
        if share.gpus:
            each += f" and {share.gpus:g} GPU{'s' if share.gpus != 1 else ''}"
        what = f"{share.concurrent} trials at once"
        if self.population:
            what = f"{self.trials} populations of {self.population}, {share.concurrent} at once"
        return f"on {where}: {what}, {each} each, scheduler {self.scheduler_name}"

    def run(self, console: Console, storage: str | None) -> bool:
        """Run the trials; whether all of them came to an end."""
        from lrbench_hpo.cli.progress import StudyProgress
        from lrbench_hpo.cli.ray_progress import RayProgress
        from lrbench_hpo.ray_tune import search as ray_search

        budget = self.config["max_iterations"]
        policies = self.trials * (self.population or 1)
        with StudyProgress(console, policies, budget) as progress:
            shown = RayProgress(progress, self.searcher)
            self._ended = ray_search.run(
                self.searcher,
                self.config,
                share=self.share,
                trials=self.trials,
                scheduler=self.scheduler,
                storage=storage,
                name=self.job.study_name,
                callbacks=[self.record, shown],
            )
        if shown.trials != self.trials:
            study_output.say(
                console,
                f"{self.job.study_name!r} was begun with {shown.trials} trials, which stays so: "
                "another --study-name begins a new search, which starts from its results",
            )
        # Ray marks the trials that Ctrl-C ended like finished ones, but never tells of their end.
        return len(self._ended) >= shown.trials and not self.searcher.live

    def failure(self) -> str | None:
        """Why all trials have failed, if they have."""
        from lrbench_hpo.cli.ray_progress import reason_of

        failed = [trial for trial in self._ended if trial.status == trial.ERROR]
        if not failed or len(failed) < len(self._ended):
            return None
        return f"all {len(failed)} trials failed: {reason_of(failed[0])}"

    def test(self, console: Console) -> None:
        """Measure the winner on the test split."""
        from lrbench_hpo.ray_tune import search as ray_search

        study = self.searcher.study
        if ray_search.checkpoint_of_winner(study, self._ended) is None:
            study_output.say(console, study_output.TRAINED_AGAIN)
        ray_search.test(study, self._ended, self.config, self.share)


def _population(job: Job, share: Share) -> int | None:
    """Policies in a trial of Ray; where 0 are asked for, as many as pay.

    A GPU has room for more. On a CPU they take turns: stopping needs others to compare with.
    """
    if job.population is None:
        return None
    return min(job.population or (8 if share.gpus else 4), job.trials)


def _known_of_data(task: dict[str, Any]) -> dict[str, Any]:
    """What the data themselves tell of a task."""
    return {name: task[name] for name in ("num_classes", "num_train", "image_shape")}


def _data_folder(data: str | None) -> dict[str, str]:
    given = data or os.environ.get("LRBENCH_DATA")
    return {"data": str(Path(given).expanduser().absolute())} if given else {}


def checked_storage(storage: str | None) -> str | None:
    """The folder or URL that Ray keeps an experiment in, in the form that Ray wants.

    Raises:
        click.UsageError: for an Optuna storage, or a folder that cannot be made.
    """
    if storage is None:
        return None
    scheme = storage.partition("://")[0] if "://" in storage else ""
    if scheme.startswith(("sqlite", "postgresql", "mysql", "journal", "redis")):
        raise click.UsageError(
            f"--storage {scheme}://…: with --ray, expected a folder or URL that all nodes can "
            "write to, such as a shared folder or s3://bucket/path"
        )
    if scheme:
        return storage
    folder = Path(storage).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(
            f"--storage {storage}: {error.strerror}: expected a folder that can be written"
        ) from None
    return str(folder)
