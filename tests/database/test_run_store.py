"""Runs that the database does not take now: kept, told once, and stored once as soon as it can."""

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import pytest
import sqlalchemy as sa

from lrbench_hpo import LRPolicy, Run, Task, connect
from lrbench_hpo.database import Database
from lrbench_hpo.database.journal import name_of
from lrbench_hpo.database.run_store import RunStore, impatient, waiting_files
from lrbench_hpo.errors import DatabaseError, LRBenchError, RecordError
from lrbench_hpo.records.run import CurvePoint


def run_of(seed=0):
    return Run(
        Task("digits", "mlp"),
        LRPolicy("TRI", k0=0.001, k1=0.1, l=10),
        100,
        seed=seed,
        metrics={"top1": 0.1 + 0.2, "train_loss": float("nan")},
        curve=(CurvePoint(20, 0.001, 1 / 3, None, 0.5), CurvePoint(100, top1=0.7)),
        notes={"text": "naïve × λ 😀", "list": [1, None, True]},
    )


def stored_seeds(file):
    with connect(file) as db:
        return [run.seed for run in reversed(db.find(source="local"))]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "lr.db"
    connect(file).close()
    return file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "waiting"


@pytest.fixture
def url(file):
    return f"sqlite:///{file}?timeout=0.05"


