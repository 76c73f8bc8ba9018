"""How two cores serve the loop that people write best: as processes, as threads, as data workers.

The answer decides how `search_time.py` runs Optuna. Each layout trains the task's loop for a part
of its budget, evaluations included, in processes of its own; the layouts take turns.

    python -m benchmarks.search_time.layouts --data DIR
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process may then choose another number

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.search_time.plain import PlainSetup, train
from benchmarks.search_time.tasks import TASKS

CONFIG: Mapping[str, Any] = {"lr": 1e-3, "schedule": "constant"}
_FORK = multiprocessing.get_context("fork")


def trained(setup: PlainSetup, threads: int = 1, workers: int = 0) -> None:
    torch.set_num_threads(threads)
    schedule = setup.scheduled(CONFIG)
    for _ in train(setup, CONFIG["lr"], schedule, setup.points, seed=0, workers=workers):
        pass


def in_processes(*works: Callable[[], None]) -> None:
    processes = [_FORK.Process(target=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def in_threads(setup: PlainSetup) -> None:
    """As `study.optimize(n_jobs=2)` runs them."""
    threads = [threading.Thread(target=trained, args=(setup,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# A layout, and how many trainings it does at once.
LAYOUTS: Mapping[str, tuple[Callable[[PlainSetup], None], int]] = {
    "two processes, one thread each": (
        lambda setup: in_processes(lambda: trained(setup), lambda: trained(setup)),
        2,
    ),
    "n_jobs=2, one thread each": (lambda setup: in_processes(lambda: in_threads(setup)), 2),
    "one process, two threads": (lambda setup: in_processes(lambda: trained(setup, 2)), 1),
    "one process, one thread, one data worker": (
        lambda setup: in_processes(lambda: trained(setup, 1, workers=1)),
        1,
    ),
    "one process, two threads, one data worker": (
        lambda setup: in_processes(lambda: trained(setup, 2, workers=1)),
        1,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with MNIST/raw and cifar10_jpeg.npz")
    parser.add_argument("--results", type=Path, default=Path("search_time_results"))
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--share", type=float, default=0.3, help="of a training's iterations")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for name in args.tasks:
        task = TASKS[name]
        whole = PlainSetup.of(task, task.data(args.results, args.data))
        setup = whole.shortened(args.share)
        found: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for _ in range(args.repeats):
            for layout, (work, count) in LAYOUTS.items():
                started = time.perf_counter()
                work(setup)
                found[layout].append((time.perf_counter() - started) / count)
        print(f"{name}: seconds per training of {setup.iterations} iterations, medians (range)")
        for layout, figures in found.items():
            median = statistics.median(figures)
            print(f"  {layout:42} {median:6.2f} ({min(figures):.2f}-{max(figures):.2f})")


if __name__ == "__main__":
    main()
