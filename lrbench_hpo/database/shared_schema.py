"""Step 2 of the migrations: what a database needs that a team shares."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lrbench_hpo.database import curves, rows, tables
from lrbench_hpo.database.dialects import schema_name
from lrbench_hpo.database.failures import shown
from lrbench_hpo.errors import DatabaseError, LRBenchError, why
from lrbench_hpo.records.score import ScoreWeights

_OLD = "lrbench_curves_1"
_AT_ONCE = 500
_OLD_INDEXES = ("lrbench_runs_by_task", "lrbench_runs_by_time", "lrbench_runs_by_source")


def apply(connection: sa.Connection) -> None:
    """Add scores and origins to the runs, pack the curves, and index what queries look for."""
    schema = schema_name(connection)
    columns = sa.inspect(connection).get_columns(tables.runs.name, schema=schema)
    if any(column["name"] == "score" for column in columns):
        return  # step 1 made the tables so
    tables.origins.create(connection)
    _add_columns(connection)
    connection.execute(sa.update(tables.runs).values(score=_score()).where(*_ranked()))
    _rename_runs(connection)
    _replace_indexes(connection)
    _pack_curves(connection)


def _name(connection: sa.Connection, name: str) -> str:
    """A table's or index's name, quoted, with its schema."""
    prepare, schema = connection.dialect.identifier_preparer, schema_name(connection)
    return f"{prepare.quote(schema)}.{prepare.quote(name)}" if schema else prepare.quote(name)


def _add_columns(connection: sa.Connection) -> None:
    runs = _name(connection, tables.runs.name)
    kind = sa.Double().compile(connection.dialect)
    key = tables.runs.c.origin_id.type.compile(connection.dialect)
    origins = _name(connection, tables.origins.name)
    connection.exec_driver_sql(f"ALTER TABLE {runs} ADD COLUMN score {kind}")
    connection.exec_driver_sql(
        f"ALTER TABLE {runs} ADD COLUMN origin_id {key} REFERENCES {origins} (id)"
    )


def _score() -> sa.ColumnElement[Any]:
    """`records.score.score` with its default weights, in SQL."""
    c, weights = tables.runs.c, ScoreWeights()
    reached = sa.func.coalesce(c.iterations_to_best, c.max_iterations)
    difference = sa.func.abs(sa.func.coalesce(c.loss_difference, 0.0))
    penalty = weights.iterations * reached / c.max_iterations + weights.loss_difference * difference
    score = c.top1 - penalty
    return sa.case((score < -1.0, -1.0), else_=score)


def _ranked() -> tuple[sa.ColumnElement[bool], ...]:
    c = tables.runs.c
    return c.status == "complete", c.top1.is_not(None), c.split != "train"


def _rename_runs(connection: sa.Connection) -> None:
    """Give runs the uids of today, which do not depend on their source."""
    table, last = tables.runs, -1
    taken = set(connection.scalars(sa.select(table.c.uid)))
    change = sa.update(table).where(table.c.id == sa.bindparam("key"))
    while True:
        some = sa.select(table).where(table.c.id > last).order_by(table.c.id).limit(_AT_ONCE)
        found = connection.execute(some).mappings().all()
        if not found:
            return
        last = found[-1]["id"]
        renamed = []
        for row, run in rows.readable(connection, found):
            if run.uid not in taken:  # else it is there under two sources: both stay
                taken.add(run.uid)
                renamed.append({"key": row["id"], "uid": run.uid})
        if renamed:
            connection.execute(change, renamed)


def _replace_indexes(connection: sa.Connection) -> None:
    for index in _OLD_INDEXES:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_name(connection, index)}")
    for made in tables.INDEXES:
        made.create(connection)


def _pack_curves(connection: sa.Connection) -> None:
    """Copy all curves into a table of bytes; their values keep six digits."""
    table = tables.curves
    old = sa.table(_OLD, sa.column("run_id"), sa.column("points"), schema=schema_name(connection))
    prepare = connection.dialect.identifier_preparer
    renamed = f"ALTER TABLE {_name(connection, table.name)} RENAME TO {prepare.quote(_OLD)}"
    connection.exec_driver_sql(renamed)
    table.create(connection)
    last = -1
    while True:
        some = sa.select(old).where(old.c.run_id > last).order_by(old.c.run_id).limit(_AT_ONCE)
        found = connection.execute(some).all()
        if not found:
            break
        last = found[-1].run_id
        packed = [{"run_id": row.run_id, "points": _packed(connection, row)} for row in found]
        connection.execute(sa.insert(table), packed)
    connection.exec_driver_sql(f"DROP TABLE {_name(connection, _OLD)}")


def _packed(connection: sa.Connection, row: Any) -> bytes:
    try:
        return curves.packed(curves.from_columns(row.points))
    except (LRBenchError, ValueError, TypeError, LookupError, RecursionError) as error:
        reason = why(error)
        where = f"{shown(connection.engine.url)}: not changed: the curve of run {row.run_id}"
        raise DatabaseError(f"{where} breaks a rule ({reason}): mend or delete it") from None
