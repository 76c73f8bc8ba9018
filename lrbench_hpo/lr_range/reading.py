"""Reading an LR range test: the reference LR, its error, and the usable interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

import numpy as np

from lrbench_hpo.lr_range.ladder import Basin, first_basin, smoothed
from lrbench_hpo.lr_range.lists import runs_of
from lrbench_hpo.records.range_test import (
    USUAL_BUDGET,
    RangeTest,
    budget_decades,
)

# log10 of the ratio of the best constant LR to the LR at the smoothed minimum, in decades, for a
# budget of 316 iterations. Measured on 28 tasks (digits, MNIST, CIFAR-10 (JPEG); MLP, CNNs with and
# without BatchNorm, LeNet; budgets of 100 to 1,500 iterations): FIX at 15 LRs x 2 seeds each,
# against ladders of 50 to 200 steps.
#
# Leaving a task out, the estimate is 0.26 decades off (root mean square; median 0.20). Also tried:
# without regard to the budget 0.30; one factor for all optimizers 0.32. The steepest point and half
# of the fall add nothing to the minimum. Within an optimizer, the minimum and the LR at which the
# loss explodes both predict the best constant LR to 0.2 or 0.3, the onset to 0.3 to 0.8.
CALIBRATION: Mapping[str, float] = {"adam": -0.66, "momentum": -0.54, "plain": -0.10}
# All of the following in decades, unless they say otherwise.
_UNKNOWN_OPTIMIZER = (-0.45, 0.2)  # of all three together, and the error of not knowing which
_RESIDUAL = 0.25  # error of the calibrated estimate
# A fast ladder passes its minimum before the loss shows it: decades for each tenfold of the pace
# (steps in a decade) around the usual one, within limits.
_PACE, _USUAL_PACE, _PACE_LIMITS = 0.25, 10.0, (4.0, 40.0)
_RESIDUAL_OF_FAST = 0.2  # additional error for each tenfold below this pace:
_SLOW_ENOUGH = 16.0  # steps in a decade
_TO_MINIMUM, _NO_MINIMUM = -0.28, 0.3  # from the explosion to the minimum, and the error of that
_ONE_RUN = 0.15  # deviation between runs, where there is only one
BLIND = 1.0  # deviation where a ladder shows no minimum
_NOTES = {
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
    """Read the losses of an LR range test of another tool, one run or several.

    The loss is smoothed over log LR. The reference LR is the LR at its first minimum, times
    factors for the optimizer (c, `CALIBRATION`), the budget T and the pace n (steps in a decade):

        eta_ref = 10^c * (T / 316)^-0.45 * (n / 10)^0.25 * argmin_eta smooth(loss)(log eta).

    The usable interval begins where a tenth of the fall is done, and ends where a quarter of it is
    lost again.

    Args:
        lrs: rising LRs: a list, a list of lists (a run each), or a mapping with ``lr`` and
            ``loss``, as torch-lr-finder's ``history`` and Lightning's ``lr_find().results`` are.
        losses: as many losses; fastai has ``recorder.lrs`` and ``recorder.losses``.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``; None if unknown.
        momentum: SGD's momentum; 0.9 when None.
        max_iterations: the budget that the LR is meant for, in iterations.

    Raises:
        RecordError: if LRs do not rise from above 0, or there are too few points or no finite loss.

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
    """The row of `CALIBRATION` for an optimizer; None for any other.

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
    """`read_range_test` for checked runs, with further fields of the result.

    Args:
        lrs: LRs of each run.
        losses: losses of each run.
        kind: a row of `CALIBRATION`, or None.
        facts: further fields of `RangeTest`.
    """
    # log10 eta_ref = minimum + c(optimizer) - 0.45 log10(budget / 316) + 0.25 log10(pace / 10).
    #
    # The errors are added as independent ones: that of a ladder without a clear minimum, that of
    # the calibration (more for a fast ladder), that of an unknown optimizer, and the standard error
    # of the mean of the runs.
    basin = first_basin(smoothed(lrs, losses))
    decades = [math.log10(run[-1] / run[0]) for run in lrs]
    pace = sum(len(run) - 1 for run in lrs) / max(sum(decades), 1e-9)
    centre, error, low, high, notes = _read(basin)
    if basin.falls or basin.explodes:
        factor, unknown = (CALIBRATION[kind], 0.0) if kind else _UNKNOWN_OPTIMIZER
        steps = np.clip(pace, *_PACE_LIMITS) / _USUAL_PACE
        budget = budget_decades(facts.get("max_iterations") or USUAL_BUDGET)
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


def _read(basin: Basin) -> tuple[float, float, float, float, list[str]]:
    """log10 of the LR at the minimum, its error, the usable interval (log10), and notes."""
    first, last = basin.ends
    if basin.falls:
        error, notes = (BLIND / 2, [_NOTES[basin.hidden]]) if basin.hidden else (0.0, [])
        return basin.minimum, error, basin.onset, basin.lost, notes
    if basin.explodes:
        note = "the loss never fell before it exploded: read from where it exploded"
        error = BLIND if basin.hidden else _NO_MINIMUM
        return basin.lost + _TO_MINIMUM, error, basin.lost - 2 * BLIND, basin.lost, [note]
    note = "the loss neither fell nor exploded: all of these LRs look alike"
    return (first + last) / 2, max(BLIND, (last - first) / 2), first, last, [note]
