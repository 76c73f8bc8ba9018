"""The training loop: one update after the other, at given LRs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor, nn

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.cuda_graphs import GraphedStep
from lrbench_hpo.training.optimizers import Optimizer, set_learning_rate, use_tensor_learning_rates

# Asking a GPU for a loss makes it wait, so whether it is still finite is asked now and then.
CHECK_EVERY = 25


class BatchSource(Protocol):
    """Where training batches come from."""

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: images (n, C, H, W), float32, and labels (n,)."""

    def state_dict(self) -> dict[str, Any]:
        """Where the source is."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class TrainingLoop:
    """One run under way: its network, optimizer and data.

    Args:
        model: the network, on its device.
        optimizer: its optimizer.
        batches: its data.
        amp: compute the logits under bfloat16 autocast.
        cuda_graphs: on CUDA, record an update once and replay it.

    Attributes:
        model: the network, on its device.
        batches: its data.
        iteration: updates done so far; where the loss was no longer finite, when it diverged.
        diverged: whether a loss was NaN or infinite; then no update follows.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: BatchSource,
        *,
        amp: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        self.model = model
        self.batches = batches
        self.iteration = 0
        self.diverged = False
        self._optimizer = optimizer
        self._device = next(model.parameters()).device
        self._amp = amp
        self._cuda_graphs = cuda_graphs
        self._begin()

    def advance(
        self, policy: LRPolicy, until: int, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        """Train up to this iteration; False, at once, when the loss is no longer finite.

        Args:
            policy: the LR of every iteration.
            until: how many updates there are to be in all.
            on_progress: called every few updates with their number so far.
        """
        while self.iteration < until and not self.diverged:
            pause = min(until, self.iteration + CHECK_EVERY)
            # One call for the LRs of all updates until the next check.
            self.follow(policy(np.arange(self.iteration, pause)).tolist())
            if on_progress is not None:
                on_progress(self.iteration)
        return not self.diverged

    def follow(self, learning_rates: Sequence[float]) -> bool:
        """One update at each of these LRs; whether all losses were finite.

        Args:
            learning_rates: a few LRs, at least 0.
        """
        before = self.iteration
        losses = torch.stack([self.update(learning_rate) for learning_rate in learning_rates])
        finite = torch.isfinite(losses)
        if not finite.all():
            self.diverged = True
            # The same, however many updates there are between two checks.
            self.iteration = before + int(finite.int().argmin()) + 1
        return not self.diverged

    def state_dict(self) -> dict[str, Any]:
        """A copy of network, optimizer, position and data order, in tensors and JSON types."""
        return {
            "iteration": self.iteration,
            "diverged": self.diverged,
            "model": {k: v.detach().clone() for k, v in self.model.state_dict().items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "batches": self.batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; it is copied."""
        self.model.load_state_dict(state["model"])
        # The optimizer would otherwise go on with the given tensors themselves.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.batches.load_state_dict(state["batches"])
        self._begin()  # the optimizer holds other tensors now
        self.iteration, self.diverged = state["iteration"], state["diverged"]

    def update(self, learning_rate: float) -> Tensor:
        """One update at this LR; the batch's loss before it.

        Args:
            learning_rate: the LR, at least 0.
        """
        images, labels = self.batches.next()
        set_learning_rate(self._optimizer, learning_rate)
        self.iteration += 1
        return self._step(images, labels)

    def _begin(self) -> None:
        """Have a step ready for the tensors that network and optimizer hold now."""
        self._step: Callable[..., Tensor] = self._compute
        if self._cuda_graphs:
            use_tensor_learning_rates(self._optimizer, self._device)
            self._step = GraphedStep(self._compute, self._tensors)

    def _compute(self, images: Tensor, labels: Tensor) -> Tensor:
        """An update at the optimizer's LRs; the loss before it."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            logits = self.model(images)
        # Half-precision logits are not exact enough for a loss; float64 ones stay as they are.
        exact = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(exact, labels)
        loss.backward()
        self._optimizer.step()
        # Here and not before the next: a CUDA graph then needs no memory for them outside.
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _tensors(self) -> list[Tensor]:
        """All that an update changes."""
        kept = [value for state in self._optimizer.state.values() for value in state.values()]
        return [
            *self.model.parameters(),
            *self.model.buffers(),
            *(value for value in kept if isinstance(value, Tensor)),
        ]
