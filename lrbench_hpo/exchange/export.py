"""Runs of a database as a file that others can import, or open in a spreadsheet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, Unpack

from lrbench_hpo.checks import printable
from lrbench_hpo.database import Database
from lrbench_hpo.database.queries import Filters
from lrbench_hpo.exchange import jsonl, table
from lrbench_hpo.exchange.files import STANDARD
from lrbench_hpo.exchange.reading import ExchangeError, Progress
from lrbench_hpo.exchange.writing import new_file

_FORMATS: dict[str, tuple[bool, bool]] = {  # by the end of the name: CSV? gzip?
    ".jsonl": (False, False),
    ".jsonl.gz": (False, True),
    ".csv": (True, False),
    ".csv.gz": (True, True),
}
_EVERY = 100  # runs between two signs of progress


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        file: the file; ``-`` for standard output.
        runs: how many runs are in it.
    """

    file: str
    runs: int


def export(
    database: Database,
    file: str | Path,
    *,
    curves: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    **filters: Unpack[Filters],
) -> ExportReport:
    """Write runs with their origins, oldest first, to a file that `db import` reads.

    Args:
        database: where from.
        file: a name that ends with .jsonl, .csv, .jsonl.gz or .csv.gz; ``-`` writes JSON Lines to
            standard output.
        curves: whether to write learning curves too.
        force: whether to replace a file that is there.
        progress: called with the number of runs written.
        filters: those of `Database.find`.

    Raises:
        ExchangeError: for a file that is there, cannot be written, or has another ending.
        UnknownNameError: for an LR function that nobody knows.
        DatabaseError: when the database cannot be read.
    """

    def write(text: TextIO, *, csv: bool) -> int:
        form = table if csv else jsonl
        text.write((table.header(curves=curves) if csv else jsonl.header()) + "\n")
        number = 0
        for number, (run, origin) in enumerate(database.stored(curves=curves, **filters), 1):
            text.write(form.line_of(run, origin, curves=curves) + "\n")
            if progress is not None and number % _EVERY == 0:
                progress(number)
        return number

    if str(file) == STANDARD:
        return ExportReport(STANDARD, _to_stdout(lambda text: write(text, csv=False)))
    path = Path(file)
    csv, packed = _format_of(path)
    with new_file(path, force=force, packed=packed) as text:
        return ExportReport(str(file), write(text, csv=csv))


def _format_of(path: Path) -> tuple[bool, bool]:
    for ending, form in _FORMATS.items():
        if path.name.lower().endswith(ending):
            return form
    endings = ", ".join(_FORMATS)
    raise ExchangeError(f"{printable(str(path))}: expected a name that ends with {endings}")


def _to_stdout(write: Callable[[TextIO], int]) -> int:
    try:
        runs = write(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ExchangeError("standard output was closed: not all runs were written") from None
    except OSError as error:
        raise ExchangeError(f"standard output: {error.strerror}") from None
    return runs
