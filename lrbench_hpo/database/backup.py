"""A copy of an SQLite file, made before the file is changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import sqlite_file
from lrbench_hpo.errors import DatabaseError


def back_up(url: sa.URL, version: int) -> Path | None:
    """Copy the file of a database beside it, as ``FILE.schema-N.bak``.

    Args:
        url: of the database, which must not change meanwhile.
        version: of its schema, for the name.

    Returns:
        The copy; None for a database that is no file.

    Raises:
        DatabaseError: when there is no room for it, or it cannot be written.
    """
    file = sqlite_file(url)
    if file is None or not file.exists():
        return None
    copy = _free(file.with_name(f"{file.name}.schema-{version}.bak"))
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    read_only = f"{file.absolute().as_uri()}?mode=ro"
    try:
        part.touch(mode=0o600)  # before anything is in it
        with (
            contextlib.closing(sqlite3.connect(read_only, uri=True)) as old,
            contextlib.closing(sqlite3.connect(part)) as new,
        ):
            old.backup(new)
        shutil.copymode(file, part)
        os.replace(part, copy)
    except (sqlite3.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatabaseError(
            f"{shown(url)}: not changed, because no copy of it could be made ({copy}: {reason}): "
            "make room there, and try again"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return copy


def _free(copy: Path) -> Path:
    """A name that nothing has yet: an earlier copy may be all that is left of something."""
    number, free = 1, copy
    while free.exists():
        number += 1
        free = copy.with_name(f"{copy.name}.{number}")
    return free
