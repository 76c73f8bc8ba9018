"""The LR database: runs go in once, and come out by task, by time or by score."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import rows, tables
from lrbench_hpo.database.engine import open_engine, writing
from lrbench_hpo.database.failures import one_line, shown
from lrbench_hpo.database.location import database_url, sqlite_file
from lrbench_hpo.database.migrations import MIGRATIONS, Migration, migrate, schema_version
from lrbench_hpo.errors import DatabaseError, UnknownNameError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.ranking import ScoreWeights
from lrbench_hpo.records import Run, Task, canonical_name, utc_timestamp


@dataclass(frozen=True)
class DatabaseStats:
    """What a database holds.

    Attributes:
        location: its file, or its URL without the password.
        size_bytes: of the file; None for one in memory or on a server.
        schema_version: the last migration that was done.
        runs: number of runs.
        tasks: number of tasks.
        by_source: runs per source, most first.
        by_status: runs per status, most first.
    """

    location: str
    size_bytes: int | None
    schema_version: int
    runs: int
    tasks: int
    by_source: dict[str, int]
    by_status: dict[str, int]


class Database:
    """Tuning runs that were recorded anywhere, for the next search to start from.

    Open one with `connect`. Threads may share it; each call is one transaction.

    >>> from lrbench_hpo.database import connect
    >>> with connect("sqlite://") as db:
    ...     [str(run.policy) for run in db.best("CIFAR-10", "ResNet-32", n=1)]
    ['SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)']
    """

    def __init__(self, engine: sa.Engine, steps: Sequence[Migration] = MIGRATIONS) -> None:
        """Bring the database behind an engine of `open_engine` to this version.

        Raises:
            DatabaseError: for a database that cannot be used, and why.
        """
        self._engine = engine
        self._closed = False
        # Threads share the one connection of a database in memory, and so take turns.
        self._turn = threading.RLock()
        migrate(engine, steps)

    @property
    def url(self) -> sa.URL:
        """Where it is, with the password if there is one: not to be shown."""
        return self._engine.url

    def __repr__(self) -> str:
        return f"<Database {shown(self._engine.url)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections; the database cannot be used after this."""
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        if self._closed:
            raise DatabaseError(f"{shown(self._engine.url)}: closed: connect again")
        engine = writing(self._engine) if write else self._engine
        with self._turn, one_line(engine.url), engine.begin() as connection:
            yield connection

    def add(self, *runs: Run) -> int:
        """Store runs, all or none; a run that is there already stays one row.

        Returns:
            How many were new.

        Raises:
            RecordError: for something that is no `Run`.
            DatabaseError: when nothing of it could be stored, and why.
        """
        for run in runs:
            if not isinstance(run, Run):
                checks.refuse("run", run, "expected a Run: Run.from_dict makes one of a dict")
        if not runs:
            return 0
        with self._transaction(write=True) as connection:
            return rows.insert_runs(connection, runs)

    def check_writable(self) -> None:
        """Find out before a long training whether its result could be stored.

        Raises:
            DatabaseError: when it could not, and why.
        """
        with self._transaction(write=True) as connection:
            probe = {"uid": "", "dataset_key": "", "model_key": "", "dataset": "", "model": ""}
            connection.execute(sa.insert(tables.tasks).values(probe))
            connection.rollback()

    def find(
        self,
        dataset: str | None = None,
        model: str | None = None,
        function: str | None = None,
        source: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
        *,
        policy: LRPolicy | None = None,
        curves: bool = False,
    ) -> list[Run]:
        """The runs that fit all that is given, newest first.

        Args:
            dataset: name of the data set; case, dashes and underscores do not matter.
            model: name of the model, likewise.
            function: name of the LR function, or ``COMPOSED``.
            source: who measured it, exactly.
            since: the earliest time, with a time zone.
            limit: how many at most.
            policy: the LR policy, by its fingerprint.
            curves: whether to read learning curves too.

        Raises:
            UnknownNameError: for an LR function that nobody knows.
            RecordError: for a time or limit that is none.
            DatabaseError: when the database cannot be read.
        """
        query = sa.select(tables.runs).order_by(*_newest_first())
        if dataset is not None or model is not None:
            query = query.join(tables.tasks)
        if dataset is not None:
            query = query.where(tables.tasks.c.dataset_key == canonical_name(dataset, "dataset"))
        if model is not None:
            query = query.where(tables.tasks.c.model_key == canonical_name(model, "model"))
        if function is not None:
            query = query.where(tables.runs.c.function == _known_function(function))
        if policy is not None:
            query = query.where(tables.runs.c.fingerprint == policy.fingerprint)
        if source is not None:
            query = query.where(tables.runs.c.source == source)
        if since is not None:
            query = query.where(tables.runs.c.created_at >= utc_timestamp(since))
        if limit is not None:
            query = query.limit(checks.whole("limit", limit))
        with self._transaction() as connection:
            return _read(connection, query, curves=curves)

    def best(self, dataset: str, model: str, n: int = 5) -> list[Run]:
        """The complete runs with the highest score, best first, without their curves.

        The score is that of `lrbench_hpo.score` with its default weights, on whatever split but
        the training data.

        Raises:
            RecordError: for an `n` below one.
            DatabaseError: when the database cannot be read.
        """
        query = (
            _by_score()
            .join(tables.tasks)
            .where(tables.tasks.c.dataset_key == canonical_name(dataset, "dataset"))
            .where(tables.tasks.c.model_key == canonical_name(model, "model"))
            .limit(checks.whole("n", n))
        )
        with self._transaction() as connection:
            return _read(connection, query)

    def evidence(self, task: Task, limit: int) -> list[Run]:
        """What is known of exactly this task: its best runs, then its newest others.

        Half of them are the best complete runs, best first; the other half are the newest of
        the rest, whatever became of them. Without curves.

        Args:
            task: one of `tasks`.
            limit: how many at most.
        """
        checks.whole("limit", limit)
        on_task = tables.runs.c.task_id.in_(
            sa.select(tables.tasks.c.id).where(tables.tasks.c.uid == task.uid)
        )
        best = _by_score().where(on_task).limit((limit + 1) // 2)
        with self._transaction() as connection:
            found = connection.execute(best).mappings().all()
            others = (
                sa.select(tables.runs)
                .where(on_task, tables.runs.c.id.not_in([row["id"] for row in found]))
                .order_by(*_newest_first())
                .limit(limit - len(found))
            )
            return _runs_of(connection, [*found, *connection.execute(others).mappings()])

    def tasks(self) -> list[Task]:
        """All tasks that have runs, oldest first."""
        with self._transaction() as connection:
            query = sa.select(tables.tasks).order_by(tables.tasks.c.id)
            return [rows.task_of(row) for row in connection.execute(query).mappings()]

    def stats(self) -> DatabaseStats:
        """How much there is, of what, and where."""
        file = sqlite_file(self._engine.url)
        with self._transaction() as connection:
            return DatabaseStats(
                location=shown(self._engine.url),
                size_bytes=file.stat().st_size if file is not None else None,
                schema_version=schema_version(connection),
                runs=_count(connection, tables.runs),
                tasks=_count(connection, tables.tasks),
                by_source=_counts(connection, tables.runs.c.source),
                by_status=_counts(connection, tables.runs.c.status),
            )


def connect(url: str | Path | None = None) -> Database:
    """Open the LR database; a new one is born with the published LRBench results.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER@HOST/NAME`` or a file; None for the
            environment variable ``LRBENCH_DATABASE_URL``, or else the user's own file.

    Raises:
        MissingExtraError: for PostgreSQL without psycopg2.
        DatabaseError: for a database that cannot be used, and why.

    >>> with connect("sqlite://") as db:
    ...     db.stats().runs
    61
    """
    return Database(open_engine(database_url(url)))


@contextmanager
def opened(database: Database | str | Path | None) -> Iterator[Database]:
    """A database that is open already, or one opened for as long as it is used."""
    if isinstance(database, Database):
        yield database
        return
    with connect(database) as db:
        yield db


def _known_function(function: str) -> str:
    name = function.upper()
    if name not in FUNCTIONS and name != "COMPOSED":
        raise UnknownNameError.among("LR function", function, [*FUNCTIONS, "COMPOSED"])
    return name


def _newest_first() -> tuple[sa.UnaryExpression[Any], ...]:
    return tables.runs.c.created_at.desc(), tables.runs.c.id.desc()


def _by_score() -> sa.Select[Any]:
    """Complete runs by `ranking.score` with its default weights, highest first."""
    c, weights = tables.runs.c, ScoreWeights()
    reached = sa.func.coalesce(c.iterations_to_best, c.max_iterations)
    difference = sa.func.abs(sa.func.coalesce(c.loss_difference, 0.0))
    score = c.top1 - weights.iterations * reached / c.max_iterations
    score -= weights.loss_difference * difference
    return (
        sa.select(tables.runs)
        .where(c.status == "complete", c.top1.is_not(None), c.split != "train")
        .order_by(score.desc(), *_newest_first())
    )


def _read(connection: sa.Connection, query: sa.Select[Any], *, curves: bool = False) -> list[Run]:
    if curves:
        query = query.add_columns(tables.curves.c.points).join(
            tables.curves, tables.curves.c.run_id == tables.runs.c.id, isouter=True
        )
    return _runs_of(connection, connection.execute(query).mappings().all())


def _runs_of(connection: sa.Connection, found: Sequence[sa.RowMapping]) -> list[Run]:
    tasks = _tasks_by_id(connection, sorted({row["task_id"] for row in found}))
    return [rows.run_of(row, tasks[row["task_id"]], row.get("points")) for row in found]


def _tasks_by_id(connection: sa.Connection, ids: Sequence[int]) -> dict[int, Task]:
    table, known = tables.tasks, {}
    for start in range(0, len(ids), 500):  # a statement holds a limited number of values
        query = sa.select(table).where(table.c.id.in_(ids[start : start + 500]))
        for row in connection.execute(query).mappings():
            known[row["id"]] = rows.task_of(row)
    return known


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def _counts(connection: sa.Connection, column: sa.Column[Any]) -> dict[str, int]:
    number = sa.func.count()
    query = sa.select(column, number).group_by(column).order_by(number.desc(), column)
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}
