"""``explain``: why a trial got its LR policy."""

from __future__ import annotations

import json

import click

from lrbench_hpo.cli import filters, options


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
    """Why TRIAL of STUDY got its policy, what was expected of it, and what came of it.

    For example: lrbench-hpo explain digits-lenet 7 --storage sqlite:///study.db
    """
    from lrbench_hpo.cli import study_output, tables
    from lrbench_hpo.exchange.tools.optuna_study import open_study as opened
    from lrbench_hpo.study.explanation import explain as explained

    found = explained(opened(storage, study), trial)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    study_output.say(tables.console(), str(found))
