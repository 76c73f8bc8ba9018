"""The training loop: one optimizer update after the other, each at a given LR."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.optimizers import Optimizer, set_learning_rate

# Updates between two checks that the loss is finite: reading a loss makes the CPU wait for a GPU.
CHECK_EVERY = 25


class BatchSource(Protocol):
    """Where training batches come from."""

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: images (n, C, H, W), float32, and labels (n,)."""

    def state_dict(self) -> dict[str, Any]:
        """The position in the data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position."""


class TrainingLoop:
    """The state of one training: network, optimizer and position in the data.

    Args:
        model: the network, on its device.
        optimizer: its optimizer.
        batches: its data.
        amp: compute the logits under bfloat16 autocast.

    Attributes:
        model: the network, on its device.
        batches: its data.
        iteration: updates so far; if it diverged, the first one with a non-finite loss.
        diverged: whether a loss was NaN or infinite; no update follows then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: BatchSource,
        *,
        amp: bool = False,
    ) -> None:
        self.model = model
        self.batches = batches
        self.iteration = 0
        self.diverged = False
        self._optimizer = optimizer
        self._device = next(model.parameters()).device
        self._amp = amp

    def advance(
        self, policy: LRPolicy, until: int, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        """Train up to an iteration.

        Args:
            policy: the LR of every iteration.
            until: the iteration to stop at, counted from the start of the run.
            on_progress: called every few updates with the number of updates so far.

        Returns:
            False as soon as a loss is not finite, else True.
        """
        while self.iteration < until and not self.diverged:
            pause = min(until, self.iteration + CHECK_EVERY)
            # One call for the LRs of all updates until the next check.
            self.follow(policy(np.arange(self.iteration, pause)).tolist())
            if on_progress is not None:
                on_progress(self.iteration)
        return not self.diverged

    def follow(self, learning_rates: Sequence[float]) -> bool:
        """Make one update at each of a few LRs.

        Args:
            learning_rates: the LRs, at least 0.

        Returns:
            Whether all losses were finite.
        """
        before = self.iteration
        losses = torch.stack([self.update(learning_rate) for learning_rate in learning_rates])
        finite = torch.isfinite(losses)
        if not finite.all():
            self.diverged = True
            # The first bad update, so that the result does not depend on `CHECK_EVERY`.
            self.iteration = before + int(finite.int().argmin()) + 1
        return not self.diverged

    def state_dict(self) -> dict[str, Any]:
        """A copy of network, optimizer and position in the data, in tensors and JSON types."""
        return {
            "iteration": self.iteration,
            "diverged": self.diverged,
            "model": {k: v.detach().clone() for k, v in self.model.state_dict().items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "batches": self.batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a copy of what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        # The optimizer would otherwise change the given tensors themselves.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.batches.load_state_dict(state["batches"])
        self.iteration, self.diverged = state["iteration"], state["diverged"]

    def update(self, learning_rate: float) -> Tensor:
        """Make one update.

        Args:
            learning_rate: the LR, at least 0.

        Returns:
            The batch's mean loss before the update.
        """
        images, labels = self.batches.next()
        set_learning_rate(self._optimizer, learning_rate)
        self.iteration += 1
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            logits = self.model(images)
        # A loss of half-precision logits is not exact enough; float64 logits stay as they are.
        exact = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(exact, labels)
        loss.backward()
        self._optimizer.step()
        # Freed at once: networks that are trained in turn hold one set of gradients at a time.
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()
