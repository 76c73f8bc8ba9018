"""The files in third-party folders, read without ever leaving these folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrbench_hpo.checks import printable
from lrbench_hpo.errors import RecordError
from lrbench_hpo.exchange.rows import ExchangeError

MAX_FOLDERS = 100_000
MAX_DEPTH = 16  # levels of folders
MAX_SMALL = 16 * 2**20  # bytes of a file that is read as a whole
MAX_LARGE = 2 * 2**30  # bytes of a log
MAX_LINE = 8 * 2**20  # bytes


def checked(folder: str | Path) -> Path:
    """The folder, if there is one.

    Raises:
        ExchangeError: for anything else.
    """
    path = Path(folder)
    try:
        if path.is_dir():
            return path
        what = "this is a file: name the folder" if path.exists() else "no such folder"
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
    raise ExchangeError(f"{printable(str(path))}: {what}")


def walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its plain files, by name; links are not followed.

    Raises:
        ExchangeError: for more than `MAX_FOLDERS`, or one that cannot be read.
    """
    count = 0

    def refuse(error: OSError) -> None:
        raise ExchangeError(f"{printable(str(error.filename))}: {error.strerror}") from None

    for place, folders, _ in os.walk(root, followlinks=False, onerror=refuse):
        if (count := count + 1) > MAX_FOLDERS:
            raise ExchangeError(f"{printable(str(root))}: more than {MAX_FOLDERS:,} folders")
        depth = len(Path(place).relative_to(root).parts)
        folders[:] = [] if depth >= MAX_DEPTH else sorted(folders)
        yield Path(place), files_in(Path(place))


def files_in(folder: Path) -> list[Path]:
    """The plain files of a folder, by name; links and pipes are left out."""
    with os.scandir(folder) as entries:
        return sorted(Path(one.path) for one in entries if one.is_file(follow_symlinks=False))


def small(path: Path) -> str:
    """The text of a file of a sane size.

    Raises:
        RecordError: for one that is larger, or no text.
    """
    if path.stat().st_size > MAX_SMALL:
        raise RecordError(f"{path.name}: larger than {MAX_SMALL // 2**20} MiB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecordError(f"{path.name}: not UTF-8") from None


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time.

    Raises:
        RecordError: for a file or line that is too long, or no text.
    """
    if path.stat().st_size > MAX_LARGE:
        raise RecordError(f"{path.name}: larger than {MAX_LARGE // 2**30} GiB")
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise RecordError(f"{path.name}: a line of more than {MAX_LINE // 2**20} MiB")
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise RecordError(f"{path.name}: not UTF-8") from None
            if "\0" in text:
                raise RecordError(f"{path.name}: expected text, got a NUL byte")
            yield text


def json_of(name: str, text: str) -> Any:
    """JSON as Python programs write it, NaN and Infinity included.

    Raises:
        RecordError: for anything else.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name}: not JSON: {(str(error).splitlines() or ['?'])[0]}") from None
