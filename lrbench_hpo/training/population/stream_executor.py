"""Ordinary networks side by side, fed by one stream of batches: any model, any device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lrbench_hpo.training.loop import TrainingLoop
from lrbench_hpo.training.population.shared_batches import DataStreams, Reader
from lrbench_hpo.training.progress import weights_of
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer


class _Lane:
    """One network: its loop, its place in the data and the random numbers of its layers."""

    def __init__(self, trainer: Trainer, streams: DataStreams, seed: int) -> None:
        self.reader = Reader(streams, seed)
        self.loop: TrainingLoop = trainer.start(seed=seed, batches=self.reader)
        self.randomness = LayerRandomness(trainer.device, seed)


class StreamExecutor:
    """Trains ordinary networks in turn, a few updates each, on batches that they share.

    A lane is bitwise what `Trainer.train` makes of its seed and LRs: it is the same loop.

    Args:
        trainer: what to train.
    """

    name = "stream"
    lockstep = False

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._streams = DataStreams(trainer.batches)
        self._lanes: list[_Lane] = []

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, seed: int) -> None:
        """Begin another lane, with the weights and batches of a run's seed."""
        self._lanes.append(_Lane(self._trainer, self._streams, seed))

    def fork(self, lane: int) -> None:
        """Begin another lane as a copy of this one."""
        self.restore(self.state_dict(lane))

    def compact(self, keep: Sequence[int]) -> None:
        """Let go of all lanes but these."""
        self._lanes = [self._lanes[lane] for lane in keep]

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every lane; for each, the update whose loss was first not finite, or None."""
        count = max(len(rates) for rates in learning_rates)
        turns = list(zip(self._lanes, learning_rates, strict=True))
        places = Counter(lane.reader.cursor for lane, rates in turns if rates)
        staying = {lane.reader.cursor for lane, rates in turns if not rates}
        batches = self._streams.take(places, count, staying)
        failed: list[int | None] = []
        for lane, rates in turns:
            if rates:
                place = lane.reader.cursor
                lane.reader.give(batches[place], shared=places[place] > 1)
            failed.append(self._train(lane, rates) if rates else None)
        return failed

    def _train(self, lane: _Lane, rates: Sequence[float]) -> int | None:
        before = lane.loop.iteration
        with lane.randomness.active():
            fine = lane.loop.follow(rates)
        return None if fine else lane.loop.iteration - before

    def evaluate(self, lanes: Sequence[int]) -> list[dict[str, float | None]]:
        """What the trainer's evaluator measures, for each of these lanes."""
        found = []
        for lane in (self._lanes[index] for index in lanes):
            with lane.randomness.active():
                found.append(self._trainer.evaluator(lane.loop.model))
        return found

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of a lane's weights and statistics."""
        return weights_of(self._lanes[lane].loop.model)

    def state_dict(self, lane: int) -> dict[str, Any]:
        """A copy of all that a lane is made of."""
        at = self._lanes[lane]
        return {
            "seed": at.reader.cursor.seed,
            "loop": at.loop.state_dict(),
            "randomness": at.randomness.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Begin another lane from what `state_dict` gave."""
        self.add(state["seed"])
        self._lanes[-1].loop.load_state_dict(state["loop"])
        self._lanes[-1].randomness.load_state_dict(state["randomness"])
