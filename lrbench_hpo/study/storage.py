"""Opening an Optuna storage, also when many workers open a new one at once."""

from __future__ import annotations

import random
import time

import optuna
import sqlalchemy as sa
from optuna.storages.journal import JournalFileBackend

from lrbench_hpo.errors import StudyError

_JOURNAL = "journal:///"
_TRIES = 6
_FIRST_PAUSE = 0.1  # seconds; doubled each time


def open_storage(
    storage: str | optuna.storages.BaseStorage | None,
) -> optuna.storages.BaseStorage | None:
    """An Optuna storage from its URL; anything else is given back as it is.

    Workers that open a new database at the same moment all try to make its tables, and all but
    one of them fail in Optuna; here they try again.

    Args:
        storage: a URL of Optuna's, ``journal:///FILE`` for a journal file, a storage, or None for
            one in memory. Processes that share a study want a journal file or a server: on
            SQLite, Optuna may hand one waiting trial to two of them.

    Raises:
        StudyError: for a URL that names no storage, or one that cannot be opened.

    >>> open_storage(None) is None
    True
    """
    if storage is None or isinstance(storage, optuna.storages.BaseStorage):
        return storage
    if not isinstance(storage, str):
        raise StudyError(f"storage={storage!r}: expected a URL or an Optuna storage")
    if storage.startswith(_JOURNAL):
        return _journal(storage.removeprefix(_JOURNAL))
    attempt = 0
    while True:
        try:
            return optuna.storages.get_storage(storage)
        except (sa.exc.ArgumentError, ImportError, ValueError) as error:
            raise _refusal(storage, error) from None
        except (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            attempt += 1
            # Tables that another worker has just made, or a lock, pass; a file of text does not.
            passing = isinstance(error, sa.exc.OperationalError | sa.exc.IntegrityError)
            if attempt == _TRIES or not passing:
                raise _refusal(storage, error) from None
        # Not all at the same moment again.
        time.sleep(_FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))


def _journal(file: str) -> optuna.storages.BaseStorage:
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(file))
    except (OSError, ValueError) as error:
        raise _refusal(f"{_JOURNAL}{file}", error) from None


def _refusal(storage: str, error: Exception) -> StudyError:
    try:
        shown = sa.make_url(storage).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        shown = storage.split("@")[-1]
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return StudyError(
        f"storage={shown!r}: {reason}; give an Optuna storage URL such as sqlite:///study.db"
    )
