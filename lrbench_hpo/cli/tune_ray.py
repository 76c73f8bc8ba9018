"""``tune --ray``: the trials run on a Ray cluster."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import optuna
from rich.console import Console

from lrbench_hpo.cli import study_output, tables
from lrbench_hpo.cli.job import Job, RayOptions
from lrbench_hpo.cli.messages import INTERRUPTED, print_error
from lrbench_hpo.cli.ray_progress import RayProgress, reason_of
from lrbench_hpo.cli.search_start import with_reference_lr
from lrbench_hpo.cli.study_progress import StudyProgress
from lrbench_hpo.database import opened
from lrbench_hpo.ray_tune import cluster
from lrbench_hpo.ray_tune import search as ray_search
from lrbench_hpo.ray_tune.cluster import Share
from lrbench_hpo.ray_tune.node_data import path_of
from lrbench_hpo.ray_tune.record_runs import RecordRuns
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Run, Task

# The settings of a search that training needs, too.
_OF_TRAINING = ("max_iterations", "batch_size", "optimizer")


def tune_ray(job: Job, options: RayOptions) -> int:
    """Run a job on Ray; the exit status."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = checked_storage(job.storage)
    # What can be checked without a cluster is checked before one is joined or started.
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
        tables.print_line(console, search.describe(address))
        unstored: tuple[Run, ...] = ()
        try:
            ended = search.run(console, storage)
        finally:
            unstored = search.record.flush()
            study = search.searcher.study
            study_output.finish(console, study, unstored, search.record.file, job.json_file)
        if not ended:
            study_output.print_how_to_resume(console, job.study_name)
            return INTERRUPTED
        if why := search.failure():
            print_error(why)
            return 1
        search.test(console)
        study_output.print_test(console, study, job.json_file)
    return 1 if unstored else 0


class Search:
    """A search on the connected cluster, from its checks to the test of the winner.

    Args:
        console: where to print what takes long.
        job: what to search.
        options: of ``--ray``.
    """

    def __init__(self, console: Console, job: Job, options: RayOptions) -> None:
        self.job = job
        self.scheduler_name = options.scheduler
        self.share: Share = cluster.share_of(
            options.cpus, options.gpus, options.concurrent, trials=job.trials
        )
        self.population = _population(job, self.share)
        # Trials of Ray. With the last population, there may be more policies than --trials.
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
        if self.population:
            self.config["executor"] = job.population.executor
            self.config["early_stopping"] = job.population.early_stopping
        report = partial(tables.print_line, console)
        checked = ray_search.check(self.config, self.share, report)
        self.record = RecordRuns(job.database)
        known = _known_of_data(checked["task"])
        settings = with_reference_lr(
            console,
            job,
            checked["dataset"],
            known,
            job.database,
            measure=partial(self._range_test, Task.from_dict(checked["task"]), report),
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

    def _range_test(self, task: Task, report: Callable[[str], None], budget: int) -> RangeTest:
        """Run a range test on the cluster, and store it from here."""
        config = {**self.config, "max_iterations": budget}
        result = ray_search.range_test(config, self.share, report)
        with opened(self.job.database) as db:
            db.add_range_test(task, result)
        return result

    def describe(self, address: str) -> str:
        """Describe in one line where trials run, how many at once, and the share of each."""
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
        """Run the trials; whether all of them ended."""
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
            tables.print_line(
                console,
                f"{self.job.study_name!r} was begun with {shown.trials} trials, which stays so: "
                "another --study-name begins a new search, which starts from its results",
            )
        # Ray marks the trials that Ctrl-C ended as finished, but never reports their end.
        return len(self._ended) >= shown.trials and not self.searcher.live

    def failure(self) -> str | None:
        """Why all trials have failed, if they have."""
        failed = [trial for trial in self._ended if trial.status == trial.ERROR]
        if not failed or len(failed) < len(self._ended):
            return None
        return f"all {len(failed)} trials failed: {reason_of(failed[0])}"

    def test(self, console: Console) -> None:
        """Measure the winner on the test split."""
        study = self.searcher.study
        if ray_search.checkpoint_of_winner(study, self._ended) is None:
            tables.print_line(console, study_output.TRAINED_AGAIN)
        ray_search.test(study, self._ended, self.config, self.share)


def _population(job: Job, share: Share) -> int | None:
    """The number of policies in a trial of Ray; by default, as many as pay.

    A GPU trains more of them at once. On a CPU they take turns, but early stopping needs others
    to compare with.
    """
    if job.population.size is None:
        return None
    return min(job.population.size or (8 if share.gpus else 4), job.trials)


def _known_of_data(task: dict[str, Any]) -> dict[str, Any]:
    """The fields of a task that come from the data."""
    return {name: task[name] for name in ("num_classes", "num_train", "image_shape")}


def _data_folder(data: str | None) -> dict[str, str]:
    given = data or os.environ.get("LRBENCH_DATA")
    return {"data": str(Path(given).expanduser().absolute())} if given else {}


def checked_storage(storage: str | None) -> str | None:
    """The folder or URL where Ray keeps an experiment, in the form that Ray expects.

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
