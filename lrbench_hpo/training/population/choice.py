"""Executors by name, and the choice of the faster one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.training.population.executor import Executor
from lrbench_hpo.training.population.memory import members_that_fit
from lrbench_hpo.training.population.stacked_executor import StackedExecutor
from lrbench_hpo.training.population.stacked_layers import NotStackableError
from lrbench_hpo.training.population.stream_executor import StreamExecutor
from lrbench_hpo.training.trainer import Trainer

EXECUTORS = ("auto", "stream", "stacked")

_TIMED_ON_CPU = 4  # networks; more give the same answer there, and take longer
_TURNS = 5
_LONGEST = 2.0  # seconds, after which no further turn begins
# `stacked` must be so many times as fast: it gives up the trainer's numbers bit for bit.
_LEAST_GAIN = 1.1


def make_executor(name: str, trainer: Trainer, capacity: int) -> tuple[Executor, tuple[str, ...]]:
    """Make an executor without networks.

    Args:
        name: ``stream``, ``stacked``, or ``auto`` for the one that trains faster here.
        trainer: trains the networks.
        capacity: how many networks there will be at the same time.

    Returns:
        The executor, and lines that name it and the reason for it.

    Raises:
        UnknownNameError: for another name.
        TrainingError: for ``stacked`` if the network cannot be stacked; it has the reason.

    >>> from lrbench_hpo.training import load_data
    >>> make_executor("stacked", Trainer(load_data("digits"), "mlp"), 4)[1]
    ('executor stacked (stacked layers): as asked',)
    """
    if name not in EXECUTORS:
        raise UnknownNameError.among("executor", name, EXECUTORS)
    if name == "stream":
        return StreamExecutor(trainer), ("executor stream: as asked",)
    if name == "auto" and capacity == 1:
        return StreamExecutor(trainer), ("executor stream: there is one network at a time",)
    try:
        stacked = StackedExecutor(trainer)
    except NotStackableError as error:
        if name == "auto":
            return StreamExecutor(trainer), (f"executor stream: no stacking ({error})",)
        raise TrainingError(
            f"executor='stacked': {trainer.task.model} cannot be stacked ({error}): choose stream"
        ) from error
    how = f"executor stacked ({stacked.how})"
    notes = (f"stacked layers do not do: {stacked.reason}",) if stacked.reason else ()
    if name == "stacked":
        return stacked, (f"{how}: as asked", *notes)
    return _faster(trainer, stacked, how, notes, capacity)


def _faster(
    trainer: Trainer, stacked: StackedExecutor, how: str, notes: tuple[str, ...], capacity: int
) -> tuple[Executor, tuple[str, ...]]:
    members = members_that_fit(trainer, capacity, stacked=True)
    if trainer.device.type == "cpu":
        members = min(members, _TIMED_ON_CPU)
    if members == 1:
        return StreamExecutor(trainer), ("executor stream: stacked, two networks do not fit",)
    stream = StreamExecutor(trainer)
    rates = timed_turns((stream, stacked), trainer.seed_of(None), members)
    stream_rate, stacked_rate = rates
    found = f"{stacked_rate:.3g} updates/s of {members} networks stacked, {stream_rate:.3g} in turn"
    if stacked_rate < _LEAST_GAIN * stream_rate:
        stream.compact([])
        return stream, (f"executor stream: {found}",)
    stacked.compact([])
    return stacked, (f"{how}: {found}", *notes)


def timed_turns(executors: Sequence[Executor], seed: int, members: int) -> list[float]:
    """Measure updates per second of all networks together, for each executor.

    The executors take turns, so that other load on the machine slows all of them down; the median
    turn counts.

    Args:
        executors: without networks; the timed networks stay in them.
        seed: of the networks.
        members: how many networks.
    """
    for executor in executors:
        for _ in range(members):
            executor.add(seed)
    updates = [[0.0]] * members
    started = time.perf_counter()
    for executor in executors:
        executor.advance(updates)  # the first one is slower
    seconds: list[list[float]] = [[] for _ in executors]
    for _ in range(_TURNS):
        for executor, taken in zip(executors, seconds, strict=True):
            before = time.perf_counter()
            executor.advance(updates)  # it reads the losses, so it waits for a GPU
            taken.append(time.perf_counter() - before)
        if time.perf_counter() - started > _LONGEST:
            break
    return [members / statistics.median(taken) for taken in seconds]
