"""The executor that trains K networks as one network with K-fold parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrbench_hpo.training.population.shared_batches import Cursor, SharedBatches
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

# The optimizer's state by parameter and name.
States = dict[str, dict[str, Tensor]]


class _Network:
    """One network: its tensors are views of the stacked ones once it has been trained."""

    def __init__(
        self,
        cursor: Cursor,
        randomness: LayerRandomness,
        tensors: dict[str, Tensor],
        states: States,
    ) -> None:
        self.cursor = cursor
        self.randomness = randomness  # not drawn from here, but saved for the stream executor
        self.tensors = tensors
        self.states = states


class StackedExecutor:
    """Trains K networks as one: a grouped convolution or a batched product for K layers.

    A network ends with the numbers of `Trainer.train` up to the order of sums. The loss that is
    differentiated is the sum of all losses, so the gradient of each network is that of its own
    loss, and one that diverges changes no bit of the others. The idea is that of horizontally fused
    training arrays (Wang et al. 2021, arXiv 2102.02344).

    Args:
        trainer: trains the networks.

    Attributes:
        how: ``stacked layers`` or ``vmap``.
        reason: the reason against stacked layers, if any.

    Raises:
        NotStackableError: if a stacked network computes something else, or fails.
    """

    name = "stacked"
    lockstep = True

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._stacked_network, self.reason = stack_network(trainer)
        self.how = self._stacked_network.how
        self._ordinary = trainer.network(0)
        self._optimizer = StackedOptimizer(self._ordinary, trainer.recipe)
        self._batches = SharedBatches(trainer.batches)
        self._networks: list[_Network] = []
        self._stacked: list[_Network] = []  # those of which the tensors below consist
        self._parameters: dict[str, nn.Parameter] = {}
        self._states: States = {}

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, seed: int) -> None:
        """Add a network with the initial weights and the batches of a run's seed."""
        tensors = tensors_of(self._trainer.network(seed))
        randomness = LayerRandomness(self._trainer.device, seed)
        states = self._optimizer.initial(tensors)
        self._networks.append(_Network(Cursor(seed), randomness, tensors, states))

    def fork(self, index: int) -> None:
        """Add a copy of a network."""
        origin = self._networks[index]
        randomness = LayerRandomness(self._trainer.device, origin.cursor.seed)
        randomness.load_state_dict(origin.randomness.state_dict())
        # They share tensors until both are stacked again, which copies them before any changes.
        self._networks.append(_Network(origin.cursor, randomness, origin.tensors, origin.states))

    def compact(self, keep: Sequence[int]) -> None:
        """Remove all networks but these."""
        self._networks = [self._networks[index] for index in keep]
        if not self._networks:
            self._stacked, self._parameters, self._states = [], {}, {}

    def advance(self, learning_rates: Sequence[Sequence[float]]) -> list[int | None]:
        """Train every network; for each, the first update with a non-finite loss, or None."""
        self._stack()
        cursors = [network.cursor for network in self._networks]
        count = len(learning_rates[0])
        batches = self._batches.take(cursors, count)
        # One shared batch if all networks are at the same position of their data.
        wanted = cursors[:1] if len(batches) == 1 else cursors
        done = [cursor.iteration for cursor in cursors]
        losses = []
        # For deterministic kernels, as in the trainer; a stacked network draws no random numbers.
        with self._networks[0].randomness.active():
            for update, coefficients in enumerate(self._coefficients(learning_rates, done)):
                images, labels = zip(*(batches[cursor][update] for cursor in wanted), strict=True)
                losses.append(self._update(coefficients, images, labels))
        for network in self._networks:
            network.cursor = network.cursor.moved(count)
        finite = torch.isfinite(torch.stack(losses)).cpu()
        firsts = finite.int().argmin(0).tolist()
        healthy = finite.all(0).tolist()
        return [None if ok else first + 1 for ok, first in zip(healthy, firsts, strict=True)]

    def evaluate(self, indices: Sequence[int]) -> list[dict[str, float | None]]:
        """Measure each of these networks with the trainer's evaluator."""
        found = []
        for index in indices:
            self._ordinary.load_state_dict(self.weights(index))
            with self._networks[index].randomness.active():
                found.append(self._trainer.evaluator(self._ordinary))
        return found

    def weights(self, index: int) -> dict[str, Tensor]:
        """A copy of a network's weights and statistics."""
        tensors = self._networks[index].tensors
        return {name: tensors[name].clone() for name in self._ordinary.state_dict()}

    def state_dict(self, index: int) -> dict[str, Any]:
        """A copy of a network's whole state, in the format of the stream executor."""
        network = self._networks[index]
        loop = {
            "iteration": network.cursor.iteration,
            "diverged": False,
            "model": self.weights(index),
            "optimizer": self._optimizer.state_dict(network.states, network.cursor.iteration),
            "batches": self._batches.state_dict(network.cursor),
        }
        randomness = network.randomness.state_dict()
        return {"seed": network.cursor.seed, "loop": loop, "randomness": randomness}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Add a network from what `state_dict` returned, here or in the stream executor."""
        self.add(state["seed"])
        network, loop = self._networks[-1], state["loop"]
        for name, value in loop["model"].items():
            network.tensors[name].copy_(value)
        network.states = self._optimizer.restored(network.tensors, loop["optimizer"])
        network.cursor = self._batches.restore(loop["batches"])
        network.randomness.load_state_dict(state["randomness"])

    def _stack(self) -> None:
        """Stack all networks again if there are other ones than before."""
        if self._networks == self._stacked:
            return
        networks = self._networks
        first = networks[0]
        tensors = {name: stack([each.tensors[name] for each in networks]) for name in first.tensors}
        self._states = {
            name: {key: stack([each.states[name][key] for each in networks]) for key in kept}
            for name, kept in first.states.items()
        }
        for index, network in enumerate(networks):
            network.tensors = {name: value[index] for name, value in tensors.items()}
            network.states = {
                name: {key: value[index] for key, value in kept.items()}
                for name, kept in self._states.items()
            }
        # New parameters: old ones with swapped data would keep gradients of the old size.
        self._parameters = load_members(self._stacked_network, self._ordinary, tensors)
        self._stacked = list(networks)

    def _update(
        self, coefficients: Tensor, images: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Tensor:
        """Make one update of all networks.

        Args:
            coefficients: of the update, as in `StackedOptimizer.step`.
            images: those of one shared batch, or of K batches.
            labels: as many.

        Returns:
            The losses (K,) before the update.
        """
        trainer = self._trainer
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.amp):
            logits = self._stacked_network.logits(images)
        losses = losses_of(logits, labels)
        losses.sum().backward()
        self._optimizer.step(self._parameters, self._states, coefficients)
        for parameter in self._parameters.values():
            parameter.grad = None
        return losses.detach()

    def _coefficients(
        self, learning_rates: Sequence[Sequence[float]], done: Sequence[int]
    ) -> Tensor:
        exact = torch.from_numpy(self._optimizer.coefficients(learning_rates, done))
        like = next(iter(self._parameters.values()))
        return exact.to(like.dtype).to(like.device)
