"""``db show``, ``best`` and ``similar``: what is stored, as tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lrbench_hpo.cli import filters, options

if TYPE_CHECKING:
    from lrbench_hpo.database import Database
    from lrbench_hpo.errors import UnknownNameError
    from lrbench_hpo.records.run import Run, Task

UID_SHOWN = 10  # characters of a run's uid: enough to tell millions of runs apart


@click.command()
@click.argument("run", required=False)
@options.database
@filters.runs
@click.option("-n", "count", type=int, help="How many runs at most. Default: 20.")
@filters.as_json
def show(
    run: str | None,
    database: str | None,
    count: int | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """The stored runs that fit all that is given, newest first; or the one RUN, whole.

    RUN is the run's uid, or the beginning of it, as the table shows it.
    """
    from lrbench_hpo.cli import one_run, tables
    from lrbench_hpo.database import connect
    from lrbench_hpo.database.failures import shown

    if run is not None:
        given = [name for name, value in {**chosen, "n": count}.items() if value is not None]
        if given:
            dashes = "-" if given[0] == "n" else "--"
            raise click.UsageError(f"{dashes}{given[0]} chooses among runs: RUN is one already")
        with connect(database) as db:
            one_run.show(db, run, as_json=as_json)
        return
    with connect(database) as db:
        found = db.find(**chosen, limit=20 if count is None else count)
        location = shown(db.url)
    if as_json:
        click.echo(json.dumps([_entry(each) for each in found], indent=2))
        return
    title = f"{len(found):,} runs in {location}, newest first"
    columns = ("run", "when (UTC)", "task", "policy", "status")
    rows = [
        (
            each.uid[:UID_SHOWN],
            each.created_at[:16].replace("T", " "),
            f"{each.task.dataset} / {each.task.model}",
            str(each.policy),
            each.status,
            *_results(each),
            each.source,
        )
        for each in found
    ]
    tables.console().print(tables.table(title, (*columns, *_RESULTS, "source"), rows))


@click.command()
@click.argument("dataset")
@click.argument("model")
@options.database
@click.option("-n", "count", default=5, show_default=True, help="How many runs at most.")
@filters.as_json
def best(dataset: str, model: str, database: str | None, count: int, as_json: bool) -> None:
    """The runs of a task with the highest score, best first."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database import connect
    from lrbench_hpo.records.score import score_run

    with connect(database) as db:
        found = db.best(dataset, model, n=count)
        if not found:
            raise _nothing(db, dataset, model)
    if as_json:
        click.echo(json.dumps([{"score": score_run(r), **_entry(r)} for r in found], indent=2))
        return
    rows = [
        (
            f"{score_run(each):.4f}",
            str(each.policy),
            *_results(each),
            f"{each.max_iterations:,}",
            each.split,
            each.source,
            each.uid[:UID_SHOWN],
        )
        for each in found
    ]
    columns = (">score", "policy", *_RESULTS, ">iterations", "split", "source", "run")
    title = f"The best runs of {dataset} / {model}"
    tables.console().print(tables.table(title, columns, rows))


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
    """The stored tasks that are most similar to DATASET MODEL, and what is known of them."""
    from lrbench_hpo import checks
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database import connect
    from lrbench_hpo.prior.evidence import MIN_SIMILARITY
    from lrbench_hpo.prior.similarity import similarity
    from lrbench_hpo.records.tasks import recipe_for, task_for

    checks.whole("n", count)
    recipe = recipe_for(dataset, model, batch_size=batch_size, optimizer=optimizer)
    asked = task_for(dataset, model, recipe)
    with connect(database) as db:
        groups = _by_recipe(db.tasks())
        alike = sorted(groups, key=lambda group: -similarity(asked, group[0]))[:count]
        rated = [(similarity(asked, group[0]), *_counted(db, group), group[0]) for group in alike]
    if as_json:
        entries = [
            {"similarity": alike, "runs": runs, "best_top1": top1, "task": task.to_dict()}
            for alike, runs, top1, task in rated
        ]
        click.echo(json.dumps(entries, indent=2))
        return
    rows = [
        (
            f"{100 * alike:.0f} %",
            f"{task.dataset} / {task.model}",
            task.optimizer or "-",
            tables.number(task.batch_size),
            f"{runs:,}",
            tables.share(top1),
        )
        for alike, runs, top1, task in rated
    ]
    columns = (">similar", "task", "optimizer", ">batch size", ">runs", ">best Top-1")
    least = f"below {100 * MIN_SIMILARITY:.0f} % a task says nothing about another"
    title = f"Tasks similar to {dataset} / {model} ({asked.optimizer}, batch {asked.batch_size})"
    tables.console().print(tables.table(f"{title}; {least}", columns, rows))


_RESULTS = (">Top-1", ">iterations to best", ">loss difference")


def _results(run: Run) -> tuple[str, str, str]:
    from lrbench_hpo.cli import tables

    return (
        tables.share(run.metrics.get("top1")),
        tables.number(run.metrics.get("iterations_to_best")),
        tables.number(run.metrics.get("loss_difference"), "+.4f"),
    )


def _entry(run: Run) -> dict[str, Any]:
    """A run in JSON types, without the curve, which is not read for lists."""
    fields = run.to_dict()
    del fields["curve"]
    return {"uid": run.uid, "run": fields}


def _by_recipe(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that differ in their reference LR only, together."""
    import dataclasses

    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(dataclasses.replace(task, reference_lr=None).uid, []).append(task)
    return list(groups.values())


def _counted(db: Database, group: Sequence[Task]) -> tuple[int, float | None]:
    """How many runs tasks have together, and the best Top-1 of them all."""
    counts = db.task_counts(group)
    known = [top1 for _, _, top1 in counts if top1 is not None]
    return sum(runs for _, runs, _ in counts), max(known, default=None)


def _nothing(db: Database, dataset: str, model: str) -> UnknownNameError:
    from lrbench_hpo.errors import UnknownNameError

    known = dict.fromkeys(f"{task.dataset} {task.model}" for task in db.tasks())
    return UnknownNameError.among(
        "task", f"{dataset} {model}", known, "No complete run is stored of it: tune it first"
    )
