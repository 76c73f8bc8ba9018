"""A SQLAlchemy engine that waits for other writers and really rolls back."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import in_memory, make_room
from lrbench_hpo.errors import DatabaseError, MissingExtraError

BUSY_SECONDS = 30.0  # how long a writer waits for others; ?timeout=… in the URL says otherwise
_WRITES = "lrbench_writes"


def open_engine(url: sa.URL) -> sa.Engine:
    """An engine for a URL of `database_url`; nothing is read or written yet.

    Raises:
        MissingExtraError: for PostgreSQL without psycopg2.
        DatabaseError: when an SQLite file's folder is missing and cannot be made.
    """
    if url.get_backend_name() != "sqlite":
        try:
            return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
        except ModuleNotFoundError as error:
            raise MissingExtraError.of(error.name or "psycopg2", "postgres") from None
    make_room(url)
    options: dict[str, Any] = {} if "timeout" in url.query else {"timeout": BUSY_SECONDS}
    if in_memory(url):
        options["check_same_thread"] = False  # `Database` has its threads take turns
    # A connection per transaction costs 0.2 ms, and survives forks and threads.
    pool = StaticPool if in_memory(url) else NullPool
    try:
        engine = sa.create_engine(url, poolclass=pool, connect_args=options, hide_parameters=True)
    except (ValueError, TypeError):
        raise DatabaseError(f"{shown(url)}: a setting after ? that SQLite does not know") from None
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def writing(engine: sa.Engine) -> sa.Engine:
    """The same engine, whose transactions hold the write lock from their start.

    A transaction that reads first and then writes could find that another one wrote in between,
    and would have to start again.
    """
    return engine.execution_options(**{_WRITES: True})


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 begins nothing by itself: `_on_begin` does
    connection.execute("PRAGMA foreign_keys = ON")


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
