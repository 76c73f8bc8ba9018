"""Runs of a database as a file that another database can import, or open in a spreadsheet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, Unpack

from lrbench_hpo.checks import printable
from lrbench_hpo.database import Database
from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.queries import Filters
from lrbench_hpo.exchange.files import STANDARD
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.merging import stored_runs
from lrbench_hpo.exchange.rows import MOST_SHOWN, ExchangeError, Progress, Rejected
from lrbench_hpo.exchange.writing import new_file

_FORMATS: dict[str, tuple[bool, bool]] = {  # by the end of the name: CSV? gzip?
    ".jsonl": (False, False),
    ".jsonl.gz": (False, True),
    ".csv": (True, False),
    ".csv.gz": (True, True),
}
_EVERY = 100  # runs between two signs of progress


@dataclass
class ExportReport:
    """What was written.

    Attributes:
        file: the file; ``-`` for standard output.
        runs: how many runs are in it.
        left_out: rows of the database that break a rule, and so are not in it.
        reasons: the first of these, as many as a person reads.
    """

    file: str
    runs: int = 0
    left_out: int = 0
    reasons: list[Rejected] = field(default_factory=list)


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

    Rows of the database that break a rule, as only other programs can write, are left out and
    counted.

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
        UnknownNameError: for an unknown LR function.
        DatabaseError: when the database cannot be read.
        BrokenPipeError: when standard output is closed at its other end.
    """
    report = ExportReport(str(file))

    def write(text: TextIO, *, csv: bool) -> None:
        form = table if csv else jsonl
        text.write((table.header(curves=curves) if csv else jsonl.header()) + "\n")
        for row in stored_runs(database, shown(database.url), curves=curves, **filters):
            if isinstance(row, Rejected):
                report.left_out += 1
                report.reasons += [row] if report.left_out <= MOST_SHOWN else []
                continue
            text.write(form.line_of(row.run, row.origin, curves=curves) + "\n")
            report.runs += 1
            if progress is not None and report.runs % _EVERY == 0:
                progress(report.runs)

    if report.file == STANDARD:
        _to_stdout(lambda text: write(text, csv=False))
        return report
    path = Path(file)
    csv, packed = _format_of(path)
    with new_file(path, force=force, packed=packed) as text:
        write(text, csv=csv)
    return report


def _format_of(path: Path) -> tuple[bool, bool]:
    for ending, form in _FORMATS.items():
        if path.name.lower().endswith(ending):
            return form
    endings = ", ".join(_FORMATS)
    raise ExchangeError(f"{printable(str(path))}: expected a name that ends with {endings}")


def _to_stdout(write: Callable[[TextIO], None]) -> None:
    try:
        write(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` does it: no error of ours, the command line is silent
        raise
    except OSError as error:
        raise ExchangeError(f"standard output: {error.strerror}") from None
