"""``db``: the LR database itself."""

from __future__ import annotations

import dataclasses
import json

import click

from lrbench_hpo.cli import filters, options
from lrbench_hpo.cli.exchange import export_command, import_command, merge_command
from lrbench_hpo.cli.import_foreign import import_logs, import_optuna, import_ray
from lrbench_hpo.cli.provenance import forget, origins
from lrbench_hpo.cli.roles import roles
from lrbench_hpo.cli.show import best, show, similar
from lrbench_hpo.cli.sync import sync, waiting_lines


@click.group("db")
def database_group() -> None:
    """Look into the LR database, and share it."""


@database_group.command()
@options.database
@filters.as_json
def stats(database: str | None, as_json: bool) -> None:
    """What the database holds, where it lies, and what waits to be stored in it."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database import connect
    from lrbench_hpo.database.run_store import waiting_files

    with connect(database) as db:
        files = waiting_files(database)
        if as_json:
            waiting = {str(path): runs for path, runs in files}
            click.echo(json.dumps({**dataclasses.asdict(db.stats()), "waiting": waiting}, indent=2))
            return
        tables.console().print(tables.database_stats(db))
    for line in waiting_lines(files):
        click.echo(line)


_ABOUT = (show, best, similar, origins, forget, sync, roles)
_EXCHANGE = (export_command, import_command, merge_command, import_optuna, import_ray, import_logs)
for command in (*_ABOUT, *_EXCHANGE):
    database_group.add_command(command)
