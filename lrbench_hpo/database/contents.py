"""What a database holds as a whole, and how some of it is removed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import queries, tables
from lrbench_hpo.database.dialects import size_in_bytes
from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import sqlite_file
from lrbench_hpo.database.migrations import schema_version
from lrbench_hpo.database.paper import SOURCE as PAPER


@dataclass(frozen=True)
class DatabaseStats:
    """What a database holds.

    Attributes:
        location: its file, or its URL without the password.
        size_bytes: of the file, or of the tables on a server; None for one in memory.
        schema_version: the last migration that was done.
        runs: number of runs.
        tasks: number of tasks.
        by_source: runs per source, most first.
        by_status: runs per status, most first.
        range_tests: number of LR range tests.
    """

    location: str
    size_bytes: int | None
    schema_version: int
    runs: int
    tasks: int
    by_source: dict[str, int]
    by_status: dict[str, int]
    range_tests: int


def statistics(connection: sa.Connection) -> DatabaseStats:
    """Count everything."""
    url = connection.engine.url
    file = sqlite_file(url)
    # Source and status are one index: one pass over it answers both.
    found = queries.counts(connection, tables.runs.c.source, tables.runs.c.status)
    by_source, by_status = Counter[str](), Counter[str]()
    for source, status, number in found:  # as text: another program may have written anything
        by_source[str(source)] += number
        by_status[str(status)] += number
    return DatabaseStats(
        location=shown(url),
        size_bytes=file.stat().st_size if file is not None else size_in_bytes(connection),
        schema_version=schema_version(connection),
        runs=by_source.total(),
        tasks=_number(connection, tables.tasks),
        by_source=dict(sorted(by_source.items(), key=lambda item: (-item[1], item[0]))),
        by_status=dict(sorted(by_status.items(), key=lambda item: (-item[1], item[0]))),
        range_tests=_number(connection, tables.range_tests),
    )


def _number(connection: sa.Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def forget_runs(
    connection: sa.Connection,
    source: str | None,
    file: str | None,
    *,
    checksum: str | None = None,
    dry_run: bool,
) -> int:
    """Remove the runs of a source or file, and whatever is left without runs then.

    Those are curves, tasks and origins; a source's LR range tests go too.

    Returns:
        How many runs there were.
    """
    runs, tasks, origins = tables.runs, tables.tasks, tables.origins
    if source is not None:
        if source == PAPER:
            rule = "the published results, without which there is no LR database"
            checks.refuse("source", source, f"{rule}; trusted_sources leaves them out")
        which = runs.c.source == source
    else:
        imported = sa.select(origins.c.id)
        if file is not None:
            imported = imported.where(origins.c.file == file)
        if checksum is not None:
            imported = imported.where(origins.c.checksum == checksum)
        which = runs.c.origin_id.in_(imported)
    if dry_run:
        return connection.scalar(sa.select(sa.func.count()).select_from(runs).where(which)) or 0
    if source is not None:
        tests = tables.range_tests
        connection.execute(sa.delete(tests).where(tests.c.source == source))
    ids = sa.select(runs.c.id).where(which)
    # By hand: SQLite does it by itself, a server only as the tables' owner has set it.
    connection.execute(sa.delete(tables.curves).where(tables.curves.c.run_id.in_(ids)))
    removed = connection.execute(sa.delete(runs).where(which)).rowcount
    left = sa.exists().where(runs.c.task_id == tasks.c.id)
    connection.execute(sa.delete(tasks).where(~left))
    _forget_origins(connection)
    return removed


def _forget_origins(connection: sa.Connection) -> None:
    """Remove imports that no run came by; an origin before another one goes after that."""
    runs, origins = tables.runs, tables.origins
    later = origins.alias()
    unused = (
        origins.c.file.is_not(None),
        ~sa.exists().where(runs.c.origin_id == origins.c.id),
        ~sa.exists().where(later.c.before_id == origins.c.id),
        ~sa.exists().where(tables.range_tests.c.origin_id == origins.c.id),
    )
    while connection.execute(sa.delete(origins).where(*unused)).rowcount:
        pass
