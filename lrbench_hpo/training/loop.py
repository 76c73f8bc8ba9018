"""The training loop: one update after the other, at the LRs of a policy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor, nn

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.batches import Batches
from lrbench_hpo.training.optimizers import Optimizer, set_learning_rate

# Asking a GPU for a loss makes it wait, so whether it is still finite is asked now and then.
_CHECK_EVERY = 25


class TrainingLoop:
    """One run under way: its network, optimizer, data stream and LR policy.

    Attributes:
        model: the network, on its device.
        iteration: updates done so far.
        diverged: whether a loss was NaN or infinite; then no update follows.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Batches,
        policy: LRPolicy,
        *,
        amp: bool = False,
    ) -> None:
        self.model = model
        self.iteration = 0
        self.diverged = False
        self._optimizer = optimizer
        self._batches = batches
        self._policy = policy
        self._device = next(model.parameters()).device
        self._amp = amp
        self._loss_sum = torch.zeros((), device=self._device)

    def advance(self, until: int, on_progress: Callable[[int], None] | None = None) -> bool:
        """Train up to this iteration; False, at once, when the loss is no longer finite.

        Args:
            until: how many updates there are to be in all.
            on_progress: called every few updates with their number so far.
        """
        while self.iteration < until and not self.diverged:
            pause = min(until, self.iteration + _CHECK_EVERY)
            # One call for the LRs of all updates until the next check.
            for learning_rate in self._policy(np.arange(self.iteration, pause)).tolist():
                self.update(learning_rate)
            # A sum that met NaN or infinity once never becomes finite again.
            self.diverged = not math.isfinite(self._loss_sum.item())
            if on_progress is not None:
                on_progress(self.iteration)
        return not self.diverged

    def state_dict(self) -> dict[str, Any]:
        """A copy of network, optimizer, position and data order, in tensors and JSON types."""
        return {
            "iteration": self.iteration,
            "diverged": self.diverged,
            "loss_sum": self._loss_sum.clone(),
            "model": {k: v.detach().clone() for k, v in self.model.state_dict().items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "batches": self._batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; it is copied."""
        self.model.load_state_dict(state["model"])
        # The optimizer would otherwise go on with the given tensors themselves.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._batches.load_state_dict(state["batches"])
        self._loss_sum = state["loss_sum"].clone().to(self._device)
        self.iteration, self.diverged = state["iteration"], state["diverged"]

    def update(self, learning_rate: float) -> Tensor:
        """One update at this LR, whatever the policy says; the batch's loss before it.

        Args:
            learning_rate: the LR, at least 0.
        """
        images, labels = self._batches.next()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self.iteration += 1
        self._loss_sum += loss.detach()
        return loss.detach()
