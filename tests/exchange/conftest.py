from __future__ import annotations

import contextlib
import gzip
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lrbench_hpo.database import Database, connect
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import ImportReport, import_rows
from lrbench_hpo.records.run import Run


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Each test has a home folder of its own."""


@pytest.fixture
def database() -> Iterator[Database]:
    with connect("sqlite://") as db:
        yield db


@pytest.fixture
def break_rows() -> Callable[..., None]:
    """Change rows of an SQLite file as only others can, so that they break a rule."""

    def break_rows(path: Path, *seeds: int) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            for seed in seeds:
                connection.execute(
                    "UPDATE lrbench_runs SET status = 'done' WHERE seed = ?", (seed,)
                )

    return break_rows


@pytest.fixture
def take_in(database: Database) -> Callable[..., ImportReport]:
    """Import a file into `database`."""

    def take_in(path: Path | str, *, max_bytes: int = 2**30, **options) -> ImportReport:
        with open_input(path, max_bytes) as file:
            rows = runs_in(file)
            return import_rows(database, rows, file=file.name, checksum=file.checksum, **options)

    return take_in


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (bytes or text) to a file, packed if its name says so."""

    def write(name: str, *lines: str | bytes, end: bytes = b"\n") -> Path:
        raw = b"".join((line.encode() if isinstance(line, str) else line) + end for line in lines)
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


@pytest.fixture
def as_jsonl() -> Callable[..., list[str]]:
    def lines(*runs: Run) -> list[str]:
        return [jsonl.header(), *(jsonl.line_of(run, None) for run in runs)]

    return lines


@pytest.fixture
def as_csv() -> Callable[..., list[str]]:
    def lines(*runs: Run) -> list[str]:
        return [table.header(), *(table.line_of(run, None) for run in runs)]

    return lines
