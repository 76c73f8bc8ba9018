"""``db``: the LR database itself."""

from __future__ import annotations

import click

from lrbench_hpo.cli import options


@click.group("db")
def database_group() -> None:
    """Look into the LR database."""


@database_group.command()
@options.database
def stats(database: str | None) -> None:
    """What the database holds, and where it lies."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database import connect

    with connect(database) as db:
        tables.console().print(tables.database_stats(db))