@contextlib.contextmanager
def locked(file):
    """Hold the database as another process does that writes for long; gives the warnings."""
    with (
        contextlib.closing(sqlite3.connect(file)) as other,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        other.execute("BEGIN EXCLUSIVE")
        yield told
        other.rollback()


def opened_without_trouble(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return RunStore(*arguments, **options)


def test_a_database_at_hand_gets_the_runs_and_no_file_is_made(url, file, folder):
    store = opened_without_trouble(url, folder=folder)
    store.add(run_of(1), run_of(2))
    assert stored_seeds(file) == [1, 2]
    assert store.close() == ()
    assert store.file is None
    assert not folder.exists()


def test_a_locked_database_gets_them_later_in_order_and_once(url, file, folder):
    store = opened_without_trouble(url, folder=folder)
    runs = [run_of(seed) for seed in range(4)]
    with locked(file) as told:
        for run in runs[:3]:
            store.add(run)
        store.flush(force=True)
        assert store.waiting == tuple(runs[:3])
    [warning] = told
    assert "locked by another process" in str(warning.message)
    assert str(folder) in str(warning.message)
    assert store.file.parent == folder
    store.flush()  # too early after a failure
    assert store.waiting
    store.add(runs[3])
    assert len(store.waiting) == 4
    assert store.close() == ()
    assert stored_seeds(file) == [0, 1, 2, 3]
    assert list(folder.iterdir()) == []


def test_it_follows_by_itself_with_a_later_flush(url, file, folder, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.database.run_store._PAUSE", 0.05)
    store = RunStore(url, folder=folder)
    with locked(file) as told:
        store.add(run_of())
    assert len(told) == 1
    while store.waiting:
        store.flush()
    assert stored_seeds(file) == [0]
    # The next trouble is told again.
    with locked(file) as told:
        store.add(run_of(1))
    assert len(told) == 1
    assert store.close() == ()


def test_what_was_read_back_is_what_was_written(url, file, folder):
    run = run_of()
    with locked(file):
        store = RunStore(url, folder=folder)
        store.add(run)
        assert store.close() == (run,)
        again = RunStore(url, folder=folder)
        assert again.waiting == (run,)
        again.close()
    opened_without_trouble(url, folder=folder).close()
    with connect(file) as db:
        assert db.find(source="local", curves=True) == [run]


def test_a_database_away_for_a_whole_search_gets_all_with_the_next(tmp_path, file, folder):
    away = file.rename(tmp_path / "elsewhere.db")
    place = tmp_path / "mount"
    place.write_text("the network drive is not here")
    with pytest.warns(UserWarning, match="its folder cannot be made"):
        store = RunStore(place / "lr.db", folder=folder)
    for seed in range(3):
        store.add(run_of(seed))
    assert len(store.close()) == 3
    assert store.file.is_file()
    place.unlink()
    place.mkdir()
    away.rename(place / "lr.db")
    opened_without_trouble(place / "lr.db", folder=folder).close()
    assert stored_seeds(place / "lr.db") == [0, 1, 2]
    assert list(folder.iterdir()) == []


def test_the_same_file_whatever_way_a_database_is_named(tmp_path, file, folder, monkeypatch):
    with locked(file):
        store = RunStore(f"sqlite:///{file}?timeout=0.05", folder=folder)
        store.add(run_of())
        store.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRBENCH_DATABASE_URL", "lr.db")
    other = RunStore(tmp_path / "other.db", folder=folder)  # another database's are left alone
    assert other.waiting == ()
    other.close()
    with Database(connect("lr.db")._engine) as db:
        RunStore(db, folder=folder).close()
        assert [run.seed for run in db.find(source="local")] == [0]  # it is still open


WRITER = """
import sys, time, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
from test_run_store import RunStore, run_of
store = RunStore({url!r}, folder={folder!r})
for seed in {seeds}:
    store.add(run_of(seed))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def start_writer(url, folder):
    """A process of its own that adds runs and lives on."""
    processes = []

    def start(seeds):
        code = WRITER.format(
            tests=os.path.dirname(__file__), url=url, folder=str(folder), seeds=seeds
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_two_processes_wait_for_one_database_and_one_is_killed(file, url, folder, start_writer):
    with locked(file):
        writers = [start_writer([0, 1]), start_writer([10, 11])]
        assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    assert len(list(folder.iterdir())) == 2
    # What belongs to processes that live is theirs.
    opened_without_trouble(url, folder=folder).close()
    assert stored_seeds(file) == []
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    opened_without_trouble(url, folder=folder).close()
    assert stored_seeds(file) == [0, 1]
    writers[1].send_signal(signal.SIGKILL)
    writers[1].wait()
    opened_without_trouble(url, folder=folder).close()
    assert sorted(stored_seeds(file)) == [0, 1, 10, 11]
    assert list(folder.iterdir()) == []


def left_behind(url, file, folder, count=3):
    with locked(file):
        store = RunStore(url, folder=folder)
        store.add(*(run_of(seed) for seed in range(count)))
        store.close()
    return store.file


def test_a_torn_last_line_is_told_and_dropped(url, file, folder):
    path = left_behind(url, file, folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with locked(file) as told:
        store = RunStore(url, folder=folder)
        store.add(run_of(7))  # goes on in the same file
        store.close()
    assert "a last line that was not finished" in str(told[0].message)
    assert store.file == path
    opened_without_trouble(url, folder=folder).close()
    assert stored_seeds(file) == [0, 1, 7]
    assert list(folder.iterdir()) == []


def test_lines_that_cannot_be_read_are_told_and_kept(url, file, folder):
    path = left_behind(url, file, folder)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"seed":1', '"seed":5')
    path.write_text("".join([*lines, "nonsense\n", '{"run": [], "checksum": 1}\n']))
    with pytest.warns(UserWarning, match="left out") as told:
        RunStore(url, folder=folder).close()
    assert [str(warning.message).split(": ")[1] for warning in told] == [
        f"line {number} is left out" for number in (2, 4, 5)
    ]
    assert stored_seeds(file) == [0, 2]
    [kept] = folder.iterdir()
    assert kept.read_text().splitlines()[1:2] == [lines[1].rstrip()]
    opened_without_trouble(url, folder=folder).close()


def test_stored_but_not_removed_is_still_one_row(url, file, folder):
    path = left_behind(url, file, folder)
    before = path.read_bytes()
    RunStore(url, folder=folder).close()
    path.write_bytes(before)  # killed between storing and removing
    opened_without_trouble(url, folder=folder).close()
    assert stored_seeds(file) == [0, 1, 2]


def test_without_a_file_to_write_to_they_wait_in_memory(url, file, tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    store = RunStore(url, folder=tmp_path / "taken")
    with locked(file) as told:
        store.add(run_of(0))
        store.add(run_of(1))
    assert sum("wait in memory only" in str(warning.message) for warning in told) == 1
    assert store.file is None
    assert len(store.waiting) == 2
    assert store.close() == ()
    assert stored_seeds(file) == [0, 1]


def test_a_closed_store_tries_again(url, file, folder):
    store = RunStore(url, folder=folder)
    with locked(file):
        store.add(run_of())
        assert len(store.close()) == 1
    assert store.close() == ()
    assert stored_seeds(file) == [0]
    assert list(folder.iterdir()) == []


def test_a_run_that_is_there_in_another_form_is_left_out(url, file, folder):
    with connect(file) as db:
        db.add(run_of(1))

    def already(database, run):
        return any(run.seed == known.seed for known in database.find(policy=run.policy))

    store = RunStore(url, folder=folder, already=already)
    store.add(run_of(1), run_of(2))
    assert store.close() == ()
    assert stored_seeds(file) == [1, 2]


def test_threads_share_a_store(url, file, folder):
    store = RunStore(url, folder=folder)
    with locked(file):
        threads = [
            threading.Thread(target=lambda i=i: [store.add(run_of(10 * i + j)) for j in range(5)])
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.close() == ()
    assert sorted(stored_seeds(file)) == sorted(10 * i + j for i in range(4) for j in range(5))


def test_a_busy_database_holds_nobody_up_for_long(file, folder):
    with locked(file):
        begun = time.monotonic()
        store = RunStore(file, folder=folder)
        for seed in range(20):
            store.add(run_of(seed))
            store.flush()
        took = time.monotonic() - begun
        assert len(store.waiting) == 20
        assert took < 20  # each of 41 calls would wait 30 s for the lock
    assert store.close() == ()


def test_bad_input_is_one_line_and_shows_no_password(folder, tmp_path):
    for database, says in [
        ("mongodb://me:secret@host/x", "mongodb"),
        (tmp_path, "this is a folder"),
        (7, "database=int"),
    ]:
        with pytest.raises(DatabaseError, match=says) as caught:
            RunStore(database, folder=folder)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(RecordError, match=r"Run\.from_dict"):
        RunStore("sqlite://", folder=folder).add({"policy": {}})


def test_a_server_is_waited_for_by_its_name_without_the_password():
    urls = [
        sa.make_url(impatient(f"postgresql://me{password}@host/lr{query}"))
        for password, query in [("", ""), (":secret", "?sslpassword=other"), (":new", "")]
    ]
    assert len({name_of(url) for url in urls}) == 1
    assert {url.query["connect_timeout"] for url in urls} == {"3"}
    assert name_of(urls[0]) != name_of(sa.make_url(impatient("postgresql://you@host/lr")))


def test_a_missing_driver_is_said_at_once(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(LRBenchError, match="pip install"):
        RunStore("postgresql://me@127.0.0.1:1/lr", folder=folder)


def test_the_files_that_wait_are_counted_and_left_alone(url, file, folder):
    assert waiting_files(url, folder=folder) == []
    with locked(file), RunStore(url, folder=folder) as store:
        store.add(run_of(1), run_of(2))
        ((path, runs),) = waiting_files(url, folder=folder)
        assert (path, runs) == (store.file, 2)
        with path.open("ab") as torn:
            torn.write(b'{"checksum": "half')
        before = path.read_bytes()
        assert waiting_files(file, folder=folder) == [(path, 2)]
        assert path.read_bytes() == before
        assert waiting_files("sqlite://", folder=folder) == []
        assert waiting_files(file.with_name("other.db"), folder=folder) == []


def test_servers_databases_and_schemas_are_told_apart():
    names = {
        name_of(sa.make_url(impatient(url)))
        for url in (
            "postgresql://ann@host/lr",
            "postgresql://ann@host/lr?schema=vision",
            "postgresql://ann@host/lr?schema=speech",
            "postgresql://ann@/lr?host=/run/a",
            "postgresql://ann@/lr?host=/run/b",
            "postgresql://ann@host/other",
        )
    }
    assert len(names) == 6
    same = ("postgresql://ann@host/lr?sslmode=require", "postgresql://ann:word@host/lr")
    assert {name_of(sa.make_url(impatient(url))) for url in same} <= names


def test_the_published_rows_name_is_refused_before_anything_waits(url, folder):
    store = RunStore(url, folder=folder)
    with pytest.raises(RecordError, match="the published rows' alone"):
        store.add(dataclasses.replace(run_of(), source="lrbench-paper"))
    assert store.waiting == ()


def test_a_forked_process_leaves_its_parents_runs_and_files_alone(url, file, folder):
    with locked(file):
        store = RunStore(url, folder=folder)
        store.add(run_of(1))
        child = os.fork()
        if child == 0:
            # As the end of a with block would in a child that a library has forked.
            os._exit(0 if store.waiting == () and store.close() == () else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.file.exists()
        store.add(run_of(2))
        assert waiting_files(url, folder=folder) == [(store.file, 2)]
    assert store.close() == ()
    assert stored_seeds(file) == [1, 2]
