"""Tasks and runs as rows of the tables, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import curves, tables
from lrbench_hpo.database.dialects import AT_ONCE, TRIES, insert_new
from lrbench_hpo.database.failures import BadRowError, OnBadRow, left_out, vanished
from lrbench_hpo.database.origins import Origin, origin_id
from lrbench_hpo.errors import LRBenchError, why
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.score import score_run

_JSON = ("metrics", "cost", "environment", "notes")
_COPIED = ("top1", "top5", "top1_std", "iterations_to_best", "loss_difference")
_PLAIN = ("max_iterations", "seed", "split", "status", "source", "created_at")
# What a row that another program wrote may raise.
BAD_VALUE = (LRBenchError, ValueError, TypeError, LookupError, RecursionError)
_TASK_FIELDS = tuple(Task("any", "any").to_dict())


def insert_runs(connection: sa.Connection, runs: Iterable[tuple[Run, Origin | None]]) -> list[str]:
    """Insert the runs that are not there yet, with their tasks, curves and origins.

    Args:
        connection: in a transaction that writes.
        runs: whatever is to be there afterwards, and where it comes from.

    Returns:
        The uids of those that were new.
    """
    by_uid = {run.uid: (run, origin) for run, origin in runs}
    if not by_uid:
        return []
    tasks = {run.task.uid: run.task for run, _ in by_uid.values()}
    origins = {origin.uid: origin for _, origin in by_uid.values() if origin is not None}
    known = _known_keys(connection, list(tasks), list(origins))
    task_ids = known[_TASK] | _insert_tasks(connection, tasks, known[_TASK])
    origin_ids = known[_ORIGIN]
    missing = origins.keys() - known[_ORIGIN].keys()
    if missing and not _all_there(connection, list(by_uid)):
        origin_ids |= {uid: origin_id(connection, origins[uid]) for uid in sorted(missing)}
    values = [
        _run_row(run, task_ids[run.task.uid], origin_ids.get(origin.uid) if origin else None)
        for run, origin in by_uid.values()
    ]
    returned = insert_new(connection, tables.runs).returning(tables.runs.c.id, tables.runs.c.uid)
    new = connection.execute(returned, values).all()
    points = [
        {"run_id": key, "points": curves.packed(by_uid[uid][0].curve)}
        for key, uid in new
        if by_uid[uid][0].curve
    ]
    if points:
        connection.execute(sa.insert(tables.curves), points)
    return [uid for _, uid in new]


_TASK, _ORIGIN = "task", "origin"
_t, _o = tables.tasks.c, tables.origins.c
_KEYS = sa.union_all(
    sa.select(sa.literal(_TASK).label("kind"), _t.uid, _t.id).where(
        _t.uid.in_(sa.bindparam("tasks", expanding=True))
    ),
    sa.select(sa.literal(_ORIGIN), _o.uid, _o.id).where(
        _o.uid.in_(sa.bindparam("origins", expanding=True))
    ),
)


def _known_keys(
    connection: sa.Connection, tasks: Sequence[str], origins: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """The keys of tasks and origins by their uids, in one question: a server is far away."""
    found: dict[str, dict[str, int]] = {_TASK: {}, _ORIGIN: {}}
    for start in range(0, max(len(tasks), len(origins)), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        for kind, uid, key in connection.execute(
            _KEYS, {"tasks": tasks[part], "origins": origins[part]}
        ):
            found[kind][uid] = key
    return found


def _all_there(connection: sa.Connection, uids: Sequence[str]) -> bool:
    """Whether nothing would be new: then nothing needs an origin."""
    there, number = 0, sa.select(sa.func.count()).select_from(tables.runs)
    for start in range(0, len(uids), AT_ONCE):
        some = tables.runs.c.uid.in_(uids[start : start + AT_ONCE])
        there += connection.scalar(number.where(some)) or 0
    return there == len(uids)


def _insert_tasks(
    connection: sa.Connection, tasks: Mapping[str, Task], known: Mapping[str, int]
) -> dict[str, int]:
    made: dict[str, int] = {}
    for _ in range(TRIES):
        uids = sorted(tasks.keys() - known.keys() - made.keys())
        if not uids:
            return made
        rows = [_task_row(tasks[uid]) for uid in uids]
        connection.execute(insert_new(connection, tables.tasks), rows)
        made |= _known_keys(connection, uids)[_TASK]
    raise vanished("a task")


def tasks_by_id(
    connection: sa.Connection, ids: Sequence[int], on_bad: OnBadRow | None = None
) -> dict[int, Task]:
    """The tasks of some rows, by their keys; one that breaks a rule is left out."""
    table, known = tables.tasks, {}
    for start in range(0, len(ids), AT_ONCE):
        query = sa.select(table).where(table.c.id.in_(ids[start : start + AT_ONCE]))
        for row in connection.execute(query).mappings():
            with left_out(on_bad):
                known[row["id"]] = task_of(row)
    return known


def tasks_in(found: Iterable[sa.RowMapping]) -> list[Task]:
    """The tasks of rows; those that break a rule are left out."""
    tasks = []
    for row in found:
        with left_out():
            tasks.append(task_of(row))
    return tasks


def readable(
    connection: sa.Connection, found: Sequence[sa.RowMapping], on_bad: OnBadRow | None = None
) -> list[tuple[sa.RowMapping, Run]]:
    """Rows of runs with their runs; those that break a rule are left out."""
    tasks = tasks_by_id(connection, sorted({row["task_id"] for row in found}), on_bad)
    runs = []
    for row in found:
        with left_out(on_bad):
            if row["task_id"] not in tasks:
                raise BadRowError(f"run {row['id']}", "its task does")
            runs.append((row, run_of(row, tasks[row["task_id"]], row.get("points"))))
    return runs


def runs_of(found: Iterable[sa.RowMapping], tasks: Mapping[str, Task]) -> list[Run]:
    """Runs of rows that hold their task's uid; those that break a rule are left out."""
    runs = []
    for row in found:
        with left_out():
            runs.append(run_of(row, tasks[row["task_uid"]]))
    return runs


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


