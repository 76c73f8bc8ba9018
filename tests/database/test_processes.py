"""Many processes on one database at once, some of which die, and a server that dies under them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.database.migrations import MIGRATIONS

# What `writers.py` holds, for a few lines more.
WRITERS = Path(__file__).with_name("writers.py")
PRELUDE = f"""
import sys
sys.path.insert(0, {str(WRITERS.parent)!r})
import os, threading
from concurrent.futures import ThreadPoolExecutor
from lrbench_hpo.database import connect
from writers import forked, run_of
url = sys.argv[1]
"""


def check_writers(url: str, folder: Path) -> tuple[int, str]:
    """That all that was acknowledged is there once; how many were found, and a line about it."""
    told = [int(n) for file in folder.glob("*.acknowledged") for n in file.read_text().split()]
    with connect(url) as db:
        runs = db.find("digits", curves=True)
        assert db.stats().runs == 61 + len(runs)
        assert len(db.tasks()) == 4
    found = Counter(run.seed for run in runs)
    doubled = sum(number - 1 for number in found.values())
    lost = set(told) - set(found)
    assert all(run.curve for run in runs)
    line = f"acknowledged {len(set(told))}, found {len(found)}, doubled {doubled}"
    assert (len(lost), doubled) == (0, 0), line
    assert len(told) == len(set(told))
    return len(found), line


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged(
    database_url, tmp_path, start_python, summary
) -> None:
    process = start_python(WRITERS, database_url, tmp_path, 16, 200, 50)
    out, err = process.communicate(timeout=300)
    started, killed = out.splitlines()
    assert (started, err) == ("started", "")
    kills = int(killed.removeprefix("killed "))
    assert kills >= 5  # 50, unless the machine is so fast that the writers are done before
    found, line = check_writers(database_url, tmp_path)
    kind = database_url.partition(":")[0]
    summary(f"{kind}, 16 processes, {kills} times one of them killed: {line}")
    assert found == 16 * 200


@pytest.mark.slow
def test_writers_go_on_when_the_server_was_killed(
    start_postgres, tmp_path, start_python, summary
) -> None:
    server = start_postgres(durable=True)
    process = start_python(WRITERS, server.url, tmp_path, 8, 400, 0)
    assert process.stdout.readline() == "started\n"
    rng, kills = random.Random(0), 0
    while process.poll() is None and kills < 4:
        time.sleep(rng.uniform(0.3, 0.8))
        if process.poll() is None:
            server.kill()
            kills += 1
            time.sleep(rng.uniform(0, 1.5))
            server.start()
    out, err = process.communicate(timeout=120)
    assert (out, err) == ("killed 0\n", "")
    assert kills >= 1  # 4, unless the machine is so fast that the writers are done before
    found, line = check_writers(server.url, tmp_path)
    summary(f"postgresql, 8 processes, {kills} times the server killed: {line}")
    assert found == 8 * 400


def run_all(start_python: Callable, code: str, url: str, timeout: float = 60) -> str:
    process = start_python(PRELUDE + code, url)
    out, err = process.communicate(timeout=timeout)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_twenty_processes_migrate_at_once(
    database_url, start_python, make_schema_1, sql, old: bool
) -> None:
    runs = make_schema_1(database_url) if old else []
    code = """
start, go = os.pipe()
def work():
    os.close(go)
    os.read(start, 1)  # until all are there, and the parent lets go of the other end
    with connect(url) as db:
        assert db.stats().runs == int(sys.argv[2]), db.stats()
children = [forked(work) for _ in range(20)]
os.close(go)
print([os.waitpid(child, 0)[1] for child in children])
"""
    process = start_python(PRELUDE + code, database_url, 61 + len(runs))
    out, err = process.communicate(timeout=60)
    assert (out, err) == (f"{[0] * 20}\n", "")
    versions = sql(database_url, "SELECT version FROM lrbench_schema ORDER BY version")
    assert versions == [(step.version,) for step in MIGRATIONS]
    with connect(database_url) as db:
        assert db.stats().runs == 61 + len(runs)


@pytest.mark.slow
def test_a_database_goes_on_in_a_forked_process(database_url, start_python) -> None:
    code = """
with connect(url) as db:
    db.add(run_of(0))
    def work(first):
        for number in range(first, first + 200):
            assert db.add(run_of(number)) == 1
    child = forked(work, 1000)
    work(2000)
    print(os.waitpid(child, 0)[1], db.stats().runs)
"""
    assert run_all(start_python, code, database_url) == "0 462\n"


@pytest.mark.slow
def test_a_database_goes_on_in_multiprocessing(database_url, start_python) -> None:
    code = """
import multiprocessing
def add(number):
    return db.add(run_of(number))
with connect(url) as db:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print(sum(pool.map(add, range(200))), sum(map(add, range(150, 250))))
    context = multiprocessing.get_context("fork")
    child = context.Process(target=db.add, args=[run_of(n) for n in range(240, 260)])
    child.start()
    child.join()
    print(child.exitcode, db.stats().runs)
"""
    assert run_all(start_python, code, database_url) == "200 50\n0 321\n"


def test_threads_write_while_the_process_forks(postgres_database, start_python) -> None:
    # Not with SQLite: its own library may not be used after such a fork.
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, about just this
with connect(url) as db:
    db.add(run_of(9999))
    done = threading.Event()
    def write(first):
        number = first
        while not done.is_set() and number < first + 5000:
            assert db.add(run_of(number)) == 1
            number += 1
        return number - first
    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(write, 10_000 * (i + 1)) for i in range(4)]
        children = []
        for number in range(20):
            children.append(forked(db.add, run_of(number)))
            db.find("digits", limit=1)
        codes = [os.waitpid(child, 0)[1] for child in children]
        done.set()
        total = sum(count.result() for count in counts)
    print(codes == [0] * 20, db.stats().runs == 62 + 20 + total, total > 0)
"""
    assert run_all(start_python, code, postgres_database) == "True True True\n"


def test_a_child_that_ends_takes_no_connection_with_it(postgres_database, start_python) -> None:
    code = """
import gc
with connect(url) as db:
    db.add(run_of(0))
    def work():
        global db
        db.find(limit=1)
        db.close()
        del db
        gc.collect()
    for _ in range(3):
        assert os.waitpid(forked(work), 0)[1] == 0
    backend = lambda c: c.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    before = db._do(backend)
    os.waitpid(forked(work), 0)
    print(db._do(backend) == before, db.stats().runs)
"""
    assert run_all(start_python, code, postgres_database) == "True 62\n"
