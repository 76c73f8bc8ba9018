"""``explain``: why a trial got its LR policy."""

from __future__ import annotations

import json

import click

from lrbench_hpo.cli import filters, options, tables
from lrbench_hpo.exchange.tools.optuna_study import open_study
from lrbench_hpo.study import explanation


@click.command()
@click.argument("study")
@click.argument("trial", type=int)
@click.option(
    "--storage",
    metavar="URL",
    required=True,
    callback=options.no_password,
    help="The Optuna storage that the study is in: sqlite:///FILE, journal:///FILE or a server.",
)
@filters.as_json
def explain(study: str, trial: int, storage: str, as_json: bool) -> None:
    """Explain why TRIAL of STUDY got its policy.

    Also what was expected of the policy, and what it has reached.

    For example: lrbench-hpo explain digits-lenet 7 --storage sqlite:///study.db
    """
    found = explanation.explain(open_study(storage, study), trial)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    tables.print_line(tables.console(), str(found))
