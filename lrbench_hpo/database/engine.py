"""A SQLAlchemy engine that waits for other writers, and outlives forks and lost connections."""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import in_memory, make_room, schema_of
from lrbench_hpo.errors import DatabaseError, MissingExtraError

BUSY_SECONDS = 30.0  # how long a writer waits for other writers, unless the URL has ?timeout=…
_WRITES = "lrbench_writes"
# A server that drops packets is found out in seconds, not in TCP's own minutes.
_SERVER_DEFAULTS = {
    "connect_timeout": 10,  # seconds
    "keepalives_idle": 30,  # seconds
    "tcp_user_timeout": 30_000,  # milliseconds
    "application_name": "lrbench_hpo",
    "client_encoding": "utf8",  # whatever the terminal's encoding is
}


def open_engine(url: sa.URL) -> sa.Engine:
    """An engine for a URL of `database_url`; nothing is read or written yet.

    Raises:
        MissingExtraError: for PostgreSQL without psycopg2.
        DatabaseError: when an SQLite file's folder is missing and cannot be made.
    """
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


def _postgresql(url: sa.URL) -> sa.Engine:
    schema = schema_of(url)
    defaults = {name: value for name, value in _SERVER_DEFAULTS.items() if name not in url.query}
    import tenacity  # noqa: F401  # for `transactions`: a fork in the middle of its import hangs

    try:
        engine = sa.create_engine(
            url,
            hide_parameters=True,
            connect_args=defaults,
            execution_options={"schema_translate_map": {None: schema}} if schema else {},
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "psycopg2", "postgres") from None
    sa.event.listen(engine, "do_connect", _without_own_settings)
    if "lock_timeout" not in str(url.query.get("options", "")):
        sa.event.listen(engine, "connect", partial(_be_patient, seconds=patience(url)))
    _forkable.add(engine)
    return engine


def patience(url: sa.URL) -> float:
    """How long to wait for an unavailable server, in seconds.

    >>> patience(sa.make_url("postgresql://host/lr?connect_timeout=3"))
    3.0
    """
    try:
        return float(str(url.query.get("connect_timeout", BUSY_SECONDS)))
    except ValueError:
        return BUSY_SECONDS  # psycopg2 refuses it in its own words


def _without_own_settings(_: Any, __: Any, ___: Any, settings: dict[str, Any]) -> None:
    settings.pop("schema", None)  # ours: psycopg2 knows none


def _be_patient(connection: Any, _: Any, *, seconds: float) -> None:
    """Wait for a locked table as long as for a server, not for ever."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{seconds * 1000:.0f}",))
    connection.commit()


# A forked process must not speak on its parent's connections, nor close them.
_forkable: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


def _forget_connections() -> None:
    for engine in _forkable:
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_connections)


def _sqlite(url: sa.URL) -> sa.Engine:
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
