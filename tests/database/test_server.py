"""What only a server does to its clients: it goes away, or has them start again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.location import database_url as url_of
from lrbench_hpo.database.rows import insert_runs


@contextlib.contextmanager
def just_before(db: Database, statement: str, act: Callable[[sa.Connection], None]) -> Iterator:
    """Do something the first time that a statement is about to be sent."""
    left = [act]

    def look(connection: sa.Connection, _: Any, sent: str, *__: Any) -> None:
        if sent.startswith(statement) and left:
            left.pop()(connection)

    sa.event.listen(db._engine, "before_cursor_execute", look)
    yield left
    sa.event.remove(db._engine, "before_cursor_execute", look)
    assert not left, f"{statement} was never sent"


def backend(connection: sa.Connection) -> int:
    return connection.connection.dbapi_connection.info.backend_pid


@pytest.fixture
def db(postgres_database: str) -> Iterator[Database]:
    with connect(postgres_database) as db:
        yield db


@pytest.fixture
def cut(postgres_database: str, sql) -> Callable[..., None]:
    """End the connections of others to the test's database, or one of them."""

    def cut(connection: sa.Connection | None = None) -> None:
        found = sql(
            postgres_database,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND :pid IN (0, pid)",
            pid=0 if connection is None else backend(connection),
        )
        assert found
        assert all(ended for (ended,) in found)

    return cut


def test_a_connection_that_was_cut_between_two_calls(db: Database, make_run, cut) -> None:
    for call, expected in [
        (lambda: db.add(make_run(0)), 1),
        (lambda: len(db.find()), 62),
        (lambda: len(list(db.stored())), 62),
        (lambda: db.stats().runs, 62),
        (lambda: db.forget(source="local"), 1),
    ]:
        cut()
        assert call() == expected


def test_many_connections_that_were_cut(db: Database, make_run, cut) -> None:
    together = threading.Barrier(5)

    def add(number: int) -> int:
        together.wait(10)
        return db.add(make_run(number))

    with ThreadPoolExecutor(5) as threads:
        assert sum(threads.map(add, range(5))) == 5
        cut()
        assert sum(threads.map(add, range(5, 10))) == 5
    assert db.stats().runs == 71


@pytest.mark.parametrize("moment", ["SELECT", "INSERT INTO lrbench_runs", "INSERT INTO lrbench_c"])
def test_a_connection_that_is_cut_inside_a_call(db: Database, make_run, cut, moment: str) -> None:
    db.add(make_run(0))
    with just_before(db, moment, cut):
        assert db.add(make_run(1), make_run(2)) == 2
    assert [run.seed for run in db.find("digits", curves=True) if run.curve] == [2, 1, 0]


def test_a_connection_that_is_cut_while_reading(db: Database, make_run, cut) -> None:
    db.add(*(make_run(i) for i in range(600)))
    pages = db.stored(dataset="digits")
    seen = [next(pages)[0].seed]
    cut()
    seen += [run.seed for run, _ in pages]
    assert seen == list(range(600))
    with just_before(db, "SELECT", cut):
        assert len(db.find("digits")) == 600


def test_a_commit_whose_answer_is_lost_is_counted_once(db: Database, make_run, monkeypatch) -> None:
    genuine, lost = db._engine.dialect.do_commit, []

    def commit(connection: Any) -> None:
        genuine(connection)
        if not lost:
            lost.append(True)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(db._engine.dialect, "do_commit", commit)
    assert db.add(make_run(0), make_run(1)) == 2
    assert lost
    assert db.stats().runs == 63


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_serialization_failure_is_done_again(
    db: Database, make_run, postgres_database, sql, level: str
) -> None:
    db.add(make_run(0))
    name = sa.make_url(postgres_database).database
    sql(postgres_database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    failed = []
    sa.event.listen(db._engine, "handle_error", lambda e: failed.append(e.original_exception))
    db._engine.dispose()

    def be_faster(_: sa.Connection) -> None:
        with connect(postgres_database) as other:
            assert other.add(make_run(1)) == 1

    def look_first(connection: sa.Connection) -> None:  # the transaction's view is as of now
        connection.connection.dbapi_connection.cursor().execute("SELECT 1 FROM lrbench_runs")
        be_faster(connection)

    with just_before(db, "INSERT INTO lrbench_runs", look_first):
        db.add(make_run(1), make_run(2))
    assert [error.pgcode for error in failed] == ["40001"]
    assert [run.seed for run in db.find("digits")] == [2, 1, 0]


def test_a_deadlock_is_done_again(db: Database, make_run, postgres_database, sql) -> None:
    db.add(make_run(0))
    first, second = sorted([make_run(1), make_run(2)], key=lambda run: run.uid)
    failed = []
    sa.event.listen(db._engine, "handle_error", lambda e: failed.append(e.original_exception))
    engine = open_engine(url_of(postgres_database))
    with ThreadPoolExecutor(1) as thread, engine.begin() as other:
        other.exec_driver_sql("SET LOCAL deadlock_timeout = '60s'")  # the victim is not this one
        insert_runs(other, [(second, None)])
        added = thread.submit(db.add, first, second)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while sql(postgres_database, waits) == [(0,)]:
            time.sleep(0.01)
        insert_runs(other, [(first, None)])
        other.commit()
        assert added.result(30) == 0
    engine.dispose()
    assert [error.pgcode for error in failed] == ["40P01"]
    assert len(db.find("digits")) == 3


def test_many_who_add_the_same_at_once_in_any_order(db: Database, make_run, sql) -> None:
    runs = [make_run(i) for i in range(100)]

    def add(number: int) -> int:
        with connect(db.url.render_as_string(hide_password=False)) as own:
            return own.add(*(runs if number % 2 else reversed(runs)))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add, range(8))) == 100
    assert db.stats().runs == 161
    assert len(db.find("digits", curves=True)) == 100


@pytest.mark.slow
def test_a_server_that_is_gone_for_good_is_told_after_the_patience_given(
    start_postgres, make_run, message_of, with_query
) -> None:
    server = start_postgres()
    with connect(with_query(server.url, connect_timeout="1")) as db:
        server.stop()
        for call in (lambda: db.add(make_run()), db.find):
            told = message_of(call)
            assert told.startswith("postgresql://postgres@/postgres")
            assert "is the server running" in told.lower()
        server.start()
        assert db.add(make_run()) == 1


@pytest.mark.slow
def test_a_server_that_comes_back_within_the_patience(start_postgres, make_run) -> None:
    server = start_postgres()
    with connect(server.url) as db, ThreadPoolExecutor(1) as thread:
        server.kill()
        added = thread.submit(db.add, make_run())
        time.sleep(1.5)
        assert not added.done()
        server.start()
        assert added.result(30) == 1


@pytest.mark.slow
def test_a_server_that_ends_in_good_order_while_runs_are_added(start_postgres, make_run) -> None:
    server = start_postgres()
    with connect(server.url) as db, ThreadPoolExecutor(1) as thread:
        added = thread.submit(lambda: [db.add(make_run(i)) for i in range(300)])
        for _ in range(2):
            time.sleep(0.2)
            server.stop()
            server.start()
        assert sum(added.result(60)) == 300
        assert db.stats().runs == 361
