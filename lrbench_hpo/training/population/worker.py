"""Members of a population by keys, and what is to be told of them."""

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

Worth = Callable[[Run], float]


@dataclass(frozen=True)
class Event:
    """What became of a member.

    Attributes:
        key: the member's, as given to `add`.
        iteration: updates so far.
        run: the run so far, after an evaluation or the end; None for mere progress.
        ended: whether nothing more comes of it.
        state: weights at the best evaluation, if it ended better than all before in its process.
        failure: why it failed, if it did.
    """

    key: int
    iteration: int
    run: Run | None = None
    ended: bool = False
    state: Weights | None = None
    failure: str | None = None


OnProgress = Callable[[list[Event]], bool | None]


class Crew:
    """A population in this process.

    Args:
        trainer: what to train.
        room: how many members at once.
        executor: as in `Population`.
        worth: what a complete run is worth; only the weights of the best are kept.
        processes: how many processes share the memory.

    Attributes:
        room: how many members there may be.
        notes: what was decided, a line each.
    """

    def __init__(
        self, trainer: Trainer, room: int, executor: str, worth: Worth, processes: int = 1
    ) -> None:
        self._population = Population(trainer, room=room, executor=executor, processes=processes)
        self.room, self.notes = self._population.room, self._population.notes
        self._keys: dict[Member, int] = {}
        self._worth = worth
        self._best = -float("inf")

    @property
    def environment(self) -> dict[str, Any]:
        """What differs from a run that this process would train alone."""
        stacked = self._population.executor.name == "stacked"
        return {"executor": "stacked"} if stacked else {}

    @property
    def trained_iterations(self) -> int:
        """Updates of networks so far."""
        return self._population.trained_iterations

    @property
    def saved_iterations(self) -> int:
        """Updates that shared prefixes have saved."""
        return self._population.saved_iterations

    def add(self, key: int, policy: LRPolicy, max_iterations: int) -> None:
        """Begin a member."""
        self._keys[self._population.add(policy, max_iterations)] = key

    def drop(self, key: int) -> Event | None:
        """Stop a member early: its end, or None if that follows among the events."""
        member = next((m for m, known in self._keys.items() if known == key), None)
        if member is None:
            return None
        self._population.drop([member])
        del self._keys[member]
        return Event(key, member.iteration, member.run(), ended=True)

    def events(self, on_progress: OnProgress | None = None) -> list[Event]:
        """Train until something is to be told.

        Args:
            on_progress: called every few updates; when it returns True, training pauses there.
        """

        def tell(members: Sequence[Member]) -> bool | None:
            if on_progress is None:
                return None
            return on_progress([Event(self._keys[member], member.iteration) for member in members])

        moved = self._population.step(tell)
        return [self._event(member) for member in moved]

    def _event(self, member: Member) -> Event:
        run, key = member.run(), self._keys[member]
        if not member.finished:
            return Event(key, member.iteration, run)
        del self._keys[member]
        worth = self._worth(run) if run.status == "complete" else -float("inf")
        state = member.state if worth > self._best else None
        self._best = max(self._best, worth)
        return Event(key, member.iteration, run, ended=True, state=state)

    def close(self) -> None:
        """Let go of all members."""
        self._population.drop(self._population.members)
