"""The few things in which SQLite and PostgreSQL differ."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lrbench_hpo.database import tables
from lrbench_hpo.database.location import sqlite_file

AT_ONCE = 500  # values of one statement, which holds a limited number
TRIES = 20  # to make a row that another process removes at the same time


def insert_new(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that leaves rows alone whose uid is there."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing(index_elements=["uid"])
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing(index_elements=["uid"])


def schema_name(connection: sa.Connection) -> str | None:
    """The schema that the tables are in; None where the server's search path names it."""
    found: str | None = connection.get_execution_options().get("schema_translate_map", {}).get(None)
    return found


def lock_for_migration(connection: sa.Connection) -> None:
    """Wait until no other process migrates this database; the transaction's end lets go.

    SQLite's transactions that write hold its only lock from their start.
    """
    if connection.dialect.name == "postgresql":
        # Whichever way the schema is named: by the URL, or by the server's search path.
        schema = schema_name(connection)
        where = sa.func.current_schema() if schema is None else sa.literal(schema)
        key = sa.literal("lrbench_hpo migration ") + sa.cast(where, sa.Text)
        # Another process may be at it, with millions of rows.
        connection.execute(sa.select(sa.func.set_config("lock_timeout", "10min", True)))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(key))))


def size_in_bytes(connection: sa.Connection) -> int | None:
    """What the tables take on the server's disk, with their indexes; None where none is asked."""
    if connection.dialect.name != "postgresql":
        return None
    from sqlalchemy.dialects import postgresql

    schema, quote = schema_name(connection), connection.dialect.identifier_preparer.quote
    prefix = f"{quote(schema)}." if schema else ""
    names = [prefix + table.name for table in tables.metadata.sorted_tables]
    sizes = [sa.func.pg_total_relation_size(sa.cast(name, postgresql.REGCLASS)) for name in names]
    return sum(connection.execute(sa.select(*sizes)).one())


def identity(connection: sa.Connection) -> str:
    """What distinguishes this database from all others, however its URL is written."""
    url = connection.engine.url
    if connection.dialect.name != "postgresql":
        file = sqlite_file(url)
        if file is None:
            return f"memory {id(connection.engine.pool)}"
        there = file.stat()
        return f"file {there.st_dev} {there.st_ino}"
    from sqlalchemy.dialects import postgresql

    schema, quote = schema_name(connection), connection.dialect.identifier_preparer.quote
    name = f"{quote(schema)}.{tables.runs.name}" if schema else tables.runs.name
    database = sa.text("(SELECT oid FROM pg_database WHERE datname = current_database())")
    table = sa.cast(sa.cast(name, postgresql.REGCLASS), postgresql.OID)
    # A restored dump has the same birthday, and other numbers.
    born = sa.select(sa.func.min(tables.schema.c.applied_at)).scalar_subquery()
    found = connection.execute(sa.select(database, table, born)).one()
    return "server " + " ".join(map(str, found))
