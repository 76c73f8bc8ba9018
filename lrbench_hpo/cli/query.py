"""``recommend``, ``rank`` and ``functions``: questions that need no training."""

from __future__ import annotations

import json
from typing import Any

import click

from lrbench_hpo.cli import options


@click.command()
@options.task
@click.option("-n", "count", default=5, show_default=True, help="How many policies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def recommend(dataset: str, model: str, count: int, as_json: bool, **settings: Any) -> None:
    """Policies worth trying on a task, each with its evidence."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.prior.question import Question

    prior = Question(dataset, model, **settings).prior(count)
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in prior.portfolio], indent=2))
        return
    console = tables.console()
    title = (
        f"{dataset} / {model}, {prior.scale.max_iterations:,} iterations, reference LR "
        f"{prior.scale.reference_lr:g} ({prior.reference_origin})"
    )
    console.print(tables.recommendations(title, prior.portfolio))
    console.print(prior.summary, markup=False, highlight=False)


@click.command()
@click.argument("dataset")
@click.argument("model")
@options.database
@click.option("-n", "count", default=20, show_default=True, help="How many policies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--by", default="score", show_default=True, help="score, or top1 alone.")
def rank(
    dataset: str, model: str, database: str | None, count: int, as_json: bool, by: str
) -> None:
    """Rank the stored policies of a task; policies within the noise share a rank."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database.leaderboard import leaderboards

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
        tables.console().print(
            tables.table(group.title, (">rank", "policy", f">{by}", ">std", ">runs"), rows)
        )


@click.command()
def functions() -> None:
    """The table of LR functions with their formulas."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.policies import DEFAULT_FUNCTIONS, FUNCTIONS

    rows = [
        (name, row.formula, ", ".join(row.parameters), "yes" if name in DEFAULT_FUNCTIONS else "")
        for name, row in FUNCTIONS.items()
    ]
    console = tables.console()
    columns = ("function", "g(t)", "parameters", "default")
    console.print(tables.table("LR(t) = |k0 - k1| g(t) + min(k0, k1)", columns, rows))
