"""Where the LR database is: a URL, a file, or the user's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy as sa
from platformdirs import user_data_path

from lrbench_hpo.errors import DatabaseError

VARIABLE = "LRBENCH_DATABASE_URL"
FILE_NAME = "lrbench.db"

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
}
_FORMS = "a file, sqlite:///FILE, or postgresql://USER@HOST/NAME"
_LONGEST_NAME = 63  # bytes; PostgreSQL would cut the rest off in silence


def database_url(location: str | Path | None = None) -> sa.URL:
    """The URL of a database.

    Args:
        location: a URL or a file; None for the environment variable ``LRBENCH_DATABASE_URL``, or
            else a file in the user's data folder.

    Raises:
        DatabaseError: for something that is neither a file's name nor a URL understood here.

    >>> database_url("sqlite:////data/lr.db").database
    '/data/lr.db'
    """
    if location is None:
        location = os.environ.get(VARIABLE) or user_data_path("lrbench_hpo") / FILE_NAME
    if not isinstance(location, (str, Path)):
        raise DatabaseError(f"database={type(location).__name__}: expected {_FORMS}")
    text = str(location)
    if not text.strip() or "\0" in text:
        raise DatabaseError(f"database={text!r}: expected {_FORMS}")
    if re.search(r"\b(host|hostaddr|dbname|user|password)\s*=", text) and "://" not in text:
        raise DatabaseError(f"database: key=value pairs are libpq's own form, expected {_FORMS}")
    scheme = re.match(r"([A-Za-z][\w+.-]+):", text)  # two letters and more: C: is a drive
    if isinstance(location, Path) or scheme is None:
        return _file_url(text)
    return _known_url(text, scheme[1])


def _file_url(path: str) -> sa.URL:
    return sa.URL.create("sqlite", database=str(Path(path).expanduser().absolute()))


def _known_url(text: str, scheme: str) -> sa.URL:
    # No message here repeats the URL: it may hold a password.
    if scheme.lower() == "postgres":
        raise DatabaseError("a postgres:// URL: write postgresql://")
    if scheme.lower() not in _DRIVERS:
        raise DatabaseError(f"unknown database kind {scheme!r}: expected {_FORMS}")
    if not text[len(scheme) :].startswith("://"):
        raise DatabaseError(f"a database URL starts with {scheme}://, expected {_FORMS}")
    try:
        url = sa.make_url(text).set(drivername=_DRIVERS[scheme.lower()])
    except (sa.exc.ArgumentError, ValueError):
        raise DatabaseError(f"a {scheme} URL that cannot be read: expected {_FORMS}") from None
    if url.get_backend_name() != "sqlite":
        if re.search(r"[?&]schema=(&|$)", text):  # which SQLAlchemy drops
            raise DatabaseError("schema='': expected one name, as in ?schema=team")
        schema_of(url)
        return url
    if in_memory(url) or "uri" in url.query:
        return url
    return url.set(database=_file_url(url.database or "").database)


# Settings after the ? that identify the database, and are no secrets.
_PLACE = ("host", "hostaddr", "port", "dbname", "service", "schema")


def place(url: sa.URL) -> dict[str, str]:
    """Those of a URL's settings that identify the database.

    >>> place(sa.make_url("postgresql:///lr?host=/run/pg&schema=team&sslmode=require"))
    {'host': '/run/pg', 'schema': 'team'}
    """
    return {name: str(url.query[name]) for name in _PLACE if name in url.query}


def schema_of(url: sa.URL) -> str | None:
    """The schema that a URL names by ``?schema=…``.

    Raises:
        DatabaseError: for a name that PostgreSQL would not keep as it is.

    >>> schema_of(sa.make_url("postgresql://host/lr?schema=team"))
    'team'
    """
    if "schema" not in url.query:
        return None
    name = url.query["schema"]
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DatabaseError(f"schema={name!r}: expected one name, as in ?schema=team")
    if len(name.encode()) > _LONGEST_NAME:
        raise DatabaseError(f"schema={name!r}: expected at most {_LONGEST_NAME} bytes")
    if name.startswith("pg_") or "%" in name:  # psycopg2 reads % as its own sign
        raise DatabaseError(f"schema={name!r}: expected a name without % that pg_ does not begin")
    return name


def has_password(location: str) -> bool:
    """Whether a location shows a password to whoever sees it.

    >>> has_password("postgresql://me:secret@host/lr"), has_password("journal:///study.log")
    (True, False)
    """
    try:
        url = sa.make_url(location)
    except (sa.exc.ArgumentError, ValueError):
        return False  # a file; or nothing that a password could be read from
    return bool(url.password or _secrets(url))


def _secrets(url: sa.URL) -> list[str]:
    return [name for name in url.query if "password" in name.lower()]


def without_password(location: str | Path | None) -> str | Path | None:
    """The same location as it may be written to a file: the password comes from elsewhere then.

    >>> without_password("postgresql://me:secret@host/lr?sslpassword=other&sslmode=require")
    'postgresql://me@host/lr?sslmode=require'
    """
    if location is None or isinstance(location, Path) or "://" not in location:
        return location
    url = database_url(location)
    if url.get_backend_name() == "sqlite":
        return location
    query = {name: value for name, value in url.query.items() if name not in _secrets(url)}
    # Made again: to URL.set(), None means "as it was".
    return sa.URL.create(
        url.get_backend_name(), url.username, None, url.host, url.port, url.database, query
    ).render_as_string(hide_password=False)


def with_password(location: str | Path | None) -> str | Path | None:
    """A location that lost its password, as the environment has it, if it is the same one there."""
    here = os.environ.get(VARIABLE)
    same = isinstance(location, str) and bool(here) and without_password(here) == location
    return here if same else location


def in_memory(url: sa.URL) -> bool:
    """Whether the database exists in memory only, until it is closed."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def sqlite_file(url: sa.URL) -> Path | None:
    """The file of an SQLite database; None for one in memory or on a server."""
    if url.get_backend_name() != "sqlite" or in_memory(url):
        return None
    name = url.database or ""
    return Path(re.sub(r"^file:(?://(?=/))?", "", name) if "uri" in url.query else name)


def make_room(url: sa.URL) -> None:
    """Make the folder of an SQLite file, unless it is only to be read.

    Raises:
        DatabaseError: when the folder cannot be made, or the file is a folder.
    """
    file = sqlite_file(url)
    if file is None or "uri" in url.query:
        return
    if file.is_dir():
        raise DatabaseError(f"{file}: this is a folder: name a file in it, as {file / FILE_NAME}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"its folder cannot be made ({error.strerror}): name another with --database"
        raise DatabaseError(f"{file}: {reason} or {VARIABLE}") from None
