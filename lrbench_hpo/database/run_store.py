"""Storing runs in the LR database now, or later when it is available again; they wait in a file."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.journal import Journal
from lrbench_hpo.database.location import database_url, in_memory, make_room, sqlite_file
from lrbench_hpo.database.paper import refuse_false_claim
from lrbench_hpo.errors import DatabaseError, WarnOnce
from lrbench_hpo.records.run import Run

# Seconds that a call waits for a busy database, and the pause after a failed call. They are short
# because the caller has other work to do, and a run that waits costs nothing.
_BUSY_SECONDS, _PAUSE = 1, 5.0


def waiting_files(
    database: str | Path | Database | None = None, *, folder: str | Path | None = None
) -> list[tuple[Path, int]]:
    """The files in which runs wait for a database, and how many lie in each; none is touched.

    Args:
        database: as for `RunStore`.
        folder: likewise.

    Raises:
        DatabaseError: for something that names no database.
    """
    url = database.url if isinstance(database, Database) else database_url(database)
    if in_memory(url):
        return []
    found = []
    for path in Journal(folder, url).all():
        with contextlib.suppress(OSError), path.open("rb") as file:
            if lines := sum(line.endswith(b"\n") for line in file):
                found.append((path, lines))
    return found


class RunStore:
    """Stores runs in the LR database, now or as soon as it takes them.

    A run that cannot be stored is kept in memory and in a local file, and follows with the next
    runs, in order and once. What another process left waiting for the same database is picked up
    on opening. Threads may share a store.

    Args:
        database: URL or file of the LR database, or one that is open, whose own wait for
            locks then counts; ``LRBENCH_DATABASE_URL`` or the user's own when None.
        folder: where runs wait; the user's data folder when None.
        already: whether a run is in the database already, in another form; called before storing.

    Raises:
        DatabaseError: for something that names no database. One that is unavailable raises nothing.
        MissingExtraError: for PostgreSQL without psycopg2.

    >>> with RunStore("sqlite://") as store:
    ...     store.waiting
    ()
    """

    def __init__(
        self,
        database: str | Path | Database | None = None,
        *,
        folder: str | Path | None = None,
        already: Callable[[Database, Run], bool] | None = None,
    ) -> None:
        self._database = database if isinstance(database, Database) else None
        self._own = self._database is None
        given = database.url if isinstance(database, Database) else impatient(database)
        self._url = sa.make_url(given)
        self._already = already or (lambda *_: False)
        self._turn = threading.RLock()
        self._waiting: dict[str, Run] = {}
        self._unwritten: list[Run] = []
        self._next_try = 0.0
        self._warn = WarnOnce()
        self._files = None if in_memory(self._url) else Journal(folder, self._url)
        _stores.add(self)
        self.flush(force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> tuple[Run, ...]:
        """The runs that are not stored yet, oldest first."""
        with self._turn:
            return tuple(self._waiting.values())

    @property
    def file(self) -> Path | None:
        """Where all of `waiting` is kept; None when nothing waits, or only in memory."""
        with self._turn:
            written = self._waiting and not self._unwritten and self._files is not None
            return self._files.path if written and self._files is not None else None

    def add(self, *runs: Run) -> None:
        """Store runs, or keep those that the database does not take now.

        Raises:
            RecordError: for something that is no `Run`, or falsely claims to be published.
        """
        for run in runs:
            if not isinstance(run, Run):
                checks.refuse("run", run, "expected a Run: Run.from_dict makes one of a dict")
            refuse_false_claim(run.source, run.uid)
        with self._turn:
            new = [run for run in runs if run.uid not in self._waiting]
            self._waiting.update((run.uid, run) for run in new)
            self._unwritten += new
            self._store_or_keep()

    def flush(self, *, force: bool = False) -> None:
        """Try to store what waits.

        Args:
            force: try it even right after a failure, and adopt what dead processes have left.
        """
        with self._turn:
            if force and self._files is not None:
                found = self._files.adopted()
                self._waiting = {run.uid: run for run in found} | self._waiting
            if force or (self._waiting and self._is_time()):
                self._store_or_keep(force=force)

    def close(self) -> tuple[Run, ...]:
        """Try once more, and release the database and the file.

        Returns:
            The runs that still wait.
        """
        with self._turn:
            self.flush(force=True)
            if self._files is not None:
                self._files.release()
            if self._own:
                self._forget_database()
            return tuple(self._waiting.values())

    def _is_time(self) -> bool:
        return time.monotonic() >= self._next_try

    def _store_or_keep(self, *, force: bool = False) -> None:
        error = self._stored() if force or self._is_time() else None
        if self._unwritten and self._files is not None:
            try:
                self._files.append(self._unwritten)
                self._unwritten.clear()
            except OSError as full:
                reason = f"{self._files.folder}: {full.strerror}"
                message = f"{reason}; results wait in memory only: free some space"
                self._warn("memory", message, stacklevel=4)
        if error is not None:
            where = "memory" if self._files is None else self.file or self._files.folder
            message = f"{error}; results wait in {where}, and follow"
            self._warn("file", message, stacklevel=4)

    def _stored(self) -> DatabaseError | None:
        """Store all that waits; the reason why it could not be."""
        try:
            if self._database is None:
                self._database = connect(self._url.render_as_string(hide_password=False))
            waiting = self._waiting.values()
            new = [run for run in waiting if not self._already(self._database, run)]
            self._database.add(*new)
        except DatabaseError as error:
            self._next_try = time.monotonic() + _PAUSE
            if self._own:
                self._forget_database()  # a file that comes back may need its tables made
            return error
        self._waiting.clear()
        self._unwritten.clear()
        self._warn.clear()  # they are due again when runs next have to wait
        self._next_try = 0.0
        if self._files is not None:
            self._files.discard()
        return None

    def _begin_anew(self) -> None:
        """In a forked process: what waits is the parent's, and so are its files."""
        self._turn = threading.RLock()
        self._waiting, self._unwritten = {}, []
        if self._files is not None:
            self._files.release()
            self._files.path = None

    def _forget_database(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None


_stores: weakref.WeakSet[RunStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in _stores:
        store._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def impatient(database: str | Path | None) -> str:
    """The URL of a database, with a short wait for locks unless the URL sets one.

    Args:
        database: a URL or file; ``LRBENCH_DATABASE_URL`` or the user's own when None.

    Returns:
        A URL with the password, if there is one: not to be shown.

    Raises:
        DatabaseError: for something that names no database.

    >>> impatient("postgresql://host/lr")
    'postgresql+psycopg2://host/lr?connect_timeout=3'
    """
    url = database_url(database)
    if not in_memory(url):
        file = sqlite_file(url)
        if file is not None and file.is_dir():
            make_room(url)  # which refuses it in one line
        name, seconds = ("connect_timeout", 3) if file is None else ("timeout", _BUSY_SECONDS)
        if name not in url.query:
            url = url.update_query_dict({name: str(seconds)})
    return url.render_as_string(hide_password=False)
