"""``db show`` and ``best``: stored runs, as tables or JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from lrbench_hpo.cli import filters, one_run, options, tables
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.failures import shown
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run

UID_SHOWN = 10  # characters of a run's uid: enough to tell millions of runs apart
_RESULTS = (">Top-1", ">iterations to best", ">loss difference")


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
    """The stored runs, newest first; or one RUN in full.

    Options choose the runs of the list. RUN is the run's uid, or the beginning of it, as the table
    shows it.
    """
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
    with connect(database) as db:
        found = db.best(dataset, model, n=count)
        if not found:
            raise _unknown_task(db, dataset, model)
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


def _results(run: Run) -> tuple[str, str, str]:
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


def _unknown_task(db: Database, dataset: str, model: str) -> UnknownNameError:
    known = dict.fromkeys(f"{task.dataset} {task.model}" for task in db.tasks())
    return UnknownNameError.among(
        "task", f"{dataset} {model}", known, "No complete run is stored of it: tune it first"
    )
