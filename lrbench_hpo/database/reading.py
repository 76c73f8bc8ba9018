"""Answers of several queries, in one transaction each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import queries, rows, tables
from lrbench_hpo.database.failures import OnBadRow
from lrbench_hpo.database.origins import Origin, origins_by_id
from lrbench_hpo.records.run import Run, Task

# Of stored tasks that differ in their reference LR only: the latest, and the best of those.
_LATEST, _ALIKE = 500, 16


def rows_of(connection: sa.Connection, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
    """All rows of a query, their values by name."""
    return connection.execute(query).mappings().all()


def first_runs(
    connection: sa.Connection,
    query: sa.Select[Any],
    order: Sequence[sa.UnaryExpression[Any]],
    limit: int | None,
    tasks: sa.Select[Any] | None,
) -> list[Run]:
    """The first runs of a query; where they are of a few tasks, an index has each in order."""
    keys = [] if tasks is None or limit is None else connection.scalars(tasks).all()
    if limit is not None and 0 < len(keys) <= _ALIKE:
        query = queries.first(query, order, limit, queries.parts_of(keys))
    else:
        query = query.order_by(*order).limit(limit)
    return [run for _, run in rows.readable(connection, rows_of(connection, query))]


def with_origins(
    connection: sa.Connection, query: sa.Select[Any], on_bad: OnBadRow | None = None
) -> list[tuple[Run, Origin | None]]:
    """The runs of a query, each with its origin."""
    found = rows_of(connection, query)
    known = origins_by_id(connection, {row["origin_id"] for row in found}, on_bad)
    runs = rows.readable(connection, found, on_bad)
    return [(run, known.get(row["origin_id"])) for row, run in runs]


def evidence(
    connection: sa.Connection, tasks: Sequence[Task], limit: int, sources: Sequence[str] | None
) -> list[Run]:
    """`Database.evidence`."""
    found = best_then_newest(connection, queries.EVIDENCE, tasks, limit, sources)
    return rows.runs_of(found, {task.uid: task for task in tasks})


def best_then_newest(
    connection: sa.Connection,
    columns: Sequence[sa.ColumnElement[Any]],
    tasks: Sequence[Task],
    limit: int,
    sources: Sequence[str] | None,
) -> Sequence[sa.RowMapping]:
    """Rows of runs of tasks that are one: half of them the best, then the newest of the rest.

    Args:
        connection: to read from.
        columns: of the runs, their ``id`` among them.
        tasks: equal but for their reference LR.
        limit: how many rows at most.
        sources: the sources that count; all when None.
    """
    checks.whole("limit", limit)
    uids = [task.uid for task in tasks[-_LATEST:]]
    keys = connection.scalars(queries.best_tasks(uids, _ALIKE)).all()
    if not (parts := queries.parts_of(keys, sources)):
        return []
    best, half = queries.ranked(*columns), (limit + 1) // 2
    found = rows_of(connection, queries.first(best, queries.highest_first(), half, parts))
    others = sa.select(*columns)
    others = others.where(tables.runs.c.id.not_in([row["id"] for row in found]))
    newest, left = queries.newest_first(), limit - len(found)
    return [*found, *rows_of(connection, queries.first(others, newest, left, parts))]
