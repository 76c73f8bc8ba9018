"""The questions that are asked of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import tables
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.records import STATUSES, canonical_name, utc_timestamp


class Filters(TypedDict, total=False):
    """What runs may be asked for by; None is the same as absent."""

    dataset: str | None
    model: str | None
    function: str | None
    source: str | None
    since: datetime | str | None
    until: datetime | str | None
    status: str | None
    policy: LRPolicy | None
    max_iterations: int | None
    seed: int | None


def matching(query: sa.Select[Any], filters: Filters) -> sa.Select[Any]:
    """A query of runs, cut to those that fit all that is given.

    Raises:
        UnknownNameError: for an LR function that nobody knows.
        RecordError: for a value that cannot be meant.
    """
    c = tables.runs.c
    given: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    names: dict[str, str] = {k: given.pop(k) for k in ("dataset", "model") if k in given}
    if names:
        query = query.where(c.task_id.in_(_tasks_named(names)))
    for name, value in given.items():
        query = query.where(_condition(name, value))
    return query


def _condition(name: str, value: Any) -> sa.ColumnElement[bool]:
    c = tables.runs.c
    match name:
        case "function":
            return c.function == _known_function(value)
        case "policy":
            return c.fingerprint == str(value.fingerprint)
        case "source":
            return c.source == checks.text("source", value)
        case "status":
            return c.status == checks.choice("status", value, STATUSES)
        case "since":
            return c.created_at >= utc_timestamp(value)
        case "until":
            return c.created_at < utc_timestamp(value)
        case "max_iterations":
            return c.max_iterations == checks.whole("max_iterations", value)
        case "seed":
            return c.seed == checks.whole("seed", value, -checks.MAX_COUNT)
    raise TypeError(f"find() got an unexpected keyword argument {name!r}")


def begins(prefix: str) -> sa.ColumnElement[bool]:
    """Whether a run's uid begins so: a range, which the index of uids can answer.

    Raises:
        RecordError: for something that no uid begins with.
    """
    if not set(checks.name("run", prefix)) <= set("0123456789abcdef"):
        checks.refuse("run", prefix, "expected the beginning of a run's uid: digits and a to f")
    return tables.runs.c.uid.between(prefix, prefix + "g")


def _tasks_named(names: dict[str, str]) -> sa.Select[Any]:
    table = tables.tasks
    query = sa.select(table.c.id)
    for name, value in names.items():
        query = query.where(table.c[f"{name}_key"] == canonical_name(value, name))
    return query


def _known_function(function: str) -> str:
    name = function.upper()
    if name not in FUNCTIONS and name != "COMPOSED":
        raise UnknownNameError.among("LR function", function, [*FUNCTIONS, "COMPOSED"])
    return name


def newest_first() -> tuple[sa.UnaryExpression[Any], ...]:
    """The order of runs by time; those of one moment, by when they were stored."""
    return tables.runs.c.created_at.desc(), tables.runs.c.id.desc()


# What a prior looks at: reading the rest would take it half as long again.
EVIDENCE = tuple(c for c in tables.runs.c if c.name not in ("cost", "environment"))


def by_score(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """The runs that can be ranked, highest score first; all their columns, or only some."""
    score = tables.runs.c.score
    query = sa.select(*columns) if columns else sa.select(tables.runs)
    return query.where(score.is_not(None)).order_by(score.desc(), *newest_first())


def of_task(uid: str) -> sa.ColumnElement[bool]:
    """Whether a run is of exactly this task."""
    key = sa.select(tables.tasks.c.id).where(tables.tasks.c.uid == uid).scalar_subquery()
    return tables.runs.c.task_id == key


def trusted(sources: Sequence[str] | None) -> sa.ColumnElement[bool]:
    """Whether a run is from one of these sources; all are, where nobody says."""
    return sa.true() if sources is None else tables.runs.c.source.in_(sources)


def with_curves(query: sa.Select[Any]) -> sa.Select[Any]:
    """The same query, with the packed curve as one more column."""
    joined = tables.curves.c.run_id == tables.runs.c.id
    return query.add_columns(tables.curves.c.points).join(tables.curves, joined, isouter=True)


def per_task() -> sa.Select[Any]:
    """How many runs each task has, and its best Top-1 among those that can be ranked."""
    c = tables.runs.c
    top1 = sa.func.max(sa.case((c.score.is_not(None), c.top1)))
    number = sa.func.count().label("runs")
    return sa.select(c.task_id, number, top1.label("top1")).group_by(c.task_id)


def counts(connection: sa.Connection, *columns: sa.Column[Any]) -> list[tuple[Any, ...]]:
    """How many runs there are of each combination of values, most first."""
    number = sa.func.count()
    query = sa.select(*columns, number).group_by(*columns).order_by(number.desc(), *columns)
    return [tuple(row) for row in connection.execute(query)]
