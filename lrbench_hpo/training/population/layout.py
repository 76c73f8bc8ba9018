"""How the cores of a CPU are shared out: one network a core, or one network on all of them."""

from __future__ import annotations

import os
import time

import psutil
import torch

from lrbench_hpo.training.population.stream_executor import StreamExecutor
from lrbench_hpo.training.trainer import Trainer

# Of the cores' combined pace, what one network on all of them must reach: its result is there in
# that part of the time, and the next policy is chosen knowing it.
_WORTH = 0.7
_TURNS = 3
_LONGEST = 2.0  # seconds, after which a turn is the last


def usable_cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def processes_for(trainer: Trainer) -> tuple[int, str]:
    """In how many processes a search trains best on a CPU, and a line that says why.

    One process a core does the most updates in all. One process with a thread a core does nearly
    as many where layers are large enough, and has each result much sooner. Both are timed on a few
    updates; a limit on torch's threads (``OMP_NUM_THREADS``) is respected.

    Args:
        trainer: what to train.

    >>> from lrbench_hpo.training import load_data
    >>> processes, note = processes_for(Trainer(load_data("digits"), "mlp", device="cpu"))
    >>> processes in (1, usable_cores())
    True
    """
    cores, threads = usable_cores(), torch.get_num_threads()
    # Two hyper-threads compute little more than one; torch counts one thread for both.
    real = min(cores, psutil.cpu_count(logical=False) or cores)
    # Torch's backward passes cannot be forked where there is a GPU: nothing is tried out there.
    if real == 1 or threads < real or torch.cuda.is_available():
        return cores, "one process a core"
    gain = _gain(trainer, threads)
    found = f"{threads} threads train one network {gain:.2g} times as fast as one thread"
    if gain < _WORTH * real:
        return cores, f"one process a core: {found}"
    return 1, f"one network at a time, on all cores: {found}"


def _gain(trainer: Trainer, threads: int) -> float:
    """How many times as fast as one thread so many are; they take turns, and the fastest counts.

    Whatever else runs on the machine only ever adds to a time.
    """
    executor = StreamExecutor(trainer)
    executor.add(trainer.seed_of(None))
    fastest = {1: float("inf"), threads: float("inf")}
    started = time.perf_counter()
    try:
        for turn in range(1 + _TURNS):
            for count in fastest:
                torch.set_num_threads(count)
                before = time.perf_counter()
                executor.advance([[0.0, 0.0]])
                if turn:  # the first one is slower
                    fastest[count] = min(fastest[count], time.perf_counter() - before)
            if turn and time.perf_counter() - started > _LONGEST:
                break
    finally:
        torch.set_num_threads(threads)
    return fastest[1] / fastest[threads]
