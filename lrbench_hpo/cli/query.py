"""``recommend`` and ``rank``: questions that need no training."""

from __future__ import annotations

import json
from typing import Any

import click

from lrbench_hpo.cli import filters, options, tables
from lrbench_hpo.database.leaderboard import leaderboards
from lrbench_hpo.prior.question import Question


@click.command()
@options.task
@click.option("-n", "count", default=5, show_default=True, help="How many policies.")
@filters.as_json
def recommend(dataset: str, model: str, count: int, as_json: bool, **settings: Any) -> None:
    """Policies worth trying on a task, each with its evidence."""
    prior = Question(dataset, model, **settings).prior(count)
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in prior.portfolio], indent=2))
        return
    console = tables.console()
    title = (
        f"{dataset} / {model}, {prior.scale.max_iterations:,} iterations, reference LR "
        f"{prior.scale.reference_lr:g} ({prior.reference_origin})"
    )
    rows = [
        (str(rank), str(entry.policy), entry.why)
        for rank, entry in enumerate(prior.portfolio, start=1)
    ]
    console.print(tables.table(title, (">#", "policy", "why"), rows))
    console.print(prior.summary, markup=False, highlight=False)


@click.command()
@click.argument("dataset")
@click.argument("model")
@options.database
@click.option("-n", "count", default=20, show_default=True, help="How many policies.")
@filters.as_json
@click.option("--by", default="score", show_default=True, help="score, or top1 alone.")
def rank(
    dataset: str, model: str, database: str | None, count: int, as_json: bool, by: str
) -> None:
    """Rank the stored policies of a task.

    Policies whose results differ by less than the noise share a rank.
    """
    groups = leaderboards(dataset, model, database=database, limit=count, by=by)
    if as_json:
        click.echo(json.dumps([group.to_dict() for group in groups], indent=2))
        return
    for group in groups:
        rows = [
            (
                str(entry.rank),
                str(entry.policy),
                f"{entry.mean:.4f}",
                tables.number(entry.std, ".4f"),
                str(entry.n),
            )
            for entry in group.ranked
        ]
        columns = (">rank", "policy", f">{by}", ">std", ">runs")
        tables.console().print(tables.table(group.title, columns, rows))
