"""Many processes that write runs into one database; started by the tests as a program of its own.

It loads the package once and forks, so that sixteen processes start in no time. Each notes in a
file of its own what the database acknowledged; who was killed goes on where that file ends.

    python writers.py URL FOLDER PROCESSES RUNS KILLS
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from lrbench_hpo.database import Database, connect
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_of(number: int) -> Run:
    return Run(
        Task("digits", "mlp"),
        LRPolicy("FIX", k0=0.1),
        100,
        seed=number,
        curve=(CurvePoint(50, top1=0.5),),
        metrics={"top1": 0.5},
        created_at="2026-01-01T00:00:00Z",
    )


def write(db: Database, file: Path, numbers: range) -> None:
    """Store runs one by one, those that are not acknowledged yet."""
    known = set(map(int, file.read_text().split())) if file.exists() else set()
    with file.open("ab", buffering=0) as acknowledged:
        for number in numbers:
            if number not in known:
                db.add(run_of(number))
                acknowledged.write(b"%d\n" % number)


def forked(work: object, *arguments: object) -> int:
    """Do some work in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def start(url: str, folder: Path, writer: int, runs: int) -> int:
    def work() -> None:
        with connect(url) as db:
            write(db, folder / f"{writer}.acknowledged", range(writer * runs, (writer + 1) * runs))

    return forked(work)


def main(url: str, folder: Path, processes: int, runs: int, kills: int) -> None:
    connect(url).close()
    random.seed(processes * runs)
    living = {start(url, folder, writer, runs): writer for writer in range(processes)}
    tell("started")
    killed = 0
    while living:
        victim = -1
        if killed < kills:
            time.sleep(random.uniform(0.01, 0.06))
            victim = random.choice(list(living))
            os.kill(victim, signal.SIGKILL)
        child, status = os.waitpid(victim, 0)
        writer = living.pop(child)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            killed += 1
            living[start(url, folder, writer, runs)] = writer
        elif status:
            tell(f"writer {writer} failed")
    tell(f"killed {killed}")


if __name__ == "__main__":
    address, where, *amounts = sys.argv[1:]
    main(address, Path(where), *map(int, amounts))
