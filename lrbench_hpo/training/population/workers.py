"""Populations in processes, one per core: the fastest way to train small networks on a CPU."""

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
from lrbench_hpo.training.population.worker import Event, OnProgress, Score, Worker
from lrbench_hpo.training.progress import Weights
from lrbench_hpo.training.trainer import Trainer

_PROGRESS_EVERY = 0.2  # seconds between two reports of progress
_PARENT_CHECK_EVERY = 1.0  # seconds between two checks that the parent lives, while idle


@dataclass
class _Process:
    """A worker process, the connection to it, and its members."""

    process: Any
    connection: Connection
    capacity: int = 0
    members: dict[int, tuple[LRPolicy, int]] = field(default_factory=dict)
    latest: dict[int, Event] = field(default_factory=dict)
    iterations: tuple[int, int] = (0, 0)


class WorkerPool:
    """Workers in processes with one thread each; they end with the process that started them.

    A process that is killed is replaced, and its members start again, once each. Members that no
    longer fit into the memory wait until there is capacity.

    Args:
        trainer: trains the networks, on a CPU.
        capacity: how many members at once, in all processes together.
        executor: as in `Population`.
        score: as in `Worker`.
        processes: how many processes.

    Attributes:
        capacity: how many members fit.
        notes: the choices made, one line each.
        environment: the entries in which runs differ from those of `Trainer.train` in this process.

    Raises:
        LRBenchError: for an unknown executor, or if no process can be started.
    """

    def __init__(
        self, trainer: Trainer, capacity: int, executor: str, score: Score, processes: int
    ) -> None:
        # Forked processes have data and network at once; elsewhere both are pickled.
        self._context: Any = multiprocessing.get_context(
            "fork" if sys.platform == "linux" else "spawn"
        )
        if executor not in EXECUTORS:
            raise UnknownNameError.among("executor", executor, EXECUTORS)
        share = -(-capacity // processes)
        chosen, notes = _chosen(executor, trainer, share)
        self._worker_arguments = (trainer, share, chosen, score, processes)
        self._waiting: dict[int, tuple[LRPolicy, int]] = {}
        self._restarted: set[int] = set()
        self._stopped: set[int] = set()
        self._error: str | None = None
        self._ended_iterations = [0, 0]  # trained and saved, by processes that have ended
        self.notes: tuple[str, ...] = ()
        self.environment: dict[str, Any] = {}
        self._processes: list[_Process] = []
        try:
            for _ in range(processes):
                self._processes.append(self._start())
            for process in self._processes:
                self._await_start(process)
        except BaseException:
            self.close()
            raise
        self.capacity = min(capacity, min(each.capacity for each in self._processes) * processes)
        theirs = self.notes if executor != "auto" else self.notes[1:]
        self.notes = tuple(dict.fromkeys([*notes, *theirs]))

    @property
    def trained_iterations(self) -> int:
        """Updates of networks so far."""
        return self._ended_iterations[0] + sum(each.iterations[0] for each in self._processes)

    @property
    def saved_iterations(self) -> int:
        """Updates saved by shared prefixes so far."""
        return self._ended_iterations[1] + sum(each.iterations[1] for each in self._processes)

    def add(self, key: int, policy: LRPolicy, max_iterations: int) -> None:
        """Start a member in the process with the fewest; it waits while all are full."""
        self._waiting[key] = (policy, max_iterations)
        self._fill()

    def stop(self, key: int) -> Event | None:
        """Stop a member early; its last event comes from `events`."""
        if key in self._waiting:
            self._stopped.add(key)
        for process in self._processes:
            if key in process.members:
                self._stopped.add(key)
                self._send(process, ("stop", key))
        return None

    def events(self, on_progress: OnProgress | None = None) -> list[Event]:
        """Wait until at least one member is evaluated or ends; return the events.

        Raises:
            TrainingError: with the error that ended a process.
        """
        found: list[Event] = []
        while not found:
            if self._error is not None:
                raise TrainingError(self._error)
            ready = wait([process.connection for process in self._processes])
            for process in [each for each in self._processes if each.connection in ready]:
                try:
                    message = process.connection.recv()
                except (EOFError, OSError):
                    found += self._replace(process)
                    continue
                if isinstance(message, str):
                    self._error = message
                    self._processes.remove(process)
                    process.process.join()
                    continue
                events, process.iterations = message
                moving = [event for event in events if event.run is None]
                if moving and on_progress is not None:
                    on_progress(moving)
                found += [self._note(process, event) for event in events if event.run is not None]
            self._fill()
        return found

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.process.terminate()
        for process in self._processes:
            process.process.join()
            process.connection.close()
            self._add_iterations(process)
        self._processes = []

    def _add_iterations(self, ended: _Process) -> None:
        pairs = zip(self._ended_iterations, ended.iterations, strict=True)
        self._ended_iterations = [before + more for before, more in pairs]

    def _start(self) -> _Process:
        mine, theirs = self._context.Pipe()
        # A forked process has copies of the parent's ends. It closes them: a connection whose other
        # end it holds itself would never break.
        forked = self._context.get_start_method() == "fork"
        inherited = [mine, *(each.connection for each in self._processes)] if forked else []
        process = self._context.Process(
            target=_work, args=(theirs, inherited, os.getpid(), self._worker_arguments), daemon=True
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TrainingError(
                f"the network cannot be given to another process ({error}): give processes=1, or "
                "a class or function of a module"
            ) from error
        theirs.close()
        return _Process(process, mine)

    def _await_start(self, process: _Process) -> None:
        """Wait for the first message of a process: its capacity, notes and environment."""
        try:
            message = process.connection.recv()
        except (EOFError, OSError):
            process.process.join()
            raise TrainingError(
                f"a training process ended at once (exit status {process.process.exitcode}): try "
                "processes=1"
            ) from None
        if isinstance(message, str):
            raise TrainingError(message)
        process.capacity, self.notes, self.environment = message

    def _fill(self) -> None:
        """Send waiting members to the processes with the fewest, up to their capacity."""
        while self._waiting:
            free = [each for each in self._processes if len(each.members) < each.capacity]
            if not free:
                return
            process = min(free, key=lambda each: len(each.members))
            key = next(iter(self._waiting))
            policy, max_iterations = process.members[key] = self._waiting.pop(key)
            self._send(process, ("add", key, policy.to_dict(), max_iterations))
            if key in self._stopped:
                self._send(process, ("stop", key))

    def _send(self, process: _Process, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # the process is dead, which `events` will find out
            process.connection.send(message)

    def _note(self, process: _Process, event: Event) -> Event:
        """Update what is known of a process; the event with its weights as tensors again."""
        if event.ended:
            process.members.pop(event.key, None)
            process.latest.pop(event.key, None)
        else:
            process.latest[event.key] = event
        if event.state is None:
            return event
        state = {name: torch.from_numpy(value) for name, value in event.state.items()}
        return replace(event, state=state)

    def _replace(self, killed: _Process) -> list[Event]:
        """Start another process for the members of one that was killed.

        Returns:
            The last events of members that do not start again.
        """
        killed.process.join()
        reason = f"its process was killed twice (exit status {killed.process.exitcode})"
        self._processes.remove(killed)
        self._add_iterations(killed)
        fresh = self._start()
        self._processes.append(fresh)
        self._await_start(fresh)
        # Beside the others there may be less memory now than at first.
        self.capacity = min(self.capacity, sum(each.capacity for each in self._processes))
        lost = []
        again = {}
        for key, (policy, max_iterations) in killed.members.items():
            if key in self._stopped and key in killed.latest:
                lost.append(replace(killed.latest[key], ended=True))
                continue
            if key in self._restarted:
                lost.append(Event(key, 0, ended=True, failure=reason))
                continue
            self._restarted.add(key)
            again[key] = (policy, max_iterations)
        self._waiting = {**again, **self._waiting}
        self._fill()
        return lost


def _chosen(executor: str, trainer: Trainer, capacity: int) -> tuple[str, tuple[str, ...]]:
    """The executor for all processes, and why; it is timed with one thread, as they have."""
    if executor != "auto":
        return executor, ()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made, notes = make_executor(executor, trainer, capacity)
    finally:
        torch.set_num_threads(threads)
    return made.name, notes


def _work(
    connection: Connection, inherited: list[Connection], parent: int, arguments: tuple[Any, ...]
) -> None:
    """Run a worker in this process, as the parent commands, for as long as the parent lives.

    Args:
        connection: to the parent.
        inherited: the parent's ends of connections, copied by a fork.
        parent: the parent's process id.
        arguments: of `Worker`.
    """
    # Ctrl-C reaches the whole process group, but only the parent ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in inherited:
        end.close()
    gc.freeze()  # objects of the parent, such as its connections, must not be finalized here
    torch.set_num_threads(1)
    try:
        worker = Worker(*arguments)
        connection.send((worker.capacity, worker.notes, {**worker.environment, "threads": 1}))
        channel = _Channel(connection, worker, parent)
        members = 0
        while not channel.orphaned:
            while connection.poll(0.0 if members else _PARENT_CHECK_EVERY):
                message: tuple[Any, ...] = connection.recv()
                if message[0] == "add":
                    worker.add(message[1], LRPolicy.from_dict(message[2]), message[3])
                    members += 1
                elif (event := worker.stop(message[1])) is not None:
                    members -= 1
                    channel.report([event])
            if members:
                events = worker.events(channel.progress)
                members -= sum(event.ended for event in events)
                channel.report(events)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is dead
    except LRBenchError as error:
        connection.send(str(error))
    except Exception as error:  # the user's own network may raise anything
        connection.send(
            f"training failed ({type(error).__name__}: {error}): see the model's own code"
        )


class _Channel:
    """Reports of a worker process to its parent."""

    def __init__(self, connection: Connection, worker: Worker, parent: int) -> None:
        self._connection = connection
        self._worker = worker
        self._parent = parent
        self._reported_at = time.monotonic()

    @property
    def orphaned(self) -> bool:
        """Whether the parent is dead."""
        return os.getppid() != self._parent

    def progress(self, events: list[Event]) -> bool:
        """Report progress now and then; whether the worker must pause for a message."""
        if time.monotonic() - self._reported_at > _PROGRESS_EVERY:
            self.report(events)
        return self._connection.poll() or self.orphaned

    def report(self, events: list[Event]) -> None:
        """Report events, and how many updates were made and saved so far."""
        self._reported_at = time.monotonic()
        portable = [replace(event, state=_arrays(event.state)) for event in events]
        iterations = (self._worker.trained_iterations, self._worker.saved_iterations)
        self._connection.send((portable, iterations))


def _arrays(state: Weights | None) -> Any:
    """Weights as arrays: these are copied, while tensors would be sent as shared memory."""
    return state and {name: value.cpu().numpy() for name, value in state.items()}
