from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest

from lrbench_hpo.database import connect

WRITER = """
import sys
from lrbench_hpo.database import connect
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import CurvePoint, Run, Task
url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with connect(url) as db:
    for seed in range(first, first + count):
        run = Run(Task("digits", "mlp"), LRPolicy("FIX", k0=0.1), 100, seed=seed,
                  curve=(CurvePoint(50, top1=0.5),), metrics={"top1": 0.5})
        db.add(run)
        print(seed, flush=True)  # acknowledged
"""


def test_several_processes_create_and_fill_one_database(tmp_path, start_python) -> None:
    file = tmp_path / "lr.db"
    writers = [start_python(WRITER, file, 100 * i, 15) for i in range(6)]
    told = []
    for writer in writers:
        out, err = writer.communicate(timeout=120)
        assert err == ""
        told += map(int, out.split())
    with connect(file) as db:
        assert db.stats().runs == 61 + 90
        assert sorted(run.seed for run in db.find("digits")) == sorted(told)
        assert len(db.tasks()) == 4
        assert all(run.curve for run in db.find("digits", curves=True))


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path, start_python) -> None:
    file = tmp_path / "lr.db"
    rng = random.Random(0)
    told: list[int] = []
    for attempt in range(3):
        writers = [start_python(WRITER, file, 10_000 * (3 * attempt + i), 5000) for i in range(3)]
        out = [writer.stdout.readline() for writer in writers]  # all are at work
        time.sleep(rng.uniform(0.05, 0.4))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        out += [writer.stdout.read() for writer in writers]
        assert [writer.stderr.read() for writer in writers] == [""] * 3
        told += map(int, "".join(out).split())
    with connect(file) as db:
        found = Counter(run.seed for run in db.find("digits", curves=True) if run.curve)
        assert db.stats().runs == 61 + found.total()
    assert set(told) <= set(found)
    assert max(found.values()) == 1
    assert found.total() - len(told) <= 9  # at most the one each was about to acknowledge
