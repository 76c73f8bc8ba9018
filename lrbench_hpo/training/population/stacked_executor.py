"""Networks trained as one network with K-fold parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrbench_hpo.training.cuda_graphs import GraphedStep
from lrbench_hpo.training.population.shared_batches import Cursor, DataStreams
from lrbench_hpo.training.population.stacked_layers import stack
from lrbench_hpo.training.population.stacked_model import (
    load_members,
    losses_of,
    stack_network,
    tensors_of,
)
from lrbench_hpo.training.population.stacked_optimizer import StackedOptimizer
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer

Slots = dict[str, dict[str, Tensor]]


class _Lane:
    """One network: its tensors, views into the stacked ones once it was trained."""

    def __init__(
        self, cursor: Cursor, randomness: LayerRandomness, tensors: dict[str, Tensor], slots: Slots
    ) -> None:
        self.cursor = cursor
        self.randomness = randomness  # no stacked network draws any; for the stream executor
        self.tensors = tensors
        self.slots = slots


class StackedExecutor:
    """Trains K networks as one: a grouped convolution or a batched product for K layers.

    A lane ends with the numbers of `Trainer.train` up to the order of sums. Nothing is shared
    between lanes but the loss that their losses add up to, so one that diverges changes no bit of
    the others. Hierarchically fused training arrays (Wang et al. 2021, arXiv 2102.02344) are the
    idea.

    Args:
        trainer: what to train.

    Attributes:
        how: ``stacked layers`` or ``vmap``.
        reason: why stacked layers do not do, if so.

    Raises:
        NotStackableError: if the network computes something else when it is stacked, or fails.
    """

    name = "stacked"
    lockstep = True

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._network, self.reason = stack_network(trainer)
        self.how = self._network.how
        self._ordinary = trainer.network(0)
        self._optimizer = StackedOptimizer(self._ordinary, trainer.recipe)
        self._streams = DataStreams(trainer.batches)
        self._lanes: list[_Lane] = []
        self._parameters: dict[str, nn.Parameter] = {}
        self._slots: Slots = {}
        self._stacked: list[_Lane] = []
        self._step: Callable[..., Tensor] = self._update

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, seed: int) -> None:
        """Begin another lane, with the weights and batches of a run's seed."""
        tensors = tensors_of(self._trainer.network(seed))
        randomness = LayerRandomness(self._trainer.device, seed)
        slots = self._optimizer.fresh(tensors)
        self._lanes.append(_Lane(Cursor(seed), randomness, tensors, slots))

    def fork(self, lane: int) -> None:
        """Begin another lane as a copy of this one."""
        at = self._lanes[lane]
        randomness = LayerRandomness(self._trainer.device, at.cursor.seed)
        randomness.load_state_dict(at.randomness.state_dict())
        # The same tensors: both get their own when they are put together anew, before any changes.
        self._lanes.append(_Lane(at.cursor, randomness, at.tensors, at.slots))

    def compact(self, keep: Sequence[int]) -> None:
        """Let go of all lanes but these."""
        self._lanes = [self._lanes[lane] for lane in keep]
        if not self._lanes:
            self._stacked, self._parameters, self._slots = [], {}, {}
            self._step = self._update

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every lane; for each, the update whose loss was first not finite, or None."""
        self._stack()
        places = [lane.cursor for lane in self._lanes]
        count = len(learning_rates[0])
        batches = self._streams.take(places, count)
        # One batch for all where all are at the same place of their data.
        wanted = places[:1] if len(batches) == 1 else places
        done = [place.iteration for place in places]
        losses = []
        # Kernels that repeat their results, as the trainer's; no lane draws random numbers.
        with self._lanes[0].randomness.active():
            for update, numbers in enumerate(self._numbers(learning_rates, done)):
                images, labels = zip(*(batches[place][update] for place in wanted), strict=True)
                losses.append(self._step(numbers, *images, *labels))
        for lane in self._lanes:
            lane.cursor = lane.cursor.moved(count)
        finite = torch.isfinite(torch.stack(losses)).cpu()
        firsts = finite.int().argmin(0).tolist()
        fine = finite.all(0).tolist()
        return [None if ok else first + 1 for ok, first in zip(fine, firsts, strict=True)]

    def evaluate(self, lanes: Sequence[int]) -> list[dict[str, float | None]]:
        """What the trainer's evaluator measures, for each of these lanes."""
        found = []
        for lane in lanes:
            self._ordinary.load_state_dict(self.weights(lane))
            with self._lanes[lane].randomness.active():
                found.append(self._trainer.evaluator(self._ordinary))
        return found

    def weights(self, lane: int) -> dict[str, Tensor]:
        """A copy of a lane's weights and statistics."""
        tensors = self._lanes[lane].tensors
        return {name: tensors[name].clone() for name in self._ordinary.state_dict()}

    def state_dict(self, lane: int) -> dict[str, Any]:
        """A copy of all that a lane is made of, as the stream executor gives it."""
        at = self._lanes[lane]
        loop = {
            "iteration": at.cursor.iteration,
            "diverged": False,
            "model": self.weights(lane),
            "optimizer": self._optimizer.state_dict(at.slots, at.cursor.iteration),
            "batches": self._streams.state_dict(at.cursor),
        }
        randomness = at.randomness.state_dict()
        return {"seed": at.cursor.seed, "loop": loop, "randomness": randomness}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Begin another lane from what `state_dict` gave, here or in the stream executor."""
        self.add(state["seed"])
        at, loop = self._lanes[-1], state["loop"]
        for name, value in loop["model"].items():
            at.tensors[name].copy_(value)
        at.slots = self._optimizer.restored(at.tensors, loop["optimizer"])
        at.cursor = self._streams.restore(loop["batches"])
        at.randomness.load_state_dict(state["randomness"])

    def _stack(self) -> None:
        """New stacked tensors where lanes have come or gone; the lanes' own become their views."""
        if self._lanes == self._stacked:
            return
        lanes = self._lanes
        tensors = {name: stack([lane.tensors[name] for lane in lanes]) for name in lanes[0].tensors}
        self._slots = {
            name: {slot: stack([lane.slots[name][slot] for lane in lanes]) for slot in kept}
            for name, kept in lanes[0].slots.items()
        }
        for index, lane in enumerate(lanes):
            lane.tensors = {name: value[index] for name, value in tensors.items()}
            lane.slots = {
                name: {slot: value[index] for slot, value in kept.items()}
                for name, kept in self._slots.items()
            }
        # New parameters: gradients of other sizes would follow old ones whose data is swapped.
        self._parameters = load_members(self._network, self._ordinary, tensors)
        self._stacked = list(lanes)
        self._step = self._update
        if self._trainer.cuda_graphs:
            kept = [value for slots in self._slots.values() for value in slots.values()]
            kept += [tensors[name] for name, _ in self._ordinary.named_buffers()]
            changed = [*self._parameters.values(), *kept]
            self._step = GraphedStep(self._update, lambda: changed)

    def _update(self, numbers: Tensor, *batches: Tensor) -> Tensor:
        """One update of all lanes; their losses before it.

        Args:
            numbers: the LRs, as `StackedOptimizer.numbers` gives them.
            batches: the images of one batch that all share, or of K, and as many labels.
        """
        images, labels = batches[: len(batches) // 2], batches[len(batches) // 2 :]
        trainer = self._trainer
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.amp):
            logits = self._network.logits(images)
        losses = losses_of(logits, labels)
        losses.sum().backward()
        self._optimizer.step(self._parameters, self._slots, numbers)
        # Here and not before the next: a CUDA graph then needs no memory for them outside.
        for parameter in self._parameters.values():
            parameter.grad = None
        return losses.detach()

    def _numbers(self, learning_rates: Sequence[Sequence[float]], done: Sequence[int]) -> Tensor:
        exact = torch.from_numpy(self._optimizer.numbers(learning_rates, done))
        like = next(iter(self._parameters.values()))
        return exact.to(like.dtype).to(like.device)
