"""A population whose members are addressed by keys, and the events that its training produces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run
from lrbench_hpo.training.population.member import Member
from lrbench_hpo.training.population.population import Population
from lrbench_hpo.training.progress import Weights
from lrbench_hpo.training.trainer import Trainer

Score = Callable[[Run], float]


@dataclass(frozen=True)
class Event:
    """An event in the training of one member: an evaluation, progress, or its end.

    Attributes:
        key: the member's key, as given to `add`.
        iteration: updates so far.
        run: the run so far, after an evaluation or at the end; None for progress between them.
        ended: whether this is the member's last event.
        state: weights at the best evaluation, if the member completed with a higher score than all
            before it in its process.
        failure: why the member failed, if it did.
    """

    key: int
    iteration: int
    run: Run | None = None
    ended: bool = False
    state: Weights | None = None
    failure: str | None = None


OnProgress = Callable[[list[Event]], bool | None]


class Worker:
    """Trains a population in this process; members are addressed by integer keys.

    Args:
        trainer: trains the networks.
        capacity: how many members at once.
        executor: as in `Population`.
        score: the score of a complete run; only the weights of the best run are kept.
        processes: how many processes share the memory.

    Attributes:
        capacity: how many members fit.
        notes: the choices made, one line each.
    """

    def __init__(
        self, trainer: Trainer, capacity: int, executor: str, score: Score, processes: int = 1
    ) -> None:
        self._population = Population(
            trainer, capacity=capacity, executor=executor, processes=processes
        )
        self.capacity, self.notes = self._population.capacity, self._population.notes
        self._keys: dict[Member, int] = {}
        self._score = score
        self._best = -float("inf")

    @property
    def environment(self) -> dict[str, Any]:
        """The entries in which runs differ from those of `Trainer.train` in this process."""
        stacked = self._population.executor.name == "stacked"
        return {"executor": "stacked"} if stacked else {}

    @property
    def trained_iterations(self) -> int:
        """Updates of networks so far."""
        return self._population.trained_iterations

    @property
    def saved_iterations(self) -> int:
        """Updates saved by shared prefixes so far."""
        return self._population.saved_iterations

    def add(self, key: int, policy: LRPolicy, max_iterations: int) -> None:
        """Start a member."""
        self._keys[self._population.add(policy, max_iterations)] = key

    def stop(self, key: int) -> Event | None:
        """Stop a member early.

        Returns:
            Its last event; None for a member that has ended already.
        """
        member = next((m for m, known in self._keys.items() if known == key), None)
        if member is None:
            return None
        self._population.remove([member])
        del self._keys[member]
        return Event(key, member.iteration, member.run(), ended=True)

    def events(self, on_progress: OnProgress | None = None) -> list[Event]:
        """Train until at least one member is evaluated or ends; return the events.

        Args:
            on_progress: called every few updates; when it returns True, training pauses there.
        """

        def report(members: Sequence[Member]) -> bool | None:
            if on_progress is None:
                return None
            return on_progress([Event(self._keys[member], member.iteration) for member in members])

        moved = self._population.step(report)
        return [self._event(member) for member in moved]

    def _event(self, member: Member) -> Event:
        run, key = member.run(), self._keys[member]
        if not member.finished:
            return Event(key, member.iteration, run)
        del self._keys[member]
        score = self._score(run) if run.status == "complete" else -float("inf")
        state = member.state if score > self._best else None
        self._best = max(self._best, score)
        return Event(key, member.iteration, run, ended=True, state=state)

    def close(self) -> None:
        """Release all members."""
        self._population.remove(self._population.members)
