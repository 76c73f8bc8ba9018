"""Tasks and runs as rows of the tables, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lrbench_hpo.database import tables
from lrbench_hpo.errors import DatabaseError, LRBenchError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import CurvePoint, Run, Task, canonical_name

_JSON = ("metrics", "cost", "environment", "notes")
_COPIED = ("top1", "top5", "top1_std", "iterations_to_best", "loss_difference")
_PLAIN = ("max_iterations", "seed", "split", "status", "source", "created_at")
_TASK_FIELDS = tuple(Task("any", "any").to_dict())
_POINT_FIELDS = tuple(CurvePoint(0).to_dict())


def insert_runs(connection: sa.Connection, runs: Iterable[Run]) -> int:
    """Insert the runs that are not there yet, with their tasks and curves.

    Returns:
        How many were new.
    """
    by_uid = {run.uid: run for run in runs}
    if not by_uid:
        return 0
    task_ids = _insert_tasks(connection, {run.task.uid: run.task for run in by_uid.values()})
    values = [_run_row(run, task_ids[run.task.uid]) for run in by_uid.values()]
    returned = _insert_new(connection, tables.runs).returning(tables.runs.c.id, tables.runs.c.uid)
    new = connection.execute(returned, values).all()
    curves = [
        {"run_id": key, "points": _curve_text(by_uid[uid].curve)}
        for key, uid in new
        if by_uid[uid].curve
    ]
    if curves:
        connection.execute(sa.insert(tables.curves), curves)
    return len(new)


def _insert_tasks(connection: sa.Connection, tasks: Mapping[str, Task]) -> dict[str, int]:
    table = tables.tasks
    connection.execute(_insert_new(connection, table), [_task_row(task) for task in tasks.values()])
    ids: dict[str, int] = {}
    uids = list(tasks)
    for start in range(0, len(uids), 500):  # a statement holds a limited number of values
        known = sa.select(table.c.uid, table.c.id).where(table.c.uid.in_(uids[start : start + 500]))
        ids.update((uid, key) for uid, key in connection.execute(known))
    return ids


def _insert_new(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that leaves rows alone whose uid is there; each back end has its own."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing(index_elements=["uid"])
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing(index_elements=["uid"])


def _json(value: object) -> str:
    # ASCII: any character fits in any database, NUL never occurs in a checked record.
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _task_row(task: Task) -> dict[str, Any]:
    fields = task.to_dict()
    fields["image_shape"] = None if task.image_shape is None else _json(fields["image_shape"])
    return fields | {
        "uid": task.uid,
        "dataset_key": canonical_name(task.dataset),
        "model_key": canonical_name(task.model),
    }


def _run_row(run: Run, task_id: int) -> dict[str, Any]:
    fields = run.to_dict()
    return (
        {name: fields[name] for name in _PLAIN}
        | {name: _json(fields[name]) for name in _JSON}
        | {name: run.metrics.get(name) for name in _COPIED}
        | {
            "uid": run.uid,
            "task_id": task_id,
            "function": run.policy.function,
            "fingerprint": run.policy.fingerprint,
            "policy": _json(fields["policy"]),
        }
    )


def _curve_text(curve: Sequence[CurvePoint]) -> str:
    return _json({name: [getattr(point, name) for point in curve] for name in _POINT_FIELDS})


def task_of(row: sa.RowMapping) -> Task:
    """A task from its row."""
    fields = {name: row[name] for name in _TASK_FIELDS}
    try:
        if fields["image_shape"] is not None:
            fields["image_shape"] = json.loads(fields["image_shape"])
        return Task.from_dict(fields)
    except (LRBenchError, ValueError, RecursionError) as error:
        raise _bad_row("task", row, error) from None


def run_of(row: sa.RowMapping, task: Task, points: str | None = None) -> Run:
    """A run from its row, checked like any other input.

    Args:
        row: a row of the table of runs.
        task: the run's task.
        points: the text of its curve; None when it has none, or is not wanted.
    """
    try:
        return Run(
            task=task,
            policy=LRPolicy.from_dict(json.loads(row["policy"])),
            curve=_curve_of(points) if points is not None else (),
            **{name: row[name] for name in _PLAIN},
            **{name: json.loads(row[name]) for name in _JSON},
        )
    except (LRBenchError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise _bad_row("run", row, error) from None


def _curve_of(points: str) -> tuple[CurvePoint, ...]:
    columns = json.loads(points)
    values = zip(*(columns[name] for name in _POINT_FIELDS), strict=True)
    return tuple(CurvePoint(*point) for point in values)


def _bad_row(kind: str, row: sa.RowMapping, error: Exception) -> DatabaseError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DatabaseError(f"{kind} {row['id']} in the database breaks a rule: {reason}")
