"""What the steps count at which an Optuna trial reported its intermediate values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.exchange.translation import Translation
from lrbench_hpo.records.run import CurvePoint

STEP = "step"  # what a mapping calls them
_REACHED = 0.5  # of the budget: a complete trial whose last step is below does not count iterations
_IN_CURVES = ("top1", "train_loss", "eval_loss")


class Steps:
    """The steps of a study's trials: iterations, epochs, or unknown.

    Args:
        trials: all of them.
        translation: how names and units are meant.
    """

    def __init__(self, trials: Sequence[FrozenTrial], translation: Translation) -> None:
        self._translation = translation
        self._mapped = translation.mapping.get(STEP)
        self._known = self._mapped is not None or translation.iterations_per_epoch is not None
        self._any_reached = self._known or any(self._reached(trial) for trial in trials)
        self._without = 0
        self._example = ""

    @property
    def complaint(self) -> str | None:
        """A line about the trials without a curve so far; None if there are none."""
        if not self._without:
            return None
        return (
            f"{self._without:,} trials are stored without their curve: their steps end at "
            f"{self._example}, as epochs do: give --iterations-per-epoch, or --map step=iteration"
        )

    def are_iterations(self, trial: FrozenTrial, budget: int) -> bool:
        """Whether a trial's steps can be expressed in iterations; if not, it is counted."""
        steps = trial.intermediate_values
        if self._known or not steps or self._translation.metric not in _IN_CURVES:
            return True
        complete = trial.state == TrialState.COMPLETE
        if max(steps) >= _REACHED * budget or (self._any_reached and not complete):
            return True
        self._without += 1
        self._example = self._example or f"{max(steps):,} of {budget:,} iterations"
        return False

    def curve(self, trial: FrozenTrial) -> tuple[CurvePoint, ...]:
        """The curve of intermediate values; epochs that count from 0 are measured at their end.

        Raises:
            RecordError: for epochs of unknown length, or an invalid value.
        """
        translation = self._translation
        if translation.metric not in _IN_CURVES:
            return ()
        steps = sorted(trial.intermediate_values)
        first = 1 if steps and steps[0] == 0 else 0
        in_epochs = self._mapped == "epoch" or (
            self._mapped is None and translation.iterations_per_epoch is not None
        )
        points = {}
        for step in steps:
            at = round(translation.in_iterations(step + first)) if in_epochs else step
            value = translation.measure(translation.metric, trial.intermediate_values[step])
            points[at] = CurvePoint(at, **{translation.metric: value})
        return tuple(points.values())

    def _reached(self, trial: FrozenTrial) -> bool:
        """Whether a complete trial's last step is near its budget."""
        steps = trial.intermediate_values
        if trial.state != TrialState.COMPLETE or not steps:
            return False
        try:
            budget = self._translation.budget(self._translation.named(theirs_of(trial)))
        except LRBenchError:  # reported when the trial itself is read
            return False
        return max(steps) >= _REACHED * budget


def theirs_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's user attributes, parameters and values, by the names that may be mapped."""
    values = trial.values or []
    named = {f"value{index}": value for index, value in enumerate(values)}
    alone = {"value": values[0]} if len(values) == 1 else {}
    return {**trial.user_attrs, **trial.params, **named, **alone}
