"""LR range tests as rows of their table, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import paper, tables
from lrbench_hpo.database.dialects import insert_new
from lrbench_hpo.database.failures import BadRowError, left_out
from lrbench_hpo.database.origins import Origin, origin_id
from lrbench_hpo.errors import LRBenchError, why
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Task

_READ_AT_MOST = 50  # the newest rows of two names; older ones are of no use
_COPIED = ("reference_lr", "spread", "low", "high", "method", "max_iterations", "iterations")


def insert(
    connection: sa.Connection, task: Task, result: RangeTest, source: str, origin: Origin
) -> bool:
    """Store a test; whether it was new.

    Args:
        connection: in a transaction that writes.
        task: what was tested; its reference LR does not matter.
        result: what was found.
        source: who measured it.
        origin: how it came in.

    Raises:
        RecordError: for something else than a task and a `RangeTest`, or the paper's name.
    """
    for name, value, kind in (("task", task, Task), ("range_test", result, RangeTest)):
        if not isinstance(value, kind):
            checks.refuse(name, value, f"expected a {kind.__name__}")
    paper.refuse_false_claim(checks.name("source", source))
    facts = {**task.to_dict(), "reference_lr": None}
    content = {"task": {**task.canonical_dict(), "reference_lr": None}, "test": result.to_dict()}
    row = {name: getattr(result, name) for name in _COPIED} | {
        "uid": checks.content_hash(content),
        "dataset_key": canonical_name(task.dataset),
        "model_key": canonical_name(task.model),
        "task": _json(facts),
        "payload": _json(result.to_dict()),
        "source": source,
        "created_at": result.created_at,
        "origin_id": origin_id(connection, origin),
    }
    inserted = insert_new(connection, tables.range_tests).returning(tables.range_tests.c.id)
    return connection.execute(inserted, [row]).first() is not None


def of_task(
    connection: sa.Connection, task: Task, sources: Sequence[str] | None = None
) -> list[RangeTest]:
    """The tests of a task, newest first: `Database.range_tests`."""
    table = tables.range_tests
    query = (
        sa.select(table)
        .where(table.c.dataset_key == canonical_name(task.dataset))
        .where(table.c.model_key == canonical_name(task.model))
        .order_by(table.c.created_at.desc(), table.c.id.desc())
        .limit(_READ_AT_MOST)
    )
    if sources is not None:
        query = query.where(table.c.source.in_(sources))
    found = []
    for row in connection.execute(query).mappings():
        with left_out():
            of, result = _read(row)
            if same_but_unknown(task, of):
                found.append(result)
    return found


_FOLLOWS = ("reference_lr", "num_parameters", "num_train", "init", "framework")


def same_but_unknown(one: Task, other: Task) -> bool:
    """Whether two tasks agree in all fields that both of them have and that names do not determine.

    Sizes and initial weights follow from data set and model; before the data is read, they are
    those of the published ones.

    >>> mlp = Task("digits", "mlp", batch_size=32)
    >>> same_but_unknown(mlp, Task("Digits", "MLP", optimizer="sgd", reference_lr=0.1))
    True
    >>> same_but_unknown(mlp, Task("digits", "mlp", batch_size=64))
    False
    """
    first, second = one.canonical_dict(), other.canonical_dict()
    return all(
        name in _FOLLOWS or None in (value, second[name]) or value == second[name]
        for name, value in first.items()
    )


def _read(row: sa.RowMapping) -> tuple[Task, RangeTest]:
    """A row, checked like any other input."""
    try:
        task = Task.from_dict(json.loads(row["task"]))
        return task, RangeTest.from_dict(json.loads(row["payload"]))
    except (LRBenchError, ValueError, TypeError, RecursionError) as error:
        raise BadRowError(f"range test {row['id']}", why(error)) from None


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII, as all JSON here


def apply_migration(connection: sa.Connection) -> None:
    """Step 3 of the migrations: the table, unless step 1 has made it."""
    tables.range_tests.create(connection, checkfirst=True)
