"""Processes that store runs at once, and how many runs a second they store together.

They are spawned, and a spawned process cannot find what the program's ``__main__`` defines.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import optuna

import lrbench_hpo
from benchmarks.database import optuna as theirs
from benchmarks.database import rows as made


def write(whose: str, url: str, seed: int, count: int, ready: Any, ended: Any) -> None:
    """A writer: makes its runs, connects, waits for the others, and stores them one by one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs = made.made_up_runs(count, seed=seed)
    _ = [run.uid for run in runs]
    if whose == "lrbench_hpo":
        db = lrbench_hpo.connect(url)
        ready.wait()
        for run in runs:
            db.add(run)
    else:
        storage = theirs.storage(url)
        study = storage.get_study_id_from_name("runs")
        trials = [theirs.trial_of(run) for run in runs]
        ready.wait()
        for trial in trials:
            storage.create_new_trial(study, trial)
    ended.put(time.monotonic())


def rows_per_second(whose: str, url: str, writers: int, count: int) -> float:
    """The rate of all writers together, from when all are connected to the last one's end."""
    if whose == "lrbench_hpo":
        lrbench_hpo.connect(url).close()
    else:
        theirs.new_study(url)
    spawn = multiprocessing.get_context("spawn")
    ready, ended = spawn.Barrier(writers + 1), spawn.Queue()
    each = count // writers
    processes = [
        spawn.Process(target=write, args=(whose, url, number, each, ready, ended))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    ready.wait()
    started = time.monotonic()
    last: float = max(ended.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    stored = _stored(whose, url)
    assert stored == each * writers, f"{stored} of {each * writers} are stored"
    return each * writers / (last - started)


def _stored(whose: str, url: str) -> int:
    if whose == "Optuna":
        return theirs.storage(url).get_n_trials(1)
    with lrbench_hpo.connect(url) as db:
        return db.stats().runs - db.stats().by_source["lrbench-paper"]
