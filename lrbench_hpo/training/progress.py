"""The results of a run so far: its curve, its best evaluation and the weights there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from lrbench_hpo.records.reports import METRICS
from lrbench_hpo.records.run import CurvePoint, Run, utc_timestamp

Weights = Mapping[str, Tensor]


@torch.no_grad()
def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights and statistics."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Progress:
    """Collects the evaluations of one run.

    Args:
        record: the run's record before it begins.
        points: iterations after which the run is evaluated, in order; the last is the budget.

    Attributes:
        record: as given.
        points: as given.
        curve: every evaluation; the last has no losses if the run diverged there.
        state: weights at the first evaluation with the highest Top-1 so far.
    """

    def __init__(self, record: Run, points: Sequence[int]) -> None:
        self.record = record
        self.points = tuple(points)
        self.curve: list[CurvePoint] = []
        self.state: Weights = {}
        self._best: dict[str, float | None] = {}
        self._last_top1: float | None = None  # exact; values of a curve are rounded

    @property
    def status(self) -> str:
        """``complete`` or ``diverged`` when finished, before that ``pruned``."""
        if self.curve and self.curve[-1].eval_loss is None:
            return "diverged"
        done = bool(self.curve) and self.curve[-1].iteration == self.points[-1]
        return "complete" if done else "pruned"

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or the run diverged."""
        return self.status != "pruned"

    def next_point(self, iteration: int) -> int:
        """The iteration of the next evaluation."""
        return next(point for point in self.points if point > iteration)

    def add(
        self,
        iteration: int,
        measured: Mapping[str, float | None],
        weights: Callable[[], Weights],
    ) -> CurvePoint:
        """Add an evaluation.

        Args:
            iteration: updates so far.
            measured: the evaluator's result; empty if the run diverged.
            weights: returns a copy of the network's weights.
        """
        point = CurvePoint(
            iteration,
            lr=self.record.policy(iteration - 1),  # of the last update
            train_loss=measured.get("train_loss"),
            eval_loss=measured.get("eval_loss"),
            top1=measured.get("top1"),
        )
        self.curve.append(point)
        best, self._last_top1 = self._best.get("top1"), measured.get("top1")
        if point.top1 is not None and (best is None or (self._last_top1 or 0.0) > best):
            self._best = {**measured, "iterations_to_best": iteration}
            self.state = weights()
        return point

    def run(self, cost: Mapping[str, float | None]) -> Run:
        """The record of the run so far.

        Args:
            cost: its cost so far, by name.
        """
        return dataclasses.replace(
            self.record,
            status=self.status,
            metrics=self.metrics(),
            curve=tuple(self.curve),
            cost=cost,
            created_at=utc_timestamp(datetime.now(UTC)),
        )

    def state_dict(self) -> dict[str, Any]:
        """All evaluations in JSON types, and the best weights."""
        return {
            "curve": [point.to_dict() for point in self.curve],
            "best": dict(self._best),
            "last_top1": self._last_top1,
            "state": dict(self.state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.curve = [CurvePoint.from_dict(point) for point in state["curve"]]
        self._best = dict(state["best"])
        self._last_top1 = state["last_top1"]
        self.state = {name: value.clone() for name, value in state["state"].items()}

    def metrics(self) -> dict[str, float | None]:
        """The metrics at the best evaluation, and Top-1 at the end of a complete run."""
        complete = self.status == "complete"
        return {
            **dict.fromkeys(METRICS),
            **self._best,
            "final_top1": self._last_top1 if complete else None,
        }
