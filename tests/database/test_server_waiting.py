"""Runs that wait for a server that is away: in order, and once."""

from __future__ import annotations

import pickle
import warnings

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.location import database_url
from lrbench_hpo.database.run_store import RunStore


@pytest.mark.slow
def test_runs_wait_while_the_server_is_away_and_follow_in_order_and_once(
    start_postgres, make_run, tmp_path, monkeypatch, with_query
) -> None:
    monkeypatch.setattr("lrbench_hpo.database.run_store._PAUSE", 0)
    server = start_postgres()
    url = with_query(server.url, connect_timeout="1")
    store = RunStore(url, folder=tmp_path)
    store.add(make_run(5))
    server.kill()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for seed in (4, 3, 2):
            store.add(make_run(seed))
    [warning] = told
    assert "\n" not in str(warning.message)
    assert str(warning.message).endswith(f"results wait in {store.file}, and follow")
    assert [run.seed for run in store.waiting] == [4, 3, 2]
    server.start()
    store.add(make_run(1))
    assert store.waiting == ()
    assert list(tmp_path.iterdir()) == []
    with connect(url) as db:
        assert [run.seed for run, _ in db.stored(source="local")] == [5, 4, 3, 2, 1]
    assert store.close() == ()


@pytest.mark.slow
def test_what_waits_for_a_server_follows_with_the_next_process(
    start_postgres, make_run, tmp_path, start_python, with_query
) -> None:
    server = start_postgres()
    connect(server.url).close()
    server.stop()
    code = """
import os, sys, pickle, warnings
from lrbench_hpo.database.run_store import RunStore
warnings.simplefilter("ignore")
store = RunStore(sys.argv[1], folder=sys.argv[2])
store.add(*pickle.load(sys.stdin.buffer))
os._exit(0)  # as if killed
"""
    runs = [make_run(seed) for seed in (3, 1, 2)]
    process = start_python(code, with_query(server.url, connect_timeout="1"), tmp_path)
    process.stdin.buffer.write(pickle.dumps(runs))
    assert process.communicate(timeout=60) == ("", "")
    assert len(list(tmp_path.iterdir())) == 1
    server.start()
    assert RunStore(server.url, folder=tmp_path).close() == ()
    assert RunStore(server.url, folder=tmp_path).close() == ()
    with connect(server.url) as db:
        assert [run for run, _ in db.stored(source="local")] == runs


def test_a_table_that_somebody_has_locked_holds_no_search_up(
    postgres_database, make_run, tmp_path, with_query
) -> None:
    engine = open_engine(database_url(postgres_database))
    store = RunStore(with_query(postgres_database, connect_timeout="1"), folder=tmp_path)
    with engine.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE lrbench_runs IN SHARE MODE")
        with pytest.warns(UserWarning, match="locked by another session"):
            store.add(make_run(1))  # which comes back, although the lock stays
        assert [run.seed for run in store.waiting] == [1]
    assert store.close() == ()
    engine.dispose()
    with connect(postgres_database) as db:
        assert [run.seed for run in db.find(source="local")] == [1]
