"""``db similar``: the stored tasks that are similar to a given one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import click

from lrbench_hpo import checks
from lrbench_hpo.cli import filters, options, tables
from lrbench_hpo.database import Database, connect
from lrbench_hpo.prior.evidence import MIN_SIMILARITY
from lrbench_hpo.prior.similarity import similarity
from lrbench_hpo.records.run import Task
from lrbench_hpo.records.tasks import recipe_for, task_for


@click.command()
@click.argument("dataset")
@click.argument("model")
@options.database
@click.option("--batch-size", type=int, help="Images in an iteration.")
@click.option("--optimizer", help="sgd, nesterov, adam or adamw.")
@click.option("-n", "count", default=10, show_default=True, help="How many tasks at most.")
@filters.as_json
def similar(
    dataset: str,
    model: str,
    database: str | None,
    batch_size: int | None,
    optimizer: str | None,
    count: int,
    as_json: bool,
) -> None:
    """The stored tasks that are most similar to DATASET MODEL.

    Each with its similarity, the number of its runs and their best Top-1.
    """
    checks.whole("n", count)
    recipe = recipe_for(dataset, model, batch_size=batch_size, optimizer=optimizer)
    asked = task_for(dataset, model, recipe)
    with connect(database) as db:
        groups = _by_recipe(db.tasks())
        nearest = sorted(groups, key=lambda group: -similarity(asked, group[0]))[:count]
        rated = [(similarity(asked, group[0]), *_counted(db, group), group[0]) for group in nearest]
    if as_json:
        entries = [
            {"similarity": rating, "runs": runs, "best_top1": top1, "task": task.to_dict()}
            for rating, runs, top1, task in rated
        ]
        click.echo(json.dumps(entries, indent=2))
        return
    rows = [
        (
            f"{100 * rating:.0f} %",
            f"{task.dataset} / {task.model}",
            task.optimizer or "-",
            tables.number(task.batch_size),
            f"{runs:,}",
            tables.share(top1),
        )
        for rating, runs, top1, task in rated
    ]
    columns = (">similar", "task", "optimizer", ">batch size", ">runs", ">best Top-1")
    least = f"below {100 * MIN_SIMILARITY:.0f} % a task says nothing about another"
    title = f"Tasks similar to {dataset} / {model} ({asked.optimizer}, batch {asked.batch_size})"
    tables.console().print(tables.table(f"{title}; {least}", columns, rows))


def _by_recipe(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group the tasks that differ in their reference LR only."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(dataclasses.replace(task, reference_lr=None).uid, []).append(task)
    return list(groups.values())


def _counted(db: Database, group: Sequence[Task]) -> tuple[int, float | None]:
    """How many runs tasks have together, and the best Top-1 of them all."""
    counts = db.task_counts(group)
    known = [top1 for _, _, top1 in counts if top1 is not None]
    return sum(runs for _, runs, _ in counts), max(known, default=None)
