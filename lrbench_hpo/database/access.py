"""An open database: each piece of work on it is one transaction."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from lrbench_hpo.database.engine import writing
from lrbench_hpo.database.failures import one_line, shown
from lrbench_hpo.database.location import in_memory
from lrbench_hpo.database.migrations import MIGRATIONS, Migration, migrate
from lrbench_hpo.database.transactions import in_transaction
from lrbench_hpo.errors import DatabaseError

_Result = TypeVar("_Result")


class Access:
    """What every question to a database goes through: turns, transactions, errors of one line."""

    def __init__(self, engine: sa.Engine, steps: Sequence[Migration] = MIGRATIONS) -> None:
        """Bring the database behind an engine of `open_engine` to this version.

        Raises:
            DatabaseError: for a database that cannot be used, and why.
        """
        self._engine = engine
        self._closed = False
        # Threads share the one connection of a database in memory, and so take turns.
        self._turn: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if in_memory(engine.url):
            self._turn = threading.RLock()
            _in_memory.add(self)
        migrate(engine, steps)

    @property
    def url(self) -> sa.URL:
        """Where it is, with the password if there is one: not to be shown."""
        return self._engine.url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self._engine.url)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the database cannot be used after this."""
        self._closed = True
        self._engine.dispose()

    def _do(self, work: Callable[[sa.Connection], _Result], *, write: bool = False) -> _Result:
        """Do a piece of work as one transaction; wait for a server that is unavailable."""
        if self._closed:
            raise DatabaseError(f"{shown(self._engine.url)}: closed: connect again")
        engine = writing(self._engine) if write else self._engine
        with self._turn, one_line(engine.url):
            return in_transaction(engine, work)


# Their turns may be held by threads that a forked process does not have.
_in_memory: weakref.WeakSet[Access] = weakref.WeakSet()


def _unlock() -> None:
    for database in _in_memory:
        database._turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
