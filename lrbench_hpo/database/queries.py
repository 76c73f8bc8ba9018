"""The queries of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import tables
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.records.run import STATUSES, utc_timestamp


class Filters(TypedDict, total=False):
    """What runs can be filtered by; None is the same as absent."""

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
    imported: bool | None


def matching(query: sa.Select[Any], filters: Filters) -> sa.Select[Any]:
    """A query of runs, limited to those that match all filters.

    Args:
        query: of runs.
        filters: the values that runs must have.

    Raises:
        UnknownNameError: for an unknown LR function.
        RecordError: for an invalid value.
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
        case "imported":
            files = sa.select(tables.origins.c.id).where(tables.origins.c.file.is_not(None))
            inside = c.origin_id.in_(files)
            return inside if value else sa.or_(c.origin_id.is_(None), ~inside)
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
        known = canonical_name(checks.text(name, value), name)
        query = query.where(table.c[f"{name}_key"] == known)
    return query


def _known_function(function: str) -> str:
    name = checks.text("function", function).upper()
    if name not in FUNCTIONS and name != "COMPOSED":
        raise UnknownNameError.among("LR function", function, [*FUNCTIONS, "COMPOSED"])
    return name


def tasks_named(filters: Filters) -> sa.Select[Any] | None:
    """The keys of the tasks that the filters select; None where they select any."""
    names = {k: filters[k] for k in ("dataset", "model") if filters.get(k) is not None}
    return _tasks_named(names) if names else None  # type: ignore[arg-type]


def first(
    query: sa.Select[Any], order: Sequence[sa.ColumnElement[Any]], limit: int, parts: Sequence[Any]
) -> sa.Select[Any]:
    """The first rows of a query of runs, each of whose parts an index has in order.

    For the first rows of several tasks in one plain query, both back ends would sort all rows.

    Args:
        query: of runs.
        order: what the index has after the part's own columns.
        limit: how many rows.
        parts: conditions, of which a row fulfils one; an index is looked up for each.
    """
    keys = [
        sa.select(
            query.with_only_columns(tables.runs.c.id)
            .where(part)
            .order_by(*order)
            .limit(limit)
            .subquery()
            .c.id
        )
        for part in parts
    ]
    inside = tables.runs.c.id.in_(sa.union_all(*keys).scalar_subquery())
    return query.where(inside).order_by(*order).limit(limit)


def best_tasks(uids: Sequence[str], most: int) -> sa.Select[Any]:
    """The keys of those of some tasks that have the highest scores.

    Args:
        uids: of the tasks.
        most: how many at most.
    """
    table = tables.tasks
    score = sa.select(sa.func.max(tables.runs.c.score)).where(tables.runs.c.task_id == table.c.id)
    best = score.where(tables.runs.c.score.is_not(None)).scalar_subquery()
    order = (sa.func.coalesce(best, -2.0).desc(), table.c.id.desc())
    return sa.select(table.c.id).where(table.c.uid.in_(uids)).order_by(*order).limit(most)


def newest_first() -> tuple[sa.UnaryExpression[Any], ...]:
    """The order of runs by time; those of one moment, by when they were stored."""
    return tables.runs.c.created_at.desc(), tables.runs.c.id.desc()


# What a prior reads: the other columns would make it half as slow again.
EVIDENCE = (
    *(c for c in tables.runs.c if c.name not in ("cost", "environment")),
    sa.select(tables.tasks.c.uid)
    .where(tables.tasks.c.id == tables.runs.c.task_id)
    .scalar_subquery()
    .label("task_uid"),
)


def ranked(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The runs that can be ranked; all their columns, or only some."""
    query = sa.select(*columns) if columns else sa.select(tables.runs)
    return query.where(tables.runs.c.score.is_not(None))


def highest_first() -> tuple[sa.UnaryExpression[Any], ...]:
    """The order of runs by score; those of one score, newest first."""
    return tables.runs.c.score.desc(), *newest_first()


def parts_of(
    tasks: Sequence[int], sources: Sequence[str] | None = None
) -> list[sa.ColumnElement[bool]]:
    """Conditions for `first`: runs of these tasks, and of these sources where they are given."""
    c = tables.runs.c
    if sources is None:
        return [c.task_id == task for task in tasks]
    return [sa.and_(c.task_id == task, c.source == name) for task in tasks for name in sources]


def with_curves(query: sa.Select[Any]) -> sa.Select[Any]:
    """The same query, with the packed curve as one more column."""
    joined = tables.curves.c.run_id == tables.runs.c.id
    return query.add_columns(tables.curves.c.points).join(tables.curves, joined, isouter=True)


def per_task(uids: Sequence[str] | None = None) -> sa.Select[Any]:
    """How many runs tasks have, and the best Top-1 among those that can be ranked."""
    c = tables.runs.c
    top1 = sa.func.max(sa.case((c.score.is_not(None), c.top1)))
    number = sa.func.count().label("runs")
    task = tables.tasks.c
    query = sa.select(task.uid, number, top1.label("top1")).join(tables.tasks)
    return (query if uids is None else query.where(task.uid.in_(uids))).group_by(task.uid)


def counts(connection: sa.Connection, *columns: sa.Column[Any]) -> list[tuple[Any, ...]]:
    """How many runs there are of each combination of values, most first."""
    number = sa.func.count()
    query = sa.select(*columns, number).group_by(*columns).order_by(number.desc(), *columns)
    return [tuple(row) for row in connection.execute(query)]
