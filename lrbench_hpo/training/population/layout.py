"""How a search uses a CPU's cores: one network per core, or one network on all of them."""

from __future__ import annotations

import os
import time

import psutil
import torch

from lrbench_hpo.training.population.stream_executor import StreamExecutor
from lrbench_hpo.training.trainer import Trainer

# The least efficiency (speed-up over the number of cores) at which one network gets all cores. It
# trains fewer policies in the same time, but each is chosen with the results of all before it.
_LEAST_EFFICIENCY = 0.7
_TURNS = 3
_LONGEST = 2.0  # seconds, after which no further turn begins


def usable_cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def processes_for(trainer: Trainer) -> tuple[int, str]:
    """Choose the number of processes in which a search trains on a CPU.

    One process per core makes the most updates in all. One process with a thread per core makes
    nearly as many if the layers are large enough, and has each result much sooner. A few updates
    with one thread and with all are timed. A limit on torch's threads (``OMP_NUM_THREADS``) means
    one process per core.

    Args:
        trainer: trains the networks.

    Returns:
        The number of processes, and a line with the reason.

    >>> from lrbench_hpo.training import load_data
    >>> processes, note = processes_for(Trainer(load_data("digits"), "mlp", device="cpu"))
    >>> processes in (1, usable_cores())
    True
    """
    cores, threads = usable_cores(), torch.get_num_threads()
    # Two hyper-threads compute little more than one; torch uses one thread for both.
    physical = min(cores, psutil.cpu_count(logical=False) or cores)
    # With a GPU in the machine, a process that has run a backward pass cannot be forked.
    if physical == 1 or threads < physical or torch.cuda.is_available():
        return cores, "one process a core"
    speed_up = _speed_up(trainer, threads)
    found = f"{threads} threads train one network {speed_up:.2g} times as fast as one thread"
    if speed_up < _LEAST_EFFICIENCY * physical:
        return cores, f"one process a core: {found}"
    return 1, f"one network at a time, on all cores: {found}"


def _speed_up(trainer: Trainer, threads: int) -> float:
    """How many times as fast as with one thread a network trains with this many.

    Both take turns. The fastest turn counts, because other load on the machine only makes a turn
    longer.
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
