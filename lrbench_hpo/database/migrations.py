"""The steps that bring a database to this package's schema, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa

from lrbench_hpo.database import paper, range_tests, rows, shared_schema, tables
from lrbench_hpo.database.backup import back_up
from lrbench_hpo.database.dialects import lock_for_migration, schema_name
from lrbench_hpo.database.engine import writing
from lrbench_hpo.database.failures import one_line, shown
from lrbench_hpo.database.transactions import in_transaction
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.records.run import utc_timestamp

_MAY_NOT = "42501"  # SQLSTATE of a privilege that a role lacks


@dataclass(frozen=True)
class Migration:
    """One step: from version - 1 to version, wholly or not at all."""

    version: int
    description: str
    apply: Callable[[sa.Connection], object]


def _born(connection: sa.Connection) -> None:
    """All tables, with the paper's rows: there is no database without them."""
    schema = schema_name(connection)
    if schema and not sa.inspect(connection).has_schema(schema):
        connection.execute(sa.schema.CreateSchema(schema))
    tables.metadata.create_all(connection)
    rows.insert_runs(connection, ((run, None) for run in paper.paper_runs()))


# Step 1 makes the tables as they are today: a later step looks first whether its change is there.
MIGRATIONS: Sequence[Migration] = (
    Migration(1, "tables, and the paper's rows", _born),
    Migration(2, "scores, origins, packed curves", shared_schema.apply),
    Migration(3, "LR range tests", range_tests.apply_migration),
)


def schema_version(connection: sa.Connection) -> int:
    """The last step that was done here; 0 for an empty database."""
    there = sa.inspect(connection).has_table(tables.schema.name, schema=schema_name(connection))
    if not there:
        return 0
    return connection.scalar(sa.select(sa.func.max(tables.schema.c.version))) or 0


def migrate(engine: sa.Engine, steps: Sequence[Migration] = MIGRATIONS) -> int:
    """Do the steps that a database lacks; one that lacks none is not written to.

    Several processes may do this at once: each step looks again once it holds the lock. Before the
    first step changes an SQLite file, the file is copied.

    Args:
        engine: of `open_engine`.
        steps: in order of their versions; none, for a database that is not to be changed.

    Returns:
        The database's version, which is that of the last step.

    Raises:
        DatabaseError: for a newer database, or one that cannot be read or written. A step that
            fails leaves the database at the version before it.
    """
    with one_line(engine.url):
        with engine.begin() as connection:
            version = before = schema_version(connection)
        for step in steps:
            if step.version > version:
                # One copy, of what was found: the steps after the first change a copied file.
                kept = 0 < before == step.version - 1
                work = partial(_do, step=step, kept=kept)
                with _explained(engine.url, before):
                    version = in_transaction(writing(engine), work)
    here = (steps or MIGRATIONS)[-1].version
    if version < here:
        what = f"of schema {version}, not {here}" if version else "no LR database"
        raise DatabaseError(f"{shown(engine.url)}: {what}: {_open_once(engine.url)}")
    if version > here:
        known = f"made by a newer lrbench-hpo (schema {version}, known here: {here})"
        raise DatabaseError(f"{shown(engine.url)}: {known}: pip install --upgrade lrbench-hpo")
    return version


def _open_once(url: sa.URL) -> str:
    where = url.database if url.get_backend_name() == "sqlite" else "URL"
    return f"its owner must open it once, as by: lrbench-hpo db stats --database {where}"


@contextmanager
def _explained(url: sa.URL, version: int) -> Iterator[None]:
    """Say what a role that may not migrate can do about it."""
    try:
        yield
    except sa.exc.ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != _MAY_NOT:
            raise
        what = f"it is of schema {version}" if version else "it has no tables yet"
        words = str(error.orig).splitlines()[0]
        raise DatabaseError(
            f"{shown(url)}: {what}, and this role may not change that ({words}): {_open_once(url)}"
        ) from None


def _do(connection: sa.Connection, step: Migration, *, kept: bool) -> int:
    """Do a step; `kept`: there are data of a user, not just what an earlier step has made."""
    lock_for_migration(connection)
    version = schema_version(connection)
    if version >= step.version:  # another process was here first
        return version
    if kept:
        # What cannot be written to needs no copy: this writes nothing, but must be allowed to.
        connection.execute(sa.update(tables.schema).where(sa.false()).values(version=version))
        back_up(connection.engine.url, version)
    step.apply(connection)
    done = {
        "version": step.version,
        "description": step.description,
        "applied_at": utc_timestamp(datetime.now(UTC)),
    }
    connection.execute(sa.insert(tables.schema).values(done))
    return step.version
