from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.records.run import Run

SCHEMA_1 = Path(__file__).with_name("schema_1")  # a database as version 1 of the schema left it
_SUMMARY = pytest.StashKey[list[str]]()


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Each test has a home folder of its own."""


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A new database, on each back end in turn."""
    with connect(database_url) as db:
        yield db


@pytest.fixture
def sql() -> Callable[..., Sequence[Any]]:
    """Run one SQL statement on a database by URL, behind the package's back: its rows."""

    def run(url: str, statement: str, **values: object) -> Sequence[Any]:
        with contextlib.closing(_raw(url).connect()) as connection:
            result = connection.execute(sa.text(statement), values)
            rows = result.all() if result.returns_rows else ()
            connection.commit()
        return rows

    return run


@pytest.fixture
def message_of() -> Callable[..., str]:
    """The message of an error that a call raises: one line, with nothing behind it."""

    def message(call: Callable[[], object]) -> str:
        with pytest.raises(LRBenchError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None
        return str(caught.value)

    return message


@pytest.fixture
def with_query() -> Callable[..., str]:
    """A URL with more settings after its question mark."""

    def add(url: str, **query: str) -> str:
        return sa.make_url(url).update_query_dict(query).render_as_string(hide_password=False)

    return add


@pytest.fixture
def make_schema_1() -> Callable[[str], list[Run]]:
    """Fill an empty database as version 1 left it; gives the runs beside the published ones."""

    def make(url: str) -> list[Run]:
        kind = sa.make_url(url).get_backend_name()
        with contextlib.closing(_raw(url).connect()) as connection:
            for name in (f"{kind}.sql", "rows.sql"):
                for statement in (SCHEMA_1 / name).read_text("utf-8").split(";\n"):
                    if statement.strip():
                        connection.execute(sa.text(statement.replace(":", r"\:")))
            if kind == "postgresql":
                for table in ("lrbench_tasks", "lrbench_runs"):
                    connection.exec_driver_sql(
                        f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"  # noqa: S608
                    )
            connection.commit()
        lines = (SCHEMA_1 / "runs.jsonl").read_text("utf-8").splitlines()
        return [Run.from_dict(json.loads(line)) for line in lines]

    return make


def _raw(url: str) -> sa.Engine:
    return sa.create_engine(
        sa.make_url(url).set(
            drivername="sqlite" if url.startswith("sqlite") else "postgresql+psycopg2"
        ),
        poolclass=sa.NullPool,
    )


@pytest.fixture
def summary(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end of the tests, whether they failed or not."""

    def tell(line: str) -> None:
        request.config.stash.setdefault(_SUMMARY, []).append(line)

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(_SUMMARY, [])
    if lines:
        terminalreporter.section("failures of the database, and what was lost")
    for line in lines:
        terminalreporter.line(line)


@pytest.fixture
def start_python(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start a real Python process on a file or a piece of code; it ends with the test at last."""
    started = []

    def start(code: str | Path, *arguments: object) -> subprocess.Popen:
        program = [str(code)] if isinstance(code, Path) else ["-c", code]
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ.copy(),
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has forked
        process.communicate()
