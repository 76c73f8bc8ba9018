"""The runs that come with the package: random LR policies, measured on eight small real tasks.

They are no part of a new database: that many rows would make its first opening slow, and its
answers those of small networks. `benchmarks/transfer/pool.py` made them, and makes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from lrbench_hpo.database import Database
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import ImportReport, import_rows
from lrbench_hpo.exchange.rows import Progress

SOURCE = "lrbench-hpo"  # of these runs
FOLDER = "measured"
_PACKAGE = "lrbench_hpo.database"


@contextmanager
def measured_files() -> Iterator[list[Path]]:
    """The files, one a task, by name; they may not exist after the `with`.

    >>> with measured_files() as paths:
    ...     len(paths)
    8
    """
    with as_file(files(_PACKAGE) / FOLDER) as folder:
        yield sorted(folder.glob("*.jsonl.gz"))


def import_measured(
    database: Database | None, *, progress: Progress | None = None
) -> list[ImportReport]:
    """Store the runs that come with the package; those that are there already stay as they are.

    `Database.forget(source="lrbench-hpo")` takes them out again.

    Args:
        database: where to; None only checks them, and all count as new then.
        progress: called with the number of runs done.

    Returns:
        What became of each file's runs. Their origin names the file as it is called in the
        package, the same on every machine.

    Raises:
        DatabaseError: when a batch could not be stored; those before it are.
    """
    reports: list[ImportReport] = []
    with measured_files() as paths:
        for path in paths:
            done = sum(report.good for report in reports)
            reports.append(_import_one(database, path, done, progress))
            if reports[-1].interrupted:
                break
    return reports


def _import_one(
    database: Database | None, path: Path, done: int, progress: Progress | None
) -> ImportReport:
    def report(rows: int) -> None:
        if progress is not None:
            progress(done + rows)

    with open_input(path) as opened:
        name = f"{_PACKAGE.replace('.', '/')}/{FOLDER}/{path.name}"
        return import_rows(
            database, runs_in(opened), file=name, checksum=opened.checksum, progress=report
        )
