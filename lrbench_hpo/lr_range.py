"""What an LR range test found: a reference LR, how well it is known, and the usable interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from statistics import stdev
from typing import Any, Self

import numpy as np

from lrbench_hpo import checks
from lrbench_hpo.errors import RecordError
from lrbench_hpo.loss_ladder import Basin, first_basin, smoothed
from lrbench_hpo.loss_lists import MAX_POINTS, MAX_RUNS, runs_of
from lrbench_hpo.records import utc_timestamp

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
        seeds: of each run; empty if nobody knows.
        method: ``smith`` (a ladder of LRs), ``coarse`` (a training for each LR) or ``external``
            (somebody else's ladder).
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
        decades = _budget_decades(max_iterations) - _budget_decades(self.max_iterations)
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


# The best constant LR over the LR at the smoothed minimum, in decades, for a budget of 316
# iterations. Measured on 28 tasks (digits, MNIST, CIFAR-10 (JPEG); MLP, CNNs with and without
# BatchNorm, LeNet; budgets of 100 to 1,500 iterations): FIX at 15 LRs x 2 seeds each, against
# ladders of 50 to 200 steps. Leaving a task out, the estimate is 0.26 decades off (root mean
# square; median 0.20); 0.30 without regard to the budget, 0.32 with one factor for all optimizers.
# The steepest point and half of the fall add nothing to the minimum. Within an optimizer, the
# minimum and the LR at which the loss explodes both tell the best constant LR to 0.2 or 0.3, the
# onset of the fall to 0.3 to 0.8.
CALIBRATION: Mapping[str, float] = {"adam": -0.66, "momentum": -0.54, "plain": -0.10}
_UNKNOWN_OPTIMIZER = (-0.45, 0.2)  # of all three together: their mean, and the error of not knowing
_RESIDUAL = 0.25  # decades
# The longer the training, the lower its best constant LR: decades for each tenfold.
_BUDGET, _USUAL_BUDGET, _BUDGETS = -0.45, 316, (50, 10_000)
# A fast ladder meets its minimum late: decades for each tenfold of steps in a decade, around 10.
_PACE, _USUAL_PACE, _PACES = 0.25, 10.0, (4.0, 40.0)
_RESIDUAL_OF_FAST = 0.2  # more error for each tenfold fewer steps in a decade than this:
_SLOW_ENOUGH = 16.0
_TO_MINIMUM, _NO_MINIMUM = -0.28, 0.3  # from where it explodes; and the error of saying so
_ONE_RUN = 0.15  # deviation between runs of which there is only one, decades
BLIND = 1.0  # deviation where a ladder shows no minimum, decades
_ODD = {
    "up": "the loss fell to the very end: a higher LR may do better",
    "down": "the loss rose from the start: a lower LR may do better",
}


def read_range_test(
    lrs: Any,
    losses: Any = None,
    *,
    optimizer: str | None = None,
    momentum: float | None = None,
    max_iterations: int | None = None,
) -> RangeTest:
    """Read the losses of somebody's LR range test, one run or several.

    The loss is smoothed over log LR; the reference LR is that of its first minimum times what was
    measured for the optimizer (`CALIBRATION`),

        eta_ref = 10^c * argmin_eta smooth(loss)(log eta),

    the interval goes from where a tenth of the fall was done to where a quarter was lost again.

    Args:
        lrs: rising LRs: a list, a list of lists (a run each), or a mapping with ``lr`` and
            ``loss``, as torch-lr-finder's ``history`` and Lightning's ``lr_find().results`` are.
        losses: as many losses; fastai has ``recorder.lrs`` and ``recorder.losses``.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``; None if not known.
        momentum: SGD's momentum; 0.9 when None.
        max_iterations: the budget that it is meant for, in iterations.

    Raises:
        RecordError: for LRs that do not rise from above 0, too few points, or no finite loss.

    The test is that of Smith 2015, "Cyclical Learning Rates for Training Neural Networks", arXiv
    1506.01186; how it is read is measured here.

    >>> lr = [10 ** (i / 10 - 4) for i in range(51)]
    >>> loss = [2.3 - 1.5 * (x > 1e-3) + (x > 0.3) * 4 for x in lr]
    >>> found = read_range_test(lr, loss, optimizer="adam")
    >>> found.low < found.reference_lr < found.high < 1
    True
    """
    ladders, measured = runs_of(lrs, losses)
    return read_ladders(
        ladders,
        measured,
        kind=optimizer_kind(optimizer, momentum),
        method="external",
        max_iterations=max_iterations,
    )


def optimizer_kind(optimizer: str | None, momentum: float | None) -> str | None:
    """The row of `CALIBRATION` of an optimizer; None for one that it does not know.

    >>> optimizer_kind("SGD", 0.0), optimizer_kind("nesterov", None), optimizer_kind("adamw", 0.9)
    ('plain', 'momentum', 'adam')
    """
    name = (optimizer or "").lower()
    if name in ("adam", "adamw"):
        return "adam"
    if name in ("sgd", "nesterov"):
        return "plain" if momentum == 0 else "momentum"
    return None


def read_ladders(
    lrs: Sequence[Sequence[float]],
    losses: Sequence[Sequence[float | None]],
    *,
    kind: str | None,
    **facts: Any,
) -> RangeTest:
    """`read_range_test` for checked runs, with whatever else is known of the test.

    Args:
        lrs: of each run.
        losses: likewise.
        kind: a row of `CALIBRATION`, or None.
        facts: further fields of `RangeTest`.
    """
    basin = first_basin(smoothed(lrs, losses))
    decades = [math.log10(run[-1] / run[0]) for run in lrs]
    pace = sum(len(run) - 1 for run in lrs) / max(sum(decades), 1e-9)
    centre, error, low, high, notes = _read(basin)
    if basin.falls or basin.explodes:
        factor, unknown = (CALIBRATION[kind], 0.0) if kind else _UNKNOWN_OPTIMIZER
        steps = np.clip(pace, *_PACES) / _USUAL_PACE
        budget = _budget_decades(facts.get("max_iterations") or _USUAL_BUDGET)
        centre += factor + budget + _PACE * math.log10(steps)
        fast = _RESIDUAL_OF_FAST * max(0.0, math.log10(_SLOW_ENOUGH / pace))
        runs = len(basin.minima)
        between = stdev(basin.minima) if runs > 1 else _ONE_RUN
        error = math.hypot(error, _RESIDUAL + fast, unknown, between / math.sqrt(runs))
    facts.setdefault("iterations", sum(len(run) for run in lrs))
    return RangeTest(
        reference_lr=10**centre,
        spread=10**error,
        low=10 ** min(low, centre - 0.3),
        high=10 ** max(high, centre),
        lrs=tuple(tuple(run) for run in lrs),
        losses=tuple(tuple(run) for run in losses),
        notes=(*notes, *facts.pop("notes", ())),
        **facts,
    )


def _budget_decades(max_iterations: int) -> float:
    return _BUDGET * math.log10(np.clip(max_iterations, *_BUDGETS) / _USUAL_BUDGET)


def _read(basin: Basin) -> tuple[float, float, float, float, list[str]]:
    """Position, its error, interval (log10 LR) and what is odd about a ladder."""
    first, last = basin.ends
    if basin.falls:
        error, notes = (BLIND / 2, [_ODD[basin.hidden]]) if basin.hidden else (0.0, [])
        return basin.minimum, error, basin.onset, basin.lost, notes
    if basin.explodes:
        note = "the loss never fell before it exploded: read from where it exploded"
        error = BLIND if basin.hidden else _NO_MINIMUM
        return basin.lost + _TO_MINIMUM, error, basin.lost - 2 * BLIND, basin.lost, [note]
    note = "the loss neither fell nor exploded: all of these LRs look alike"
    return (first + last) / 2, max(BLIND, (last - first) / 2), first, last, [note]


def _list(name: str, value: object, most: int) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > most:
        checks.refuse(f"range_test.{name}", value, f"expected a list of at most {most}")
    return value


def _lrs(run: object) -> tuple[float, ...]:
    values = _list("lrs", run, MAX_POINTS)
    return tuple(_rounded(checks.learning_rate("range_test.lrs", value)) for value in values)


def _losses(run: object) -> Losses:
    known = []
    for value in _list("losses", run, MAX_POINTS):
        number = None if value is None else checks.number("range_test.losses", value)
        known.append(None if number is None else _rounded(number))
    return tuple(known)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
