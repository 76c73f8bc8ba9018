"""What a server refuses, as one line that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect, transactions
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.location import database_url as url_of


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def db(postgres_database: str) -> Iterator[Database]:
    with connect(postgres_database) as db:
        yield db


def test_no_connection_left(
    db: Database, postgres, postgres_database, sql, make_run, message_of
) -> None:
    sql(postgres, "DROP ROLE IF EXISTS lrbench_test_single")
    sql(postgres, "CREATE ROLE lrbench_test_single LOGIN PASSWORD 'single' CONNECTION LIMIT 1")
    try:
        url = sa.make_url(postgres_database).set(username="lrbench_test_single", password="single")  # noqa: S106
        url = url.update_query_dict({"connect_timeout": "1"})
        sql(postgres_database, "GRANT ALL ON ALL TABLES IN SCHEMA public TO lrbench_test_single")
        text = url.render_as_string(hide_password=False)
        with connect(text) as one:
            one.find(limit=1)  # and keeps the connection
            assert "too many connections" in message_of(lambda: connect(text))
    finally:
        sql(postgres_database, "DROP OWNED BY lrbench_test_single")
        sql(postgres, "DROP ROLE lrbench_test_single")


def test_a_database_that_may_only_be_read(
    db: Database, make_run, postgres_database, sql, message_of, monkeypatch
) -> None:
    db.add(make_run())
    name = sa.make_url(postgres_database).database
    sql(postgres_database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with connect(postgres_database) as standby:
        assert standby.find("digits", curves=True) == [make_run()]
        assert standby.stats().runs == 62
        assert standby.forget(source="local", dry_run=True) == 1
        assert len(list(standby.stored())) == 62
        tries = []
        genuine = transactions._once
        counted = lambda *given: (tries.append(given), genuine(*given))[1]  # noqa: E731
        monkeypatch.setattr(transactions, "_once", counted)
        calls = (
            lambda: standby.add(make_run(1)),
            standby.check_writable,
            lambda: standby.forget(source="local"),
        )
        for number, call in enumerate(calls, 1):
            assert "read-only: connect to the primary server" in message_of(call)
            assert len(tries) == number  # what cannot get better is not tried again


def test_a_locked_table_is_waited_for_as_long_as_the_server_is_told_to(
    db: Database, make_run, postgres_database, message_of, with_query
) -> None:
    impatient = with_query(postgres_database, options="-c lock_timeout=300")
    engine = open_engine(url_of(postgres_database))
    with connect(impatient) as other, ThreadPoolExecutor(1) as thread:
        with engine.begin() as holder:
            holder.exec_driver_sql("LOCK TABLE lrbench_runs IN SHARE MODE")
            added = thread.submit(db.add, make_run(0))
            told = message_of(lambda: other.add(make_run(1)))
            assert "canceling statement due to lock timeout" in told
            assert len(other.find()) == 61  # a reader does not mind
            assert not added.done()
        assert added.result(10) == 1
        assert other.add(make_run(1)) == 1
    engine.dispose()


@pytest.mark.parametrize("old", [False, True])
def test_a_database_that_may_only_be_read_is_not_migrated(
    postgres_database, make_schema_1, sql, old: bool, message_of
) -> None:
    if old:
        make_schema_1(postgres_database)
    name = sa.make_url(postgres_database).database
    sql(postgres_database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "read-only: connect to the primary server" in message_of(
        lambda: connect(postgres_database)
    )
    tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'lrbench_%'"
    assert sql(postgres_database, tables) == [(4 * old,)]


def test_a_full_disk_of_the_server(
    db: Database, make_run, postgres_database, sql, message_of
) -> None:
    # A small disk cannot be had without being root: this is the error that a full one gives.
    sql(
        postgres_database,
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$""",
    )
    sql(
        postgres_database,
        "CREATE TRIGGER full_disk BEFORE INSERT ON lrbench_curves EXECUTE FUNCTION full_disk()",
    )
    told = message_of(lambda: db.add(make_run(0, curve=()), make_run(1)))
    assert "could not extend file: the server's disk is full: nothing of this was stored" in told
    assert db.stats().runs == 61
    assert len(db.tasks()) == 3


def test_what_the_server_refuses_in_other_words(
    db: Database, postgres_database, message_of, with_query
) -> None:
    url = sa.make_url(postgres_database)
    none = url.set(database="lrbench_no_such").render_as_string(hide_password=False)
    assert 'database "lrbench_no_such" does not exist' in message_of(lambda: connect(none))
    nobody = url.set(username="lrbench_nobody").render_as_string(hide_password=False)
    assert "lrbench_nobody" in message_of(lambda: connect(nobody))
    for setting in ("bogus", "passwordless"):
        strange = with_query(postgres_database, **{setting: "1"})
        assert f'invalid connection option "{setting}"' in message_of(lambda u=strange: connect(u))
    for value in ("soon", "-", "1e3"):
        strange = with_query(postgres_database, connect_timeout=value)
        assert "connect_timeout" in message_of(lambda u=strange: connect(u))


def test_tls_is_asked_for_and_refused_in_one_line(
    guarded_database, make_run, message_of, with_query
) -> None:
    url = guarded_database
    for mode in ("disable", "prefer"):
        with connect(with_query(url, sslmode=mode)) as db:
            db.add(make_run())
    told = message_of(lambda: connect(with_query(url, sslmode="require")))
    assert "server does not support SSL, but SSL was required" in told
    assert "sslmode" in message_of(lambda: connect(with_query(url, sslmode="maybe")))


def test_a_server_that_is_not_there(message_of) -> None:
    told = message_of(
        lambda: connect(f"postgresql://me@127.0.0.1:{free_port()}/lr?connect_timeout=1")
    )
    assert "refused" in told
    assert "is the server running" in told.lower()
    assert "postgresql://me@127.0.0.1:" in told
    told = message_of(lambda: connect("postgresql://me@no-such-host.invalid/lr?connect_timeout=1"))
    assert "is the host's name right?" in told
