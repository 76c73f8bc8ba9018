"""What goes wrong with a database, as one line that says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa

from lrbench_hpo.errors import DatabaseError

_ADVICE: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "locked by another process: try again, or end that process",
    sqlite3.SQLITE_LOCKED: "locked by another connection: try again",
    sqlite3.SQLITE_READONLY: "read-only: change its permissions, or name another with "
    "--database or LRBENCH_DATABASE_URL",
    sqlite3.SQLITE_FULL: "the disk is full: nothing of this was stored; make room and try again",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written: check it and its free space",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that the folder is there and may be written",
    sqlite3.SQLITE_NOTADB: "not an SQLite database: name another file",
    sqlite3.SQLITE_CORRUPT: "damaged: restore a copy, or name another file",
}


def shown(url: sa.URL) -> str:
    """A URL as it may be shown: never with a password, which may hide in the query too.

    >>> shown(sa.make_url("postgresql://me:secret@host/lr?sslpassword=other"))
    'postgresql://me:***@host/lr'
    """
    if url.get_backend_name() == "sqlite":
        return url.database or "the database in memory"
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def one_line(url: sa.URL) -> Iterator[None]:
    """Turn SQLAlchemy's errors into a `DatabaseError` of one line without the password."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", None)
        advice = _ADVICE.get(code & 0xFF) if code is not None else None
        reason = advice or " ".join(str(cause).split())[:300] or type(cause).__name__
        if url.password:
            reason = reason.replace(url.password, "***")
        raise DatabaseError(f"{shown(url)}: {reason}") from None
