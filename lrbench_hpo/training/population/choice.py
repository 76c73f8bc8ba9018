"""The executors by name, and which of them is the faster one."""

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

_TIMED_ON_CPU = 4  # members; more tell the same there, and take longer
_TURNS = 5
_LONGEST = 2.0  # seconds, after which a turn is the last
_WORTH = 1.1  # the stream's numbers are the trainer's bit by bit: they are given up for no less


def make_executor(name: str, trainer: Trainer, room: int) -> tuple[Executor, tuple[str, ...]]:
    """The executor of a name, without lanes, and lines that say which one and why.

    Args:
        name: ``stream``, ``stacked``, or ``auto``: whichever trains faster here.
        trainer: what to train.
        room: how many networks there will be at the same time.

    Raises:
        UnknownNameError: for another name.
        TrainingError: for ``stacked`` where the network cannot be stacked, with the reason.

    >>> from lrbench_hpo.training import load_data
    >>> make_executor("stacked", Trainer(load_data("digits"), "mlp"), 4)[1]
    ('executor stacked (stacked layers): as asked',)
    """
    if name not in EXECUTORS:
        raise UnknownNameError.among("executor", name, EXECUTORS)
    if name == "stream":
        return StreamExecutor(trainer), ("executor stream: as asked",)
    if name == "auto" and room == 1:
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
    return _faster(trainer, stacked, how, notes, room)


def _faster(
    trainer: Trainer, stacked: StackedExecutor, how: str, notes: tuple[str, ...], room: int
) -> tuple[Executor, tuple[str, ...]]:
    members = members_that_fit(trainer, room, stacked=True)
    if trainer.device.type == "cpu":
        members = min(members, _TIMED_ON_CPU)
    if members == 1:
        return StreamExecutor(trainer), ("executor stream: stacked, two networks do not fit",)
    stream = StreamExecutor(trainer)
    rates = timed_turns((stream, stacked), trainer.seed_of(None), members)
    stream_rate, stacked_rate = rates
    found = f"{stacked_rate:.3g} updates/s of {members} networks stacked, {stream_rate:.3g} in turn"
    if stacked_rate < _WORTH * stream_rate:
        stream.compact([])
        return stream, (f"executor stream: {found}",)
    stacked.compact([])
    return stacked, (f"{how}: {found}", *notes)


def timed_turns(executors: Sequence[Executor], seed: int, members: int) -> list[float]:
    """Updates per second of all lanes together, for each executor; they take turns.

    Args:
        executors: without lanes; they are left with lanes that nobody needs.
        seed: of the lanes.
        members: how many lanes.
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
            executor.advance(updates)  # it ends with a look at the losses, on a GPU too
            taken.append(time.perf_counter() - before)
        if time.perf_counter() - started > _LONGEST:
            break
    return [members / statistics.median(taken) for taken in seconds]
