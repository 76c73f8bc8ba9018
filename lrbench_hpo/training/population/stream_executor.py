"""The executor for any model and device: ordinary networks in turn, on shared batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lrbench_hpo.training.loop import TrainingLoop
from lrbench_hpo.training.population.shared_batches import BatchReader, SharedBatches
from lrbench_hpo.training.progress import weights_of
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer


class _Network:
    """One network: its training loop, its position in the data, its layers' random numbers."""

    def __init__(self, trainer: Trainer, batches: SharedBatches, seed: int) -> None:
        self.reader = BatchReader(batches, seed)
        self.loop: TrainingLoop = trainer.start(seed=seed, batches=self.reader)
        self.randomness = LayerRandomness(trainer.device, seed)


class StreamExecutor:
    """Trains ordinary networks in turn, a few updates each, on batches that they share.

    A network is bit for bit what `Trainer.train` returns for its seed and LRs: the same loop runs.

    Args:
        trainer: trains the networks.
    """

    name = "stream"
    lockstep = False

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._batches = SharedBatches(trainer.batches)
        self._networks: list[_Network] = []

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, seed: int) -> None:
        """Add a network with the initial weights and the batches of a run's seed."""
        self._networks.append(_Network(self._trainer, self._batches, seed))

    def fork(self, index: int) -> None:
        """Add a copy of a network."""
        self.restore(self.state_dict(index))

    def compact(self, keep: Sequence[int]) -> None:
        """Remove all networks but these."""
        self._networks = [self._networks[index] for index in keep]

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every network; for each, the first update with a non-finite loss, or None."""
        count = max(len(rates) for rates in learning_rates)
        turns = list(zip(self._networks, learning_rates, strict=True))
        cursors = Counter(network.reader.cursor for network, rates in turns if rates)
        staying = {network.reader.cursor for network, rates in turns if not rates}
        batches = self._batches.take(cursors, count, staying)
        failed: list[int | None] = []
        for network, rates in turns:
            if rates:
                cursor = network.reader.cursor
                network.reader.receive(batches[cursor], shared=cursors[cursor] > 1)
            failed.append(self._train(network, rates) if rates else None)
        return failed

    def _train(self, network: _Network, rates: Sequence[float]) -> int | None:
        before = network.loop.iteration
        with network.randomness.active():
            finite = network.loop.follow(rates)
        return None if finite else network.loop.iteration - before

    def evaluate(self, indices: Sequence[int]) -> list[dict[str, float | None]]:
        """Measure each of these networks with the trainer's evaluator."""
        found = []
        for network in (self._networks[index] for index in indices):
            with network.randomness.active():
                found.append(self._trainer.evaluator(network.loop.model))
        return found

    def weights(self, index: int) -> dict[str, Tensor]:
        """A copy of a network's weights and statistics."""
        return weights_of(self._networks[index].loop.model)

    def state_dict(self, index: int) -> dict[str, Any]:
        """A copy of a network's whole state."""
        network = self._networks[index]
        return {
            "seed": network.reader.cursor.seed,
            "loop": network.loop.state_dict(),
            "randomness": network.randomness.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Add a network from what `state_dict` returned."""
        self.add(state["seed"])
        self._networks[-1].loop.load_state_dict(state["loop"])
        self._networks[-1].randomness.load_state_dict(state["randomness"])