def _run_row(run: Run, task_id: int, origin_id: int | None) -> dict[str, Any]:
    fields = run.to_dict()
    ranked = run.status == "complete" and run.split != "train"
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
            "score": score_run(run) if ranked and run.metrics.get("top1") is not None else None,
            "origin_id": origin_id,
        }
    )


def task_of(row: sa.RowMapping) -> Task:
    """A task from its row."""
    try:
        return _task(tuple(row[name] for name in _TASK_FIELDS))
    except (LRBenchError, ValueError, RecursionError) as error:
        raise BadRowError(f"task {row['id']}", why(error)) from None


@lru_cache(maxsize=4096)  # the same few hundred are read again and again
def _task(values: tuple[Any, ...]) -> Task:
    fields = dict(zip(_TASK_FIELDS, values, strict=True))
    if fields["image_shape"] is not None:
        fields["image_shape"] = json.loads(fields["image_shape"])
    return Task.from_dict(fields)


def run_of(row: sa.RowMapping, task: Task, points: bytes | None = None) -> Run:
    """A run from its row, checked like any other input.

    Args:
        row: a row of the table of runs; it may lack cost and environment.
        task: the run's task.
        points: its packed curve; None when it has none, or is not wanted.
    """
    there = [name for name in _JSON if name in row]
    try:
        run = Run(
            task=task,
            policy=LRPolicy.from_dict(json.loads(row["policy"])),
            curve=curves.unpacked(points) if points is not None else (),
            **{name: row[name] for name in _PLAIN},
            **{name: json.loads(row[name]) for name in there},
        )
    except BAD_VALUE as error:
        raise BadRowError(f"run {row['id']}", why(error)) from None
    if len(there) < len(_JSON):
        vars(run)["uid"] = row["uid"]  # of the whole run, which it cannot be computed from
    return run
