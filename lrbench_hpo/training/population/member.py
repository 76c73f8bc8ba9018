"""One policy of a population: a run that has a network alone or shares it with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lrbench_hpo.errors import TrainingError
from lrbench_hpo.records.run import Run
from lrbench_hpo.training.cost import CostMeter
from lrbench_hpo.training.progress import Progress, Weights
from lrbench_hpo.training.session import identity


class Member:
    """A run in a `Population`, which makes it.

    Attributes:
        number: its position among all members added to the population, from 0.
        iteration: updates of its network so far.
        share: the updates it is charged for: 1/n of an update made for n members, and none of
            those made before it was added.
        progress: its evaluations.
        meter: its share of the cost.
    """

    def __init__(self, number: int, progress: Progress, device: torch.device) -> None:
        self.number = number
        self.iteration = 0
        self.share = 0.0
        self.progress = progress
        self.meter = CostMeter(device)

    @property
    def seed(self) -> int:
        """The seed of initial weights and data order."""
        return self.progress.record.seed or 0

    @property
    def finished(self) -> bool:
        """Whether its budget is used up, or it diverged."""
        return self.progress.finished

    @property
    def state(self) -> Weights:
        """Weights at its highest Top-1 so far; empty before the first evaluation."""
        return self.progress.state

    def run(self) -> Run:
        """The record: ``complete`` or ``diverged`` when finished, before that ``pruned``."""
        batch_size = self.progress.record.task.batch_size or 0
        return self.progress.run(self.meter.cost(round(self.share * batch_size)))

    def until_next(self) -> int:
        """Updates until its next evaluation."""
        return self.progress.next_point(self.iteration) - self.iteration

    def learning_rates(self, count: int) -> list[float]:
        """The LRs of its next updates."""
        policy = self.progress.record.policy
        rates: list[float] = policy(np.arange(self.iteration, self.iteration + count)).tolist()
        return rates

    def state_dict(self) -> dict[str, Any]:
        """A copy of the member's state, in tensors and JSON types."""
        return {
            "number": self.number,
            "iteration": self.iteration,
            "share": self.share,
            "identity": identity(self.progress.record),
            "progress": self.progress.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            TrainingError: for the state of another run.
        """
        here, there = identity(self.progress.record), state["identity"]
        for name, value in here.items():
            if there.get(name) != value:
                raise TrainingError(
                    f"the state is of a run with {name}={there.get(name)}, not {value}: give the "
                    "state of a population of this trainer"
                )
        self.iteration, self.share = state["iteration"], state["share"]
        self.progress.load_state_dict(state["progress"])
        self.meter.load_state_dict(state["meter"])
