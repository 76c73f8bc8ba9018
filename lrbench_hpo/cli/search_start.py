"""The range test that `tune` runs by itself where nobody knows a task's LR scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lrbench_hpo.cli import study_output
from lrbench_hpo.cli.job import Job

if TYPE_CHECKING:
    from rich.console import Console

    from lrbench_hpo.database import Database
    from lrbench_hpo.records.range_test import RangeTest

_OF_THE_TASK = ("max_iterations", "batch_size", "optimizer")
_OF_THE_PRIOR = (*_OF_THE_TASK, "functions", "search_space", "trusted_sources")


def search_settings(
    console: Console,
    job: Job,
    dataset: str,
    task: Mapping[str, Any],
    database: Database | str | None,
    measure: Callable[[int], RangeTest],
) -> dict[str, Any]:
    """The settings of a job's search, with a range test as its reference LR where one is needed.

    Args:
        console: where its result is told.
        job: what to search.
        dataset: the name that results are stored under.
        task: what the data themselves tell of the task.
        database: the LR database.
        measure: runs the test for trials of this many iterations.
    """
    settings = dict(job.settings)
    if not job.range_test or settings["reference_lr"] is not None:
        return settings
    from lrbench_hpo.prior.question import Question

    asked = {name: settings[name] for name in _OF_THE_PRIOR}
    prior = Question(dataset, job.model, database=database, task=task, **asked).prior(n=1)
    if not prior.needs_range_test:
        return settings
    budget = prior.scale.max_iterations
    study_output.say(
        console,
        "no similar task tells the LR scale: an LR range test comes first (--no-range-test)",
    )
    result = measure(budget)
    share = f"{100 * result.iterations / budget:.0f} % of a trial"
    study_output.say(console, f"range test: {result} ({share})")
    return {**settings, "reference_lr": result}


def measured_here(console: Console, job: Job, database: Database, max_iterations: int) -> RangeTest:
    """Run the test in this process, with a progress bar, and store it."""
    from rich.progress import MofNCompleteColumn, TextColumn

    from lrbench_hpo.cli.progress import progress_bar
    from lrbench_hpo.lr_range import stored as range_testing

    amount = (MofNCompleteColumn(), TextColumn("iterations"))
    settings = {name: job.settings[name] for name in _OF_THE_TASK if name != "max_iterations"}
    with progress_bar(console, *amount, transient=True) as bar:
        shown = bar.add_task("range test", total=None)
        return range_testing.range_test(
            job.dataset,
            job.model,
            max_iterations=max_iterations,
            database=database,
            on_progress=lambda done, planned: bar.update(shown, completed=done, total=planned),
            **settings,
            **job.training,
        )
