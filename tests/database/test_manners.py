"""A database is left to others as it should be: no open transactions, connections or half rows."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.errors import DatabaseError, LRBenchError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run, Task

OTHERS = """SELECT state, count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY state"""


def test_no_transaction_stays_open_between_calls(postgres_database, make_run, sql) -> None:
    with connect(postgres_database) as db:
        db.add(*(make_run(i) for i in range(10)))
        pages = db.stored()
        for call in (
            db.find,
            db.stats,
            db.tasks,
            db.check_writable,
            lambda: next(pages),
            lambda: db.add(make_run(99)),
            lambda: db.forget(source="local", dry_run=True),
        ):
            call()
            assert sql(postgres_database, OTHERS) == [("idle", 1)]
        for bad in (lambda: db.add(make_run(), 5), lambda: db.find(limit=0)):
            with pytest.raises(LRBenchError):
                bad()
            assert sql(postgres_database, OTHERS) == [("idle", 1)]
        pages.close()
        assert sql(postgres_database, OTHERS) == [("idle", 1)]


def test_no_connection_stays_open_after_the_last_call(postgres_database, sql) -> None:
    with connect(postgres_database) as db:
        db.tasks()
    assert sql(postgres_database, OTHERS) == []
    db = connect(postgres_database)  # and is never closed
    db.tasks()
    del db
    gc.collect()
    assert sql(postgres_database, OTHERS) == []


def test_more_threads_than_connections(database_url, make_run) -> None:
    with connect(database_url) as db, ThreadPoolExecutor(30) as threads:
        assert sum(threads.map(lambda i: db.add(make_run(i)), range(60))) == 60
        assert db.stats().runs == 121


def test_some_forget_what_others_add(database_url, sql) -> None:
    done = threading.Event()

    def run_of(number: int) -> Run:
        task = Task("mine", f"model {number % 3}")
        return Run(task, LRPolicy("FIX", k0=0.1), 10, seed=number, source="passing")

    def add(first: int) -> int:
        with connect(database_url) as db:
            return sum(db.add(run_of(first + i)) for i in range(60))

    def forget(_: int) -> int:
        number = 0
        with connect(database_url) as db:
            while not done.is_set():
                number += db.forget(source="passing")
                time.sleep(0.01)  # SQLite's lock goes to whoever asks at the right moment
        return number

    with ThreadPoolExecutor(5) as threads:
        forgotten = threads.submit(forget, 0)
        try:
            added = sum(threads.map(add, range(0, 400, 100)))
        finally:
            done.set()  # whatever happened, the forgetting must end
        with connect(database_url) as db:
            assert added == 240
            assert forgotten.result(60) + db.stats().runs - 61 == 240
            used = {run.task for run in db.find()}
            assert set(db.tasks()) == used
    lonely = "SELECT count(*) FROM lrbench_runs WHERE task_id NOT IN (SELECT id FROM lrbench_tasks)"
    assert sql(database_url, lonely) == [(0,)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
def test_a_database_of_another_encoding(
    new_postgres_database, make_run, monkeypatch, encoding: str
) -> None:
    url = new_postgres_database(f"ENCODING '{encoding}' LOCALE 'C'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    western, any_other = make_run(0, source="é"), make_run(1, task=Task("😀", "mlp"), source="😀")
    with connect(url) as db:
        assert db.add(western) == 1
        assert db.find("digits", source="é", curves=True) == [western]
        if encoding == "LATIN1":
            for call in (lambda: db.add(any_other), lambda: db.find(source="😀")):
                with pytest.raises(DatabaseError, match="no equivalent in encoding") as told:
                    call()
                assert "\n" not in str(told.value)
        else:
            assert db.add(any_other) == 1
            assert db.find("😀", source="😀", curves=True) == [any_other]
