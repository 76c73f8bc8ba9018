"""The interface of the executors, which train a population's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Executor(Protocol):
    """Several networks of one trainer, each trained at its own LRs; they are numbered 0, 1, ….

    Every network ends with the numbers that its seed and LRs give alone, whatever the others do.

    Attributes:
        name: its name in the option ``executor``.
        lockstep: whether all networks are always trained at the same time.
    """

    name: str
    lockstep: bool

    def __len__(self) -> int:
        """The number of networks."""

    def add(self, seed: int) -> None:
        """Add a network with the initial weights and the batches of a run's seed."""

    def fork(self, index: int) -> None:
        """Add a copy of a network: its weights, optimizer state, data and random numbers."""

    def compact(self, keep: Sequence[int]) -> None:
        """Remove all networks but these, which become 0, 1, … in the order given."""

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every network by the same number of updates.

        Args:
            learning_rates: a row for each network, with the LR of each update. Without ``lockstep``
                some rows may be empty: these networks are not trained.

        Returns:
            For each network the first update of this call, counted from 1, with a loss that is not
            finite; None if all losses were finite.
        """

    def evaluate(self, indices: Sequence[int]) -> list[dict[str, float | None]]:
        """Measure each of these networks with the trainer's evaluator."""

    def weights(self, index: int) -> dict[str, Tensor]:
        """A copy of a network's weights and statistics, by the names of the ordinary network."""

    def state_dict(self, index: int) -> dict[str, Any]:
        """A copy of a network's whole state, in tensors and JSON types."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Add a network from what `state_dict` returned."""
