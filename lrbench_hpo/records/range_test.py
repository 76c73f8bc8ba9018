"""An LR range test as a record: the losses over rising LRs, and the reference LR read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np

from lrbench_hpo import checks
from lrbench_hpo.errors import RecordError
from lrbench_hpo.records.run import utc_timestamp

METHODS = ("smith", "coarse", "external")
MAX_SPREAD = 1e6  # beyond this a reference LR says nothing at all
MAX_NOTES = 20

Losses = tuple[float | None, ...]


@dataclass(frozen=True)
class RangeTest:
    """An estimate of a task's best constant LR, from short runs at rising LRs (Smith 2015).

    Args:
        reference_lr: the estimate (eta_ref), an absolute LR.
        spread: a factor of at least 1: the best constant LR is known to within times or divided
            by it, two times out of three.
        low: where the usable interval begins: below it nothing is learnt in this budget.
        high: where it ends: above it training becomes unstable.
        iterations: updates that the test has cost.
        lrs: the LRs of each run, in order.
        losses: the batch losses of each run, before the update at that LR; validation losses for
            ``coarse``; None where the loss was NaN or infinite.
        seeds: of each run; empty if unknown.
        method: ``smith`` (a ladder of LRs), ``coarse`` (a training for each LR) or ``external``
            (another tool's ladder).
        max_iterations: the budget that the LR is meant for, in iterations.
        created_at: UTC time, now by default.
        notes: what did not go as it should, in words.

    Raises:
        RecordError: for a value of the wrong type or out of its range.

    >>> found = RangeTest(0.05, 1.8, 0.004, 0.4, iterations=120)
    >>> print(found)
    reference LR 0.05 (known to within a factor of 1.8), usable from 0.004 to 0.4; 120 iterations
    >>> RangeTest.from_dict(found.to_dict()) == found
    True
    """

    reference_lr: float
    spread: float
    low: float
    high: float
    iterations: int
    lrs: tuple[tuple[float, ...], ...] = ()
    losses: tuple[Losses, ...] = ()
    seeds: tuple[int, ...] = ()
    method: str = "smith"
    max_iterations: int | None = None
    created_at: str = field(default_factory=lambda: utc_timestamp(datetime.now(UTC)))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        budget = self.max_iterations
        values = {
            "reference_lr": checks.learning_rate("range_test.reference_lr", self.reference_lr),
            "spread": checks.finite("range_test.spread", self.spread),
            "low": checks.learning_rate("range_test.low", self.low),
            "high": checks.learning_rate("range_test.high", self.high),
            "iterations": checks.whole("range_test.iterations", self.iterations, least=0),
            "lrs": tuple(_lrs(run) for run in _list("lrs", self.lrs, MAX_RUNS)),
            "losses": tuple(_losses(run) for run in _list("losses", self.losses, MAX_RUNS)),
            "seeds": tuple(
                checks.whole("range_test.seeds", seed, 0)
                for seed in _list("seeds", self.seeds, MAX_RUNS)
            ),
            "method": checks.choice("range_test.method", self.method, METHODS),
            "max_iterations": (
                None if budget is None else checks.whole("range_test.max_iterations", budget)
            ),
            "created_at": utc_timestamp(self.created_at),
            "notes": tuple(
                checks.text("range_test.notes", note)
                for note in _list("notes", self.notes, MAX_NOTES)
            ),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_together(self) -> None:
        if not 1 <= self.spread <= MAX_SPREAD:
            rule = f"expected a factor from 1 to {MAX_SPREAD:g}"
            checks.refuse("range_test.spread", self.spread, rule)
        if not self.low < self.reference_lr <= self.high:
            rule = f"expected low={self.low:g} < reference_lr <= high={self.high:g}"
            checks.refuse("range_test.reference_lr", self.reference_lr, rule)
        lengths = [[len(run) for run in runs] for runs in (self.lrs, self.losses)]
        if lengths[0] != lengths[1]:
            raise RecordError(
                f"range_test: {lengths[0]} LRs but {lengths[1]} losses: expected a loss for each LR"
            )
        if self.seeds and len(self.seeds) != len(self.lrs):
            rule = f"expected a seed for each of the {len(self.lrs)} runs"
            checks.refuse("range_test.seeds", list(self.seeds), rule)

    def __str__(self) -> str:
        text = (
            f"reference LR {self.reference_lr:.3g} (known to within a factor of {self.spread:.2g}),"
            f" usable from {self.low:.2g} to {self.high:.2g}; {self.iterations:,} iterations"
        )
        return f"{text}; {'; '.join(self.notes)}" if self.notes else text

    def at_budget(self, max_iterations: int) -> float:
        """The reference LR for another budget: the longer the training, the lower.

        Args:
            max_iterations: the budget, in iterations.

        >>> round(RangeTest(0.1, 2, 0.01, 1, 50, max_iterations=100).at_budget(1_000), 3)
        0.035
        """
        if self.max_iterations is None:
            return self.reference_lr
        decades = budget_decades(max_iterations) - budget_decades(self.max_iterations)
        return self.reference_lr * float(10**decades)

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return {entry.name: checks.json_types(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; null is the same as absent.

        Raises:
            RecordError: for an unknown key or a bad value.
        """
        required = ("reference_lr", "spread", "low", "high", "iterations")
        return cls(**checks.known_fields("range_test", data, cls, required))


# The longer the training, the lower its best constant LR: decades for each tenfold.
_BUDGET, USUAL_BUDGET, _BUDGETS = -0.45, 316, (50, 10_000)


def budget_decades(max_iterations: int) -> float:
    """By how many decades a budget moves the best constant LR, as measured."""
    return _BUDGET * math.log10(np.clip(max_iterations, *_BUDGETS) / USUAL_BUDGET)


def _list(name: str, value: object, most: int) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > most:
        checks.refuse(f"range_test.{name}", value, f"expected a list of at most {most}")
    return value


def _lrs(run: object) -> tuple[float, ...]:
    values = _list("lrs", run, MAX_POINTS)
    return tuple(checks.rounded(checks.learning_rate("range_test.lrs", value)) for value in values)


def _losses(run: object) -> Losses:
    known = []
    for value in _list("losses", run, MAX_POINTS):
        number = None if value is None else checks.number("range_test.losses", value)
        known.append(None if number is None else checks.rounded(number))
    return tuple(known)


MAX_RUNS, MAX_POINTS = 100, 10_000
