"""Populations in processes of their own, one a core: a CPU trains small networks best that way."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from lrbench_hpo.errors import LRBenchError, TrainingError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.population.choice import EXECUTORS, make_executor
from lrbench_hpo.training.population.worker import Crew, Event, OnProgress, Worth
from lrbench_hpo.training.progress import Weights
from lrbench_hpo.training.trainer import Trainer

_PROGRESS_EVERY = 0.2  # seconds
_PATIENCE = 1.0  # seconds between two looks whether the parent still lives


@dataclass
class _Worker:
    """A process, the line to it, and what it works on."""

    process: Any
    line: Connection
    room: int = 0
    members: dict[int, tuple[LRPolicy, int]] = field(default_factory=dict)
    latest: dict[int, Event] = field(default_factory=dict)
    iterations: tuple[int, int] = (0, 0)


class WorkerCrew:
    """Populations in processes with one thread each; they end with the process that made them.

    A process that is killed is replaced once for each of its members, which begin anew; those that
    do not fit into the memory any more wait until there is room.

    Args:
        trainer: what to train, on a CPU.
        room: how many members at once, in all.
        executor: as in `Population`.
        worth: as in `Crew`.
        processes: how many processes.

    Raises:
        LRBenchError: for another executor, or where no process can be started.
    """

    def __init__(
        self, trainer: Trainer, room: int, executor: str, worth: Worth, processes: int
    ) -> None:
        # Forked processes have data and network at once; elsewhere both are pickled.
        self._context: Any = multiprocessing.get_context(
            "fork" if sys.platform == "linux" else "spawn"
        )
        if executor not in EXECUTORS:
            raise UnknownNameError.among("executor", executor, EXECUTORS)
        share = -(-room // processes)
        chosen, notes = _chosen(executor, trainer, share)
        self._asked = (trainer, share, chosen, worth, processes)
        self._waiting: dict[int, tuple[LRPolicy, int]] = {}
        self._again: set[int] = set()
        self._dropped: set[int] = set()
        self._broken: str | None = None
        self._gone = [0, 0]
        self.notes: tuple[str, ...] = ()
        self.environment: dict[str, Any] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(processes):
                self._workers.append(self._start())
            for worker in self._workers:
                self._hello(worker)
        except BaseException:
            self.close()
            raise
        self.room = min(room, min(worker.room for worker in self._workers) * processes)
        theirs = self.notes if executor != "auto" else self.notes[1:]
        self.notes = tuple(dict.fromkeys([*notes, *theirs]))

    @property
    def trained_iterations(self) -> int:
        """Updates of networks so far."""
        return self._gone[0] + sum(worker.iterations[0] for worker in self._workers)

    @property
    def saved_iterations(self) -> int:
        """Updates that shared prefixes have saved."""
        return self._gone[1] + sum(worker.iterations[1] for worker in self._workers)

    def add(self, key: int, policy: LRPolicy, max_iterations: int) -> None:
        """Begin a member, in the process with the fewest; where none has room, it waits."""
        self._waiting[key] = (policy, max_iterations)
        self._fill()

    def drop(self, key: int) -> Event | None:
        """Stop a member early; its end follows among the events."""
        if key in self._waiting:
            self._dropped.add(key)
        for worker in self._workers:
            if key in worker.members:
                self._dropped.add(key)
                self._send(worker, ("drop", key))
        return None

    def events(self, on_progress: OnProgress | None = None) -> list[Event]:
        """Wait until something is to be told.

        Raises:
            TrainingError: what ended a process, in its own words.
        """
        found: list[Event] = []
        while not found:
            if self._broken is not None:
                raise TrainingError(self._broken)
            ready = wait([worker.line for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.line in ready]:
                try:
                    told = worker.line.recv()
                except (EOFError, OSError):
                    found += self._replace(worker)
                    continue
                if isinstance(told, str):
                    self._broken = told
                    self._workers.remove(worker)
                    worker.process.join()
                    continue
                events, worker.iterations = told
                moving = [event for event in events if event.run is None]
                if moving and on_progress is not None:
                    on_progress(moving)
                found += [self._heard(worker, event) for event in events if event.run is not None]
            self._fill()
        return found

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.line.close()
            self._lay_off(worker)
        self._workers = []

    def _lay_off(self, worker: _Worker) -> None:
        self._gone = [a + b for a, b in zip(self._gone, worker.iterations, strict=True)]

    def _start(self) -> _Worker:
        mine, theirs = self._context.Pipe()
        # A forked process has copies of the parent's ends: a line whose other end it holds itself
        # would never break.
        forked = self._context.get_start_method() == "fork"
        inherited = [mine, *(worker.line for worker in self._workers)] if forked else []
        process = self._context.Process(
            target=_work, args=(theirs, inherited, os.getpid(), *self._asked), daemon=True
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TrainingError(
                f"the network cannot be given to another process ({error}): give processes=1, or "
                "a class or function of a module"
            ) from error
        theirs.close()
        return _Worker(process, mine)

    def _hello(self, worker: _Worker) -> None:
        """Hear from a process that has begun how many members it has room for."""
        try:
            told = worker.line.recv()
        except (EOFError, OSError):
            worker.process.join()
            raise TrainingError(
                f"a training process ended at once (exit status {worker.process.exitcode}): try "
                "processes=1"
            ) from None
        if isinstance(told, str):
            raise TrainingError(told)
        worker.room, self.notes, self.environment = told

    def _fill(self) -> None:
        """Give those who wait to the processes with the fewest, as far as there is room."""
        while self._waiting:
            free = [worker for worker in self._workers if len(worker.members) < worker.room]
            if not free:
                return
            worker = min(free, key=lambda worker: len(worker.members))
            key = next(iter(self._waiting))
            policy, max_iterations = worker.members[key] = self._waiting.pop(key)
            self._send(worker, ("add", key, policy.to_dict(), max_iterations))
            if key in self._dropped:
                self._send(worker, ("drop", key))

    def _send(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # it is dead, which its line will tell
            worker.line.send(message)

    def _heard(self, worker: _Worker, event: Event) -> Event:
        if event.ended:
            worker.members.pop(event.key, None)
            worker.latest.pop(event.key, None)
        else:
            worker.latest[event.key] = event
        if event.state is None:
            return event
        state = {name: torch.from_numpy(value) for name, value in event.state.items()}
        return replace(event, state=state)

    def _replace(self, worker: _Worker) -> list[Event]:
        """Start another process for the members of one that was killed."""
        worker.process.join()
        reason = f"its process was killed twice (exit status {worker.process.exitcode})"
        self._workers.remove(worker)
        self._lay_off(worker)
        fresh = self._start()
        self._workers.append(fresh)
        self._hello(fresh)
        # Beside the others there may be less memory now than at first.
        self.room = min(self.room, sum(worker.room for worker in self._workers))
        lost = []
        again = {}
        for key, (policy, max_iterations) in worker.members.items():
            if key in self._dropped and key in worker.latest:
                lost.append(replace(worker.latest[key], ended=True))
                continue
            if key in self._again:
                lost.append(Event(key, 0, ended=True, failure=reason))
                continue
            self._again.add(key)
            again[key] = (policy, max_iterations)
        self._waiting = {**again, **self._waiting}
        self._fill()
        return lost


def _chosen(executor: str, trainer: Trainer, room: int) -> tuple[str, tuple[str, ...]]:
    """The executor for all processes, and why; it is timed with one thread, as they have."""
    if executor != "auto":
        return executor, ()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made, notes = make_executor(executor, trainer, room)
    finally:
        torch.set_num_threads(threads)
    return made.name, notes


def _work(line: Connection, inherited: list[Connection], parent: int, *asked: Any) -> None:
    """What a process does: take members, train, tell; until the parent is gone."""
    # Ctrl-C reaches the whole group: the parent decides what becomes of its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in inherited:
        end.close()
    gc.freeze()  # what was the parent's, such as its connections, is not this process's to end
    torch.set_num_threads(1)
    try:
        crew = Crew(*asked)
        line.send((crew.room, crew.notes, {**crew.environment, "threads": 1}))
        said = _Voice(line, crew, parent)
        members = 0
        while not said.alone:
            while line.poll(0.0 if members else _PATIENCE):
                message: tuple[Any, ...] = line.recv()
                if message[0] == "add":
                    crew.add(message[1], LRPolicy.from_dict(message[2]), message[3])
                    members += 1
                elif (event := crew.drop(message[1])) is not None:
                    members -= 1
                    said.tell([event])
            if members:
                events = crew.events(said.progress)
                members -= sum(event.ended for event in events)
                said.tell(events)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except LRBenchError as error:
        line.send(str(error))
    except Exception as error:  # the user's own network may raise anything
        line.send(f"training failed ({type(error).__name__}: {error}): see the model's own code")


class _Voice:
    """What a process tells its parent."""

    def __init__(self, line: Connection, crew: Crew, parent: int) -> None:
        self._line = line
        self._crew = crew
        self._parent = parent
        self._told = time.monotonic()

    @property
    def alone(self) -> bool:
        """Whether the parent is gone."""
        return os.getppid() != self._parent

    def progress(self, events: list[Event]) -> bool:
        """Tell how far the members are, now and then; whether there is something to hear."""
        if time.monotonic() - self._told > _PROGRESS_EVERY:
            self.tell(events)
        return self._line.poll() or self.alone

    def tell(self, events: list[Event]) -> None:
        """Tell these, and how much was trained and saved so far."""
        self._told = time.monotonic()
        portable = [replace(event, state=_arrays(event.state)) for event in events]
        iterations = (self._crew.trained_iterations, self._crew.saved_iterations)
        self._line.send((portable, iterations))


def _arrays(state: Weights | None) -> Any:
    """Weights as arrays, which are copied through the line: tensors would go by shared memory."""
    return state and {name: value.cpu().numpy() for name, value in state.items()}
