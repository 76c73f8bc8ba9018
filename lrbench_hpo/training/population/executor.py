"""What a population asks of the networks that it trains together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Executor(Protocol):
    """Networks of one trainer under way at the same time, each at its own LRs, in lanes 0, 1, ….

    Every lane ends with the numbers that its seed and LRs give alone, whatever the other lanes do.

    Attributes:
        name: as people ask for it.
        lockstep: whether all lanes are always trained at the same time.
    """

    name: str
    lockstep: bool

    def __len__(self) -> int:
        """How many lanes there are."""

    def add(self, seed: int) -> None:
        """Begin another lane, with the weights and batches of a run's seed."""

    def fork(self, lane: int) -> None:
        """Begin another lane as a copy of this one: weights, optimizer, data, random numbers."""

    def compact(self, keep: Sequence[int]) -> None:
        """Let go of all lanes but these, which become 0, 1, … in the order given."""

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every lane by the same number of updates.

        Args:
            learning_rates: a row for each lane, with the LR of each update; without ``lockstep``
                some rows may be empty, and these lanes stay as they are.

        Returns:
            For each lane the number of the update, from 1 in this call, whose loss was the first
            that is not finite; None where all were.
        """

    def evaluate(self, lanes: Sequence[int]) -> list[dict[str, float | None]]:
        """What the trainer's evaluator measures, for each of these lanes."""

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of a lane's weights and statistics, by the names of the ordinary network."""

    def state_dict(self, lane: int) -> dict[str, Any]:
        """A copy of all that a lane is made of, in tensors and JSON types."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Begin another lane from what `state_dict` gave."""
