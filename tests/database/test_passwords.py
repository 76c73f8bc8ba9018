"""A password is never to be seen where it does not belong, wherever it comes from."""

from __future__ import annotations

import io
import logging
import os
import pickle
import secrets
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import connect
from lrbench_hpo.database.run_store import RunStore
from lrbench_hpo.errors import LRBenchError

WRONG = f"{secrets.token_hex(8)} wr@ng"


@pytest.fixture(autouse=True)
def _no_other_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


@pytest.fixture
def seen(guarded_postgres) -> Callable[[object], bool]:
    """Whether a password is in a text, however it is written: its beginning has no signs."""

    def seen(text: object) -> bool:
        shown = text if isinstance(text, bytes) else str(text).encode()
        return any(word[:16].encode() in shown for word in (guarded_postgres.password, WRONG))

    assert seen(repr(guarded_postgres.password))
    return seen


@pytest.fixture
def url(guarded_postgres) -> str:
    """With the password."""
    return guarded_postgres.url


@pytest.fixture
def plain(url: str) -> str:
    """Without the password."""
    parts = sa.make_url(url)
    return f"postgresql://postgres@{parts.host}:{parts.port}/postgres"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, with nothing held back."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    names = ("", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "lrbench_hpo", "tenacity")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    loggers[0].addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield stream
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def everything_of(error: BaseException) -> str:
    """All that a program may show of an error: the errors behind it, and where they came from."""
    parts: list[str] = []
    waiting: list[BaseException | None] = [error]
    known: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in known:
            known.add(id(one))
            parts += [str(one), repr(one), repr(one.args), repr(vars(one))]
            waiting += [one.__cause__, one.__context__, getattr(one, "orig", None)]
    return "\n".join([*parts, *traceback.format_exception(error)])


def failing(call: Callable[[], object]) -> LRBenchError:
    with pytest.raises(LRBenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def in_pgpass(plain: str, password: str, file: Path) -> None:
    parts = sa.make_url(plain)
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"{parts.host}:{parts.port}:*:{parts.username}:{escaped}\n")
    file.chmod(0o600)


def test_a_password_in_the_url_works_and_is_not_shown(url, make_run, seen, log, recwarn) -> None:
    with connect(url) as db:
        db.add(make_run())
        assert db.find("digits", curves=True) == [make_run()]
        origins = [origin for _, origin in db.stored()]
        shown = [repr(db), str(db), db.stats(), db.origins(), origins, db.tasks(), db.url, db]
        assert not any(map(seen, shown))
        assert not seen(repr(db.url))
        assert ":***@" in repr(db)
        db.forget(source="local")
    assert "INSERT INTO lrbench_runs" in log.getvalue()
    assert not seen(log.getvalue())
    assert not any(seen(warning.message) for warning in recwarn)


@pytest.mark.parametrize(
    "change",
    [
        {"password": WRONG},
        {"username": "nobody", "password": WRONG},
        {"database": "no_such"},
        {"host": "no-such-host.invalid"},
        {"port": 1},
        {"query": {"sslmode": "require"}},
        {"query": {"bogus": "1"}},
        {"query": {"connect_timeout": "soon"}},
        {"query": {"password": WRONG}},
        {"query": {"sslpassword": WRONG, "sslmode": "maybe"}},
        {"query": {"options": "-cnonsense=1"}},
        {"query": {"schema": "pg_x", "password": WRONG}},
        {"query": {"host": "127.0.0.1:1", "password": WRONG}},
    ],
)
def test_no_error_shows_it(url, seen, log, change: dict[str, Any]) -> None:
    other = sa.make_url(url).set(**change).render_as_string(hide_password=False)
    error = failing(lambda: connect(other))
    assert not seen(everything_of(error))
    assert not seen(log.getvalue())


@pytest.mark.parametrize(
    "text",
    [
        "postgres://me:{}@host/lr",
        "postgresql+asyncpg://me:{}@host/lr",
        "mysql://me:{}@host/lr",
        "postgresql:/me:{}@host/lr",
        "postgresql://me:{}@host:port/lr",
        "postgresql://me:{}@[::1/lr",
        "postgresql://me:{}@host:99999999/lr?connect_timeout=1",
    ],
)
def test_no_url_that_cannot_be_read_shows_it(seen, text: str) -> None:
    for word in (WRONG, WRONG.replace("@", "%40").replace(" ", "+")):
        assert not seen(everything_of(failing(lambda w=word: connect(text.format(w)))))


def test_an_error_of_a_call_does_not_show_it(url, make_run, seen, sql, log) -> None:
    with connect(url) as db:
        sql(url, "ALTER TABLE lrbench_curves RENAME TO hidden")
        try:
            for call in (
                lambda: db.add(make_run()),
                lambda: db.find(curves=True),
                lambda: list(db.stored()),
            ):
                error = failing(call)
                assert "lrbench_curves" in str(error)
                assert not seen(everything_of(error))
        finally:
            sql(url, "ALTER TABLE hidden RENAME TO lrbench_curves")
    assert not seen(everything_of(failing(db.stats)))
    assert not seen(log.getvalue())


