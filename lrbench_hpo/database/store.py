"""The LR database: runs go in once, and come out by task, by time or by score."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import paper, queries, range_tests, reading, rows, tables
from lrbench_hpo.database.access import Access
from lrbench_hpo.database.contents import DatabaseStats, forget_runs, statistics
from lrbench_hpo.database.dialects import identity
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.failures import OnBadRow
from lrbench_hpo.database.location import database_url, in_memory, with_password, without_password
from lrbench_hpo.database.migrations import MIGRATIONS
from lrbench_hpo.database.origins import Origin, origins_by_id
from lrbench_hpo.database.outcomes import Outcome, outcomes
from lrbench_hpo.database.queries import Filters
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Run, Task, own_source

_PAGE = 500  # runs that `stored` holds at a time


class Database(Access):
    """Tuning runs that were recorded anywhere, for the next search to start from.

    Open one with `connect`. Threads may share it, and a forked process may go on with it. When it
    is unpickled elsewhere, it connects again, with the password that is known there. Each call is
    one transaction. A row that breaks a rule (of another program) is left out with a warning.

    >>> from lrbench_hpo.database import connect
    >>> with connect("sqlite://") as db:
    ...     [str(run.policy) for run in db.best("CIFAR-10", "ResNet-32", n=1)]
    ['SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)']
    """

    def __reduce__(self) -> tuple[Any, ...]:
        if in_memory(self.url):
            raise DatabaseError(
                "a database in memory cannot be pickled: give it a file or a server"
            )
        location = without_password(self.url.render_as_string(hide_password=False))
        return _reopened, (str(location),)

    def add(self, *runs: Run, origin: Origin | None = None) -> int:
        """Store runs, all or none; a run that is there already stays one row.

        Args:
            runs: what to store.
            origin: where they come from; None for what this process measured.

        Returns:
            How many were new.

        Raises:
            RecordError: for something that is no `Run`, or falsely claims to be published.
            DatabaseError: when nothing of it could be stored, and why.
        """
        origin = origin or Origin.here()
        return self.add_from([(run, origin) for run in runs])

    def add_from(self, runs: Sequence[tuple[Run, Origin | None]]) -> int:
        """`add` for runs that come from different places, each with its origin."""
        for run, _ in runs:
            if not isinstance(run, Run):
                checks.refuse("run", run, "expected a Run: Run.from_dict makes one of a dict")
            paper.refuse_false_claim(run.source, run.uid)
        if not runs:
            return 0
        new: set[str] = set()

        def insert(connection: sa.Connection) -> None:
            # A connection that was lost at the commit leaves what is there, or not: counted once.
            new.update(rows.insert_runs(connection, runs))

        self._do(insert, write=True)
        return len(new)

    def add_range_test(self, task: Task, result: RangeTest, *, source: str | None = None) -> bool:
        """Store an LR range test of a task; the same one again stays one row.

        Args:
            task: what was tested; its reference LR does not matter.
            result: what was found.
            source: who measured it; the user's own source when None.

        Returns:
            Whether it was new.

        Raises:
            RecordError: for something else, or the name of the published results as source.
            DatabaseError: when it could not be stored, and why.
        """
        new, source, origin = [], source or own_source(), Origin.here()
        insert = partial(range_tests.insert, task=task, result=result, source=source, origin=origin)
        # A connection that was lost at the commit leaves it there, or not: new at either try.
        self._do(lambda connection: new.append(insert(connection)), write=True)
        return any(new)

    def range_tests(
        self, task: Task, trusted_sources: Sequence[str] | None = None
    ) -> list[RangeTest]:
        """The LR range tests of a task, newest first.

        Args:
            task: the task; what it leaves open, its reference LR included, does not matter.
            trusted_sources: the sources that count; all when None.

        Raises:
            DatabaseError: when the database cannot be read.
        """
        return self._do(partial(range_tests.of_task, task=task, sources=trusted_sources))

    def identity(self) -> str:
        """What distinguishes this database from all others, however its URL is written."""
        return self._do(identity)

    def check_writable(self) -> None:
        """Check before a long training that its result can be stored.

        Raises:
            RecordError: when the user's own source is that of the published results.
            DatabaseError: when it cannot be stored, and why.
        """
        paper.refuse_false_claim(checks.name("LRBENCH_SOURCE", own_source()))
        probe = {"uid": "", "dataset_key": "", "model_key": "", "dataset": "", "model": ""}

        def insert(connection: sa.Connection) -> None:
            connection.execute(sa.insert(tables.tasks).values(probe))
            connection.rollback()

        self._do(insert, write=True)

    def find(
        self,
        dataset: str | None = None,
        model: str | None = None,
        function: str | None = None,
        source: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
        *,
        until: datetime | str | None = None,
        status: str | None = None,
        policy: LRPolicy | None = None,
        max_iterations: int | None = None,
        seed: int | None = None,
        imported: bool | None = None,
        curves: bool = False,
    ) -> list[Run]:
        """The runs that match all filters, newest first.

        Args:
            dataset: name of the data set; case, dashes and underscores do not matter.
            model: name of the model, likewise.
            function: name of the LR function, or ``COMPOSED``.
            source: who measured it, exactly.
            since: the earliest time, with a time zone.
            limit: how many at most.
            until: the time before which, likewise.
            status: ``complete``, ``pruned``, ``diverged`` or ``failed``.
            policy: the LR policy, by its fingerprint.
            max_iterations: the budget, in iterations.
            seed: the random seed.
            imported: whether it came from a file or another database.
            curves: whether to read learning curves too.

        Raises:
            UnknownNameError: for an unknown LR function.
            RecordError: for an invalid value.
            DatabaseError: when the database cannot be read.
        """
        filters = Filters(
            dataset=dataset,
            model=model,
            function=function,
            source=source,
            since=since,
            until=until,
            status=status,
            policy=policy,
            max_iterations=max_iterations,
            seed=seed,
            imported=imported,
        )
        query = queries.matching(sa.select(tables.runs), filters)
        query = queries.with_curves(query) if curves else query
        most = None if limit is None else checks.whole("limit", limit)
        order, tasks = queries.newest_first(), queries.tasks_named(filters)
        return self._do(lambda c: reading.first_runs(c, query, order, most, tasks))

    def stored(
        self,
        *,
        curves: bool = True,
        on_bad: OnBadRow | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[tuple[Run, Origin | None]]:
        """The runs that match all filters, in the order they were stored, with their origins.

        They are read page by page, so that the database may be larger than the memory.

        Args:
            curves: whether to read learning curves too.
            on_bad: called with the place (``run 62``) and the reason of each row that breaks a
                rule; None warns of each.
            filters: those of `find`.

        Raises:
            LRBenchError: as `find`.
        """
        key = tables.runs.c.id
        wanted = queries.matching(sa.select(key), filters).order_by(key)
        ids = self._do(lambda connection: array("q", connection.scalars(wanted)))
        page = sa.select(tables.runs).order_by(key)
        page = queries.with_curves(page) if curves else page

        for start in range(0, len(ids), _PAGE):
            some = page.where(key.in_(ids[start : start + _PAGE].tolist()))
            yield from self._do(partial(reading.with_origins, query=some, on_bad=on_bad))

    def lookup(self, prefix: str, limit: int = 10) -> list[tuple[Run, Origin | None]]:
        """The runs whose uid begins so, with their curves and origins.

        Raises:
            RecordError: for something that no uid begins with.
        """
        query = queries.with_curves(sa.select(tables.runs).where(queries.begins(prefix)))
        query = query.order_by(tables.runs.c.uid).limit(checks.whole("limit", limit))
        return self._do(partial(reading.with_origins, query=query))

    def best(self, dataset: str, model: str, n: int = 5) -> list[Run]:
        """The complete runs with the highest score, best first, without their curves.

        The score is that of `lrbench_hpo.score` with its default weights, on whatever split but
        the training data.

        Raises:
            RecordError: for an `n` below one.
            DatabaseError: when the database cannot be read.
        """
        filters: Filters = {"dataset": dataset, "model": model}
        query = queries.matching(queries.ranked(), filters)
        order, tasks = queries.highest_first(), queries.tasks_named(filters)
        most = checks.whole("n", n)
        return self._do(lambda c: reading.first_runs(c, query, order, most, tasks))

    def evidence(
        self, tasks: Task | Sequence[Task], limit: int, trusted_sources: Sequence[str] | None = None
    ) -> list[Run]:
        """Runs of a task, or of tasks that differ in their reference LR only, for a prior.

        Half of them are the best complete runs, best first; the other half are the newest of
        the rest, of any status. Without curves, cost and environment.

        Args:
            tasks: one or more of `tasks`, equal but for their reference LR.
            limit: how many at most.
            trusted_sources: the sources that count; all when None.
        """
        tasks = [tasks] if isinstance(tasks, Task) else tasks
        work = partial(reading.evidence, tasks=tasks, limit=limit, sources=trusted_sources)
        return self._do(work)

    def outcomes(
        self, tasks: Sequence[Task], limit: int, trusted_sources: Sequence[str] | None = None
    ) -> list[Outcome]:
        """Policies and scores of the runs of `evidence` that are evidence, in the same order.

        Pruned and failed runs are left out, and those that were measured on a split that
        must not be selected on. It takes a fraction of the time that whole runs take.

        Args:
            tasks: one or more of `tasks`, equal but for their reference LR.
            limit: how many runs are looked at.
            trusted_sources: the sources that count; all when None.
        """
        work = partial(outcomes, tasks=tasks, limit=limit, sources=trusted_sources)
        return self._do(work)

    def tasks(self) -> list[Task]:
        """All tasks that have runs, oldest first."""
        query = sa.select(tables.tasks).order_by(tables.tasks.c.id)
        return rows.tasks_in(self._do(partial(reading.rows_of, query=query)))

    def task_counts(
        self, tasks: Sequence[Task] | None = None
    ) -> list[tuple[Task, int, float | None]]:
        """How many runs tasks have, or all of them, and their best Top-1."""
        known = {task.uid: task for task in (self.tasks() if tasks is None else tasks)}
        query = queries.per_task(None if tasks is None else list(known))
        found = self._do(lambda connection: connection.execute(query).all())
        counted = {row.uid: row for row in found}
        return [(known[u], counted[u].runs, counted[u].top1) for u in known if u in counted]

    def has_source(self, source: str) -> bool:
        """Whether any run is from this source."""
        named = tables.runs.c.source == checks.text("source", source)
        there = sa.select(tables.runs.c.id).where(named).limit(1)
        return self._do(lambda connection: connection.scalar(there)) is not None

    def origins(self) -> list[tuple[Origin, int]]:
        """Where runs come from, and how many each, most first.

        The published results, and runs that are older than schema 2, have no origin.
        """

        def read(connection: sa.Connection) -> list[tuple[Origin, int]]:
            found = queries.counts(connection, tables.runs.c.origin_id)
            known = origins_by_id(connection, [key for key, _ in found])
            return [(known[key], number) for key, number in found if key in known]

        return self._do(read)

    def forget(
        self,
        *,
        source: str | None = None,
        file: str | None = None,
        checksum: str | None = None,
        dry_run: bool = False,
    ) -> int:
        """Remove the runs of one source, or of one imported file, with all that hangs on them.

        Args:
            source: who measured them, exactly.
            file: what they were imported from, as in `origins`.
            checksum: SHA-256 of that file, in full; with `file`, both must fit.
            dry_run: only count them.

        Returns:
            How many there were.

        Raises:
            RecordError: when neither a source nor a file is given, or both.
            DatabaseError: when they cannot be removed; then none is.
        """
        if (source is None) == (file is None and checksum is None):
            checks.refuse("forget", source, "expected either a source or a file")
        for name, value in (("source", source), ("file", file), ("checksum", checksum)):
            if value is not None:
                checks.text(name, value)
        removed = [0]  # in each try: the last finds none left if only its answer was lost

        def forget(connection: sa.Connection) -> None:
            removed.append(
                forget_runs(connection, source, file, checksum=checksum, dry_run=dry_run)
            )

        self._do(forget, write=not dry_run)
        return max(removed)

    def stats(self) -> DatabaseStats:
        """How much there is, of what, and where."""
        return self._do(statistics)


def connect(url: str | Path | None = None, *, migrated: bool = True) -> Database:
    """Open the LR database; a new one holds the published LRBench results.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER@HOST/NAME`` or a file; None for the
            environment variable ``LRBENCH_DATABASE_URL``, or else the user's own file.
        migrated: whether tables that are missing or older are made or changed, not refused.

    Raises:
        MissingExtraError: for PostgreSQL without psycopg2.
        DatabaseError: for a database that cannot be used; for an unavailable server, at once.

    >>> with connect("sqlite://") as db:
    ...     db.stats().runs
    61
    """
    return Database(open_engine(database_url(url)), MIGRATIONS if migrated else ())


def _reopened(location: str) -> Database:
    return connect(with_password(location))


@contextmanager
def opened(database: Database | str | Path | None) -> Iterator[Database]:
    """A database that is open already, or one opened for as long as it is used."""
    if isinstance(database, Database):
        yield database
        return
    with connect(database) as db:
        yield db
