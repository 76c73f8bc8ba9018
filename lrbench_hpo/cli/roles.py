"""``db roles``: the SQL that gives a team's database its roles."""

from __future__ import annotations

import click

from lrbench_hpo.cli import options
from lrbench_hpo.database.location import database_url
from lrbench_hpo.database.roles import WRITER, role_statements

_HEAD = """\
-- The roles of the LR database {database!r}, schema {schema!r}: made, and given their rights.
-- Run it as a superuser, or as the database's owner who may create roles, as often as you like:
--   lrbench-hpo db roles | psql -v ON_ERROR_STOP=1 -d NAME
-- Then give a password to each role that needs one: \\password {writer}
BEGIN;"""


@click.command()
@options.database
@click.option("--schema", help="Where the tables are. Default: that of the URL, else public.")
@click.option("--owner", help="Role that makes and migrates tables. Default: lrbench_owner.")
@click.option("--writer", help="Role that adds runs and reads. Default: lrbench_writer.")
@click.option("--reader", help="Role that reads. Default: lrbench_reader.")
def roles(
    database: str | None,
    schema: str | None,
    owner: str | None,
    writer: str | None,
    reader: str | None,
) -> None:
    """Print the SQL that makes the roles of a PostgreSQL database.

    They are an owner, a writer and a reader. No connection is made. The names of database and
    schema come from the URL.
    """
    url = database_url(database)
    names = {"schema": schema, "owner": owner, "writer": writer, "reader": reader}
    given = {name: value for name, value in names.items() if value is not None}
    if url.get_backend_name() == "postgresql":
        asked = url.query.get("schema")
        given = ({"schema": asked} if isinstance(asked, str) else {}) | given
        given |= {"database": url.database} if url.database else {}
    statements = role_statements(**given)
    click.echo(
        _HEAD.format(
            database=given.get("database", "lrbench"),
            schema=given.get("schema", "public"),
            writer=given.get("writer", WRITER),
        )
    )
    click.echo("\n\n".join([*statements, "COMMIT;"]))
