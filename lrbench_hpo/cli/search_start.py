"""The LR range test that `tune` runs first where the LR scale of a task is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from lrbench_hpo.cli.job import Job
from lrbench_hpo.cli.progress import range_test_progress
from lrbench_hpo.cli.tables import print_line
from lrbench_hpo.database import Database
from lrbench_hpo.lr_range import stored
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.range_test import RangeTest

_OF_THE_PRIOR = (
    "max_iterations",
    "batch_size",
    "optimizer",
    "functions",
    "search_space",
    "trusted_sources",
)


def with_reference_lr(
    console: Console,
    job: Job,
    dataset: str,
    task: Mapping[str, Any],
    database: Database | str | None,
    measure: Callable[[int], RangeTest],
) -> dict[str, Any]:
    """Complete the settings of a job's search: by a range test where no reference LR is known.

    Args:
        console: where the result of the test is printed.
        job: what to search.
        dataset: the name that results are stored under.
        task: the fields of the task that come from the data.
        database: the LR database.
        measure: runs the test for trials of this many iterations.
    """
    settings = dict(job.settings)
    if not job.range_test or settings["reference_lr"] is not None:
        return settings
    given = {name: settings[name] for name in _OF_THE_PRIOR}
    prior = Question(dataset, job.model, database=database, task=task, **given).prior(n=1)
    if not prior.needs_range_test:
        return settings
    budget = prior.scale.max_iterations
    print_line(
        console,
        "no similar task tells the LR scale: an LR range test comes first (--no-range-test)",
    )
    result = measure(budget)
    share = f"{100 * result.iterations / budget:.0f} % of a trial"
    print_line(console, f"range test: {result} ({share})")
    return {**settings, "reference_lr": result}


def range_test_here(
    console: Console, job: Job, database: Database, max_iterations: int
) -> RangeTest:
    """Run the test in this process, with a progress bar, and store it."""
    with range_test_progress(console) as on_progress:
        return stored.range_test(
            job.dataset,
            job.model,
            max_iterations=max_iterations,
            batch_size=job.settings["batch_size"],
            optimizer=job.settings["optimizer"],
            database=database,
            on_progress=on_progress,
            **job.training,
        )
