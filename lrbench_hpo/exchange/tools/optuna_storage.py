"""Opening an existing Optuna storage to read it: nothing is made, changed or unpickled."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import optuna
import sqlalchemy as sa

from lrbench_hpo.checks import printable
from lrbench_hpo.database.failures import one_line, shown
from lrbench_hpo.errors import DatabaseError, MissingExtraError, StudyError
from lrbench_hpo.exchange.rows import ExchangeError
from lrbench_hpo.study.storage import open_storage

_JOURNAL = "journal:///"
_SQLITE = b"SQLite format 3\0"
_SERVERS = ("postgresql", "mysql", "mariadb")
_TABLES = ("studies", "trials", "version_info")
_MAX_JOURNAL = 2 * 2**30  # bytes
_FORMS = "sqlite:///FILE, postgresql://USER@HOST/NAME or journal:///FILE"


def existing_storage(location: str) -> optuna.storages.BaseStorage:
    """The storage at a URL or in a file, which must be one already.

    Args:
        location: a URL of Optuna's, ``journal:///FILE``, or the file of either.

    Raises:
        ExchangeError: for one that is not there, or is no storage.
        MissingExtraError: for a server without its driver.
    """
    if location.startswith(_JOURNAL):
        return _journal(Path(location.removeprefix(_JOURNAL)))
    if "://" not in location:
        path = Path(location)
        return _sqlite(path) if _begins(path).startswith(_SQLITE) else _journal(path)
    try:
        url = sa.make_url(location)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ExchangeError(f"not a storage URL: expected {_FORMS}") from None
    if backend == "sqlite" and url.database:
        return _sqlite(Path(url.database))
    if backend not in _SERVERS:
        # Journals in Redis hold pickles, and one in memory holds nothing.
        raise ExchangeError(f"{printable(backend)}: expected a storage at {_FORMS}")
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg2")
    return _of_tables(url)


def _begins(path: Path) -> bytes:
    """The first bytes of a file."""
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no such file"
            raise ExchangeError(f"{printable(str(path))}: {kind}: expected a storage at {_FORMS}")
        with path.open("rb") as file:
            return file.read(len(_SQLITE))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExchangeError(f"{printable(str(path))}: {reason}") from None


def _journal(path: Path) -> optuna.storages.BaseStorage:
    begin = _begins(path)
    if not begin.startswith(b'{"'):
        raise ExchangeError(f"{printable(str(path))}: no journal of Optuna's: expected {_FORMS}")
    if path.stat().st_size > _MAX_JOURNAL:
        raise ExchangeError(f"{printable(str(path))}: a journal of more than {_MAX_JOURNAL} bytes")
    try:
        storage = open_storage(f"{_JOURNAL}{path}")
    except StudyError as error:
        raise ExchangeError(str(error)) from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ExchangeError(f"{printable(str(path))}: a damaged journal") from None
    if storage is None:
        raise ExchangeError(f"{printable(str(path))}: no journal of Optuna's")
    return storage


def _sqlite(path: Path) -> optuna.storages.BaseStorage:
    if not _begins(path).startswith(_SQLITE):
        raise ExchangeError(f"{printable(str(path))}: no SQLite database: expected {_FORMS}")
    # Read-only: a database of something else must not get Optuna's tables.
    name = f"file:{quote(str(path.absolute()))}"
    return _of_tables(
        sa.make_url("sqlite://").set(database=name, query={"mode": "ro", "uri": "true"})
    )


def _of_tables(url: sa.URL) -> optuna.storages.BaseStorage:
    where = url.database if url.get_backend_name() == "sqlite" else shown(url)
    text = url.render_as_string(hide_password=False)
    try:
        with one_line(url):
            engine = sa.create_engine(url)
            try:
                there = set(sa.inspect(engine).get_table_names())
            finally:
                engine.dispose()
            if not there.issuperset(_TABLES):
                raise ExchangeError(f"{printable(str(where))}: holds no Optuna studies")
            return optuna.storages.RDBStorage(text, skip_table_creation=True)
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "the driver", "postgres") from None
    except DatabaseError as error:
        raise ExchangeError(str(error)) from None
    except (RuntimeError, optuna.exceptions.OptunaError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ExchangeError(f"{printable(str(where))}: {reason}") from None
