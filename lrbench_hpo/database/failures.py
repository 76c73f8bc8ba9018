"""Database failures as errors of one line that says what to do."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import sqlalchemy as sa

from lrbench_hpo.database.location import place
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

# By SQLSTATE; PostgreSQL's own words are put before them.
_SERVER_ADVICE: Mapping[str, str] = {
    "25006": "read-only: connect to the primary server, or as a role that may write",
    "42501": "ask for a role that may: `lrbench-hpo db roles` prints the SQL that makes one",
    "53100": "the server's disk is full: nothing of this was stored; make room and try again",
    "53300": "the server has no connection left: try again, or raise its max_connections",
    "55P03": "locked by another session: try again, or end that session",
    "57014": "it took longer than the server allows: raise its statement_timeout",
    "3D000": "make it with: createdb",
    "3F000": "its owner makes it by opening the database once",
}
_CONNECT_ADVICE: Mapping[str, str] = {
    "no password supplied": "put it in ~/.pgpass, or the whole URL in LRBENCH_DATABASE_URL",
    "password authentication failed": "look at ~/.pgpass, PGPASSWORD or LRBENCH_DATABASE_URL",
    "could not translate host name": "is the host's name right?",
    "does not exist": "make it with createdb or createuser, or name another",
    "invalid connection option": "psycopg2 does not know that setting: see docs/database.md",
}


def shown(url: sa.URL) -> str:
    """A URL as it may be shown: never with a password, which may hide in the query too.

    >>> shown(sa.make_url("postgresql://me:secret@host/lr?sslpassword=other&schema=team"))
    'postgresql://me:***@host/lr?schema=team'
    """
    backend = url.get_backend_name()  # without the driver, which no user chose
    if backend == "sqlite":
        return url.database or "the database in memory"
    return url.set(drivername=backend, query=place(url)).render_as_string(hide_password=True)


@contextmanager
def one_line(url: sa.URL) -> Iterator[None]:
    """Turn SQLAlchemy's errors into a `DatabaseError` of one line without the password."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseError(f"{shown(url)}: {_without_secrets(url, _reason(cause))}") from None


def _reason(cause: BaseException) -> str:
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None and (code & 0xFF) in _ADVICE:
        return _ADVICE[code & 0xFF]
    # The first line describes the failure; the others repeat the statement.
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    server = getattr(cause, "pgcode", None)
    words = (lines[0] if server and lines else " ".join(lines))[:300] or type(cause).__name__
    advice = _SERVER_ADVICE.get(server or "") or next(
        (advice for sign, advice in _CONNECT_ADVICE.items() if not server and sign in words), None
    )
    return f"{words}: {advice}" if advice else words


def _without_secrets(url: sa.URL, text: str) -> str:
    secrets = [url.password, *(v for k, v in url.query.items() if "password" in k.lower())]
    for secret in filter(None, secrets):
        for form in {str(secret), quote(str(secret)), quote_plus(str(secret))}:
            text = text.replace(form, "***")
    return text


def vanished(what: str) -> DatabaseError:
    """The error when another process removes rows as fast as they are made here."""
    return DatabaseError(f"{what} is removed again and again by another process: try again later")


class BadRowError(DatabaseError):
    """A row that breaks a rule, as only other programs can write.

    Args:
        place: the row, as ``run 62``.
        reason: the rule that it breaks.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)  # both, so that it can be pickled
        self.place, self.reason = place, f"breaks a rule: {reason}"

    def __str__(self) -> str:
        return f"{self.place} in the database {self.reason}"


OnBadRow = Callable[[str, str], object]  # called with the place of a bad row and the reason


@contextmanager
def left_out(on_bad: OnBadRow | None = None) -> Iterator[None]:
    """Skip a row that breaks a rule: the other rows are still returned.

    Args:
        on_bad: called with the row's place and the reason; a warning when None.
    """
    try:
        yield
    except BadRowError as error:
        if on_bad is None:
            warnings.warn(f"{error}; it is left out", stacklevel=4)
        else:
            on_bad(error.place, error.reason)
