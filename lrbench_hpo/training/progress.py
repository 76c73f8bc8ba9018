"""What is known of a run so far: its curve, its best evaluation and the weights there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import CurvePoint


class Progress:
    """Collects the evaluations of one run.

    Attributes:
        curve: every evaluation; one without losses is where the run diverged.
        state: weights at the highest Top-1 so far, the first time it was reached.
    """

    def __init__(self, policy: LRPolicy) -> None:
        self.curve: list[CurvePoint] = []
        self.state: Mapping[str, Tensor] = {}
        self._policy = policy
        self._best: dict[str, float | None] = {}
        self._last_top1: float | None = None  # exactly: a curve's values are rounded

    def add(
        self, iteration: int, measured: Mapping[str, float | None], model: nn.Module
    ) -> CurvePoint:
        """Note an evaluation after this many updates; nothing measured means it diverged."""
        point = CurvePoint(
            iteration,
            lr=self._policy(iteration - 1),  # of the last update
            train_loss=measured.get("train_loss"),
            eval_loss=measured.get("eval_loss"),
            top1=measured.get("top1"),
        )
        self.curve.append(point)
        best, self._last_top1 = self._best.get("top1"), measured.get("top1")
        if point.top1 is not None and (best is None or (self._last_top1 or 0.0) > best):
            self._best = {**measured, "iterations_to_best": iteration}
            self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        return point

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON types, and the weights."""
        return {
            "curve": [point.to_dict() for point in self.curve],
            "best": dict(self._best),
            "last_top1": self._last_top1,
            "state": dict(self.state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.curve = [CurvePoint.from_dict(point) for point in state["curve"]]
        self._best = dict(state["best"])
        self._last_top1 = state["last_top1"]
        self.state = {name: value.clone() for name, value in state["state"].items()}

    def metrics(self, *, complete: bool) -> dict[str, float | None]:
        """The metrics at the best evaluation, and Top-1 at the end of a complete run."""
        return {**_UNKNOWN, **self._best, "final_top1": self._last_top1 if complete else None}


_UNKNOWN: Mapping[str, float | None] = dict.fromkeys(
    (
        *("top1", "top5", "ac", "cd", "cdac", "classes_left_out"),
        *("eval_loss", "train_loss", "loss_difference", "iterations_to_best"),
    )
)