def test_a_pickle_holds_none_and_finds_it_again(url, plain, seen, monkeypatch, tmp_path) -> None:
    with connect(url) as db:
        pickled = [pickle.dumps(db, protocol) for protocol in range(2, 6)]
    assert not any(map(seen, pickled))
    error = failing(lambda: pickle.loads(pickled[0]))  # noqa: S301
    assert "no password supplied" in str(error)
    assert not seen(everything_of(error))
    with monkeypatch.context() as here:
        here.setenv("LRBENCH_DATABASE_URL", url)
        with pickle.loads(pickled[0]) as other:  # noqa: S301
            assert other.stats().runs == 61
    with monkeypatch.context() as here:
        here.setenv("PGPASSWORD", sa.make_url(url).password)
        with pickle.loads(pickled[-1]) as other:  # noqa: S301
            assert other.stats().runs == 61
    in_pgpass(plain, sa.make_url(url).password, tmp_path / "pass")
    with monkeypatch.context() as here:
        here.setenv("PGPASSFILE", str(tmp_path / "pass"))
        with pickle.loads(pickled[-1]) as other:  # noqa: S301
            assert other.stats().runs == 61


def test_databases_that_pickle_and_one_that_does_not(tmp_path, make_run) -> None:
    with connect(tmp_path / "lr.db") as db:
        db.add(make_run())
        with pickle.loads(pickle.dumps(db)) as other:  # noqa: S301
            assert other.find("digits") == db.find("digits")
    with connect("sqlite://") as db:
        assert "in memory" in str(failing(lambda: pickle.dumps(db)))


def test_the_home_folder_gives_it(url, plain, seen, start_python) -> None:
    # In a process of its own: libpq asks for the home folder in its own ways.
    home = Path(os.environ["HOME"])
    code = """
import sys
from lrbench_hpo.database import connect
with connect(sys.argv[1]) as db:
    print(db.stats().runs, db.check_writable())
"""
    in_pgpass(plain, sa.make_url(url).password, home / ".pgpass")
    assert start_python(code, plain).communicate(timeout=60) == ("61 None\n", "")
    (home / ".pgpass").write_text(f"*:*:*:*:{WRONG}\n")
    _, err = start_python(code, plain).communicate(timeout=60)
    assert "password authentication failed" in err
    assert not seen(err)


@pytest.mark.parametrize("where", ["PGSERVICEFILE", "home"])
def test_a_service_file_gives_everything(
    url, seen, monkeypatch, tmp_path, start_python, where: str
) -> None:
    parts = sa.make_url(url)
    # A service file has no quotes: a value is what follows the sign.
    lines = {"host": parts.host, "port": parts.port, "user": "postgres", "dbname": "postgres"}
    lines["password"] = parts.password
    text = "[team]\n" + "".join(f"{name}={value}\n" for name, value in lines.items())
    if where == "home":
        (Path(os.environ["HOME"]) / ".pg_service.conf").write_text(text)
    else:
        (tmp_path / "services").write_text(text)
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    code = """
import pickle, sys
from lrbench_hpo.database import connect
with connect("postgresql://?service=team") as db:
    print(db.stats().runs, db, pickle.loads(pickle.dumps(db)).stats().runs)
"""
    out, err = start_python(code).communicate(timeout=60)
    assert err == ""
    assert out.split()[0] == out.split()[-1] == "61"
    assert not seen(out)


def test_what_waits_in_files_does_not_hold_it(url, plain, make_run, seen, tmp_path) -> None:
    wrong = sa.make_url(url).set(password=WRONG).render_as_string(hide_password=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store = RunStore(wrong, folder=tmp_path)
        store.add(make_run(1), make_run(2))
        assert len(store.close()) == 2
    assert told
    assert not any(seen(warning.message) for warning in told)
    [file] = tmp_path.iterdir()
    assert not seen(file.name)
    assert not seen(file.read_bytes())
    # With the right one, or none in the URL at all, it is the same database.
    in_pgpass(plain, sa.make_url(url).password, Path(os.environ["HOME"]) / ".pgpass")
    assert RunStore(url, folder=tmp_path).close() == ()
    assert list(tmp_path.iterdir()) == []
    with connect(url) as db:
        assert [run.seed for run, _ in db.stored(source="local")] == [1, 2]
        db.forget(source="local")


def test_nobody_who_looks_at_the_server_sees_it(url, seen, sql, make_run) -> None:
    with connect(url) as db:
        db.add(make_run(3))
        activity = sql(url, "SELECT query, application_name FROM pg_stat_activity")
        db.forget(source="local")
    assert "lrbench_hpo" in {name for _, name in activity}
    assert not seen(activity)
