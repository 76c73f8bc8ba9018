"""The shape of a loss measured at rising LRs: smoothed over log LR, and its first basin.

`reading` derives the reference LR from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Decades: the deviation of the Gaussian weights of a smoothed value. Measured as in
# `reading.CALIBRATION`: 0.3 errs by 0.26 decades, 0.2 by 0.28, 0.15 by 0.29; and one run alone of
# 50 steps, within SGD with momentum, by 0.21, 0.49 and 0.49.
BANDWIDTH = 0.3
_COLUMNS = 60  # points of the smoothed curve in a decade
# Shares of the level, the loss before training.
_CEILING = 0.5  # above the level: higher losses count as this
_EXPLODED = 0.08  # above the level: the network has forgotten what it learnt
_LEAST_FALL = 0.02  # a smaller fall is no learning, whatever the noise
# Shares of the fall of the loss.
_RISEN = 0.6  # a rise by this share ends the first basin
_ONSET, _LOST = 0.1, 0.25  # at its onset so much is done; where it is lost again, so much is lost
# Decades from an end of the ladder.
_EDGE = 0.25  # a minimum nearer than this may lie beyond the end
_EARLY = 1.5  # an explosion nearer to the start left no time to learn
_SURE = 2.5  # standard errors: a larger difference is no noise


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Smoothed losses of one or several runs at common LRs, and their mean.

    Attributes:
        x: log10 of the LR.
        mean: the runs' mean.
        runs: the smoothed loss of each run, one row each.
        noise: standard error of the mean, estimated from the scatter of the batches' losses.
        complete: whether all runs reached the last LR without exploding.
    """

    x: Floats
    mean: Floats
    runs: Floats
    noise: float
    complete: bool


@dataclass(frozen=True)
class Basin:
    """Where a loss falls and rises again for the first time; positions are log10 of the LR.

    Attributes:
        level: the loss before training.
        fall: how far it fell.
        onset: where a tenth of the fall was done.
        steepest: where it fell fastest.
        minimum: where it was lowest.
        lost: where a quarter of the fall was lost again, or the end.
        minima: each run's own minimum.
        falls: whether it fell by more than the noise.
        explodes: whether it rose far above the level, or was not finite.
        ends: the first and the last LR of the ladder.
    """

    level: float
    fall: float
    onset: float
    steepest: float
    minimum: float
    lost: float
    minima: tuple[float, ...]
    falls: bool
    explodes: bool
    ends: tuple[float, float]

    @property
    def hidden(self) -> str | None:
        """Where a ladder must be extended to show its minimum: ``up``, ``down`` or None."""
        first, last = self.ends
        if self.explodes and self.lost < first + _EARLY:
            return None if self.falls and self.minimum >= first + _EDGE else "down"
        if self.falls and self.minimum < first + _EDGE:
            return "down"
        return None if self.explodes or (self.falls and self.minimum <= last - _EDGE) else "up"


def smoothed(lrs: Sequence[Sequence[float]], losses: Sequence[Sequence[float | None]]) -> LossCurve:
    """Smooth the losses of some runs over log LR by local lines; return their mean at common LRs.

    Losses after the last finite one, and after the end of a run that ended at a lower LR than
    others, count as 1.5 times the loss before training. One that is not finite in the middle is
    left out.

    Args:
        lrs: of each run, rising.
        losses: losses of each run, at least one of them finite.

    >>> lr = [10 ** (i / 20 - 4) for i in range(81)]
    >>> loss = [2.3 if x < 0.003 else 1.0 if x < 0.3 else 9.0 for x in lr]
    >>> curve = smoothed([lr], [loss])
    >>> bool(0.01 < 10 ** curve.x[curve.mean.argmin()] < 0.1)
    True
    """
    # Over log LR: against the raw LR, the steepest gradient of a noisy loss is at the lowest LRs,
    # decades off.
    #
    # The noise of a run's smoothed loss: with s the deviation of a single loss, and points a step h
    # apart, a Gaussian-weighted mean of width w has the deviation
    #
    #     s * sqrt(sum_i v_i^2) = s * sqrt(h / (2 sqrt(pi) w)),
    #
    # since the weights v_i = h / (w sqrt(2 pi)) exp(-(x_i / w)^2 / 2) sum to 1. s comes from the
    # differences of neighbours, which the slope of the curve hardly changes. These are normal with
    # deviation s sqrt(2), so the median of their absolute values is 0.6745 sqrt(2) s = 0.954 s; a
    # median, because a loss that explodes has a few huge differences.
    points = [_clipped(np.log10(a), np.array(b, dtype=np.float64)) for a, b in _pairs(lrs, losses)]
    first, last = (max(x[at] for x, _, _ in points) for at in (0, -1))
    first = min(first, last)
    grid = np.linspace(first, last, max(2, round((last - first) * _COLUMNS) + 1))
    rows, errors = [], []
    for x, y, ceiling in points:
        step = (x[-1] - x[0]) / max(1, len(x) - 1) or 1.0
        width = max(BANDWIDTH, 1.5 * step)
        if x[-1] < last - step / 2:
            beyond = np.arange(x[-1] + step, last + step, step)
            x, y = np.append(x, beyond), np.append(y, np.full(len(beyond), ceiling))
        rows.append(_local_lines(x, y, grid, width))
        scatter = np.median(np.abs(np.diff(y))) / 0.954
        errors.append(scatter * np.sqrt(step / (2 * np.sqrt(np.pi) * width)))
    noise = float(np.sqrt(np.mean(np.square(errors)) / len(rows)))
    complete = all(y[-1] < ceiling and x[-1] > last - BANDWIDTH for x, y, ceiling in points)
    return LossCurve(grid, np.mean(rows, axis=0), np.array(rows), noise, complete)


def _pairs(
    lrs: Sequence[Sequence[float]], losses: Sequence[Sequence[float | None]]
) -> list[tuple[Floats, list[float]]]:
    """LRs and losses of each run as arrays, NaN for None."""
    return [
        (np.array(a, dtype=np.float64), [np.nan if value is None else value for value in b])
        for a, b in zip(lrs, losses, strict=True)
    ]


def _clipped(x: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """LRs, losses limited by the ceiling, and the ceiling."""
    # An exploded loss may be any number; limited, it cannot pull the smoothed curve far before it.
    finite = np.flatnonzero(np.isfinite(y))
    level = float(np.median(y[finite][: max(3, len(finite) // 6)]))
    ceiling = level + _CEILING * (abs(level) or 1.0)
    # A loss that is missing in the middle is left out; at the end it means divergence.
    known = np.isfinite(y) | (np.arange(len(y)) > finite[-1])
    filled = np.nan_to_num(y[known], nan=ceiling, posinf=ceiling, neginf=ceiling)
    return x[known], np.minimum(filled, ceiling), ceiling


def _local_lines(x: Floats, y: Floats, grid: Floats, width: float) -> Floats:
    """At each point of the grid, the value of the line that fits the points around it best."""
    # Local linear regression (Cleveland 1979, J. Amer. Statist. Assoc. 74), here with the weights
    # v_i = exp(-(d_i / width)^2 / 2) of the distances d_i = x_i - x. The line of weighted least
    # squares has, at x itself, the value
    #
    #     sum_i (S2 - S1 d_i) v_i y_i / (S0 S2 - S1^2),    Sk = sum_i v_i d_i^k.
    #
    # A line, not a mean: at the ends of a ladder all points lie on one side, and the mean of a
    # rising loss is too high at the lower end and too low at the upper one. Where the weights rest
    # on one point, S0 S2 - S1^2 is about 0 and no line is determined; the mean is taken.
    d = x - grid[:, None]
    weight = np.exp(-0.5 * (d / width) ** 2) + 1e-300
    w0, w1, w2 = (np.sum(weight * d**power, axis=1) for power in (0, 1, 2))
    mean = np.sum(weight * y, axis=1) / w0
    slope_terms = np.sum((w2[:, None] - w1[:, None] * d) * weight * y, axis=1)
    spread = w0 * w2 - w1**2
    enough = spread > 1e-6 * w0 * w0 * width**2
    fitted: Floats = np.where(enough, slope_terms / np.where(enough, spread, 1.0), mean)
    return fitted


def first_basin(curve: LossCurve) -> Basin:
    """Find the first fall and rise of a smoothed loss.

    Args:
        curve: from `smoothed`.
    """
    # Only the first basin counts: a network with BatchNorm may learn again far above the LR where
    # its loss exploded. Within it, with the level L, the minimum m and the fall f = L - m:
    #
    #     onset: the first x with loss <= L - 0.1 f;    lost: the first x after the minimum with
    #     loss > m + 0.25 f.
    #
    # The minima of the single runs, which have sqrt(n) times the noise of the mean, are found in
    # the same way; their scatter is a part of the estimate's error.
    x, mean = curve.x, curve.mean
    level, least, end = _first_rise(mean, curve.noise)
    inside = slice(0, max(2, end))
    at = int(mean[inside].argmin())
    fall = level - float(mean[at])
    slope = np.gradient(mean[inside], x[inside])
    after = mean[at : inside.stop] > mean[at] + _LOST * max(fall, 0.0)
    lost = at + int(after.argmax()) if after.any() else inside.stop - 1
    begun = mean[: at + 1] <= level - _ONSET * fall
    alone = curve.noise * np.sqrt(len(curve.runs))
    ends = [max(2, _first_rise(run, alone)[2]) for run in curve.runs]
    return Basin(
        level=level,
        fall=fall,
        onset=float(x[int(begun.argmax())]),
        steepest=float(x[int(slope[: at + 1].argmin())]),
        minimum=float(x[at]),
        lost=float(x[lost]),
        minima=tuple(
            float(x[int(run[:stop].argmin())]) for run, stop in zip(curve.runs, ends, strict=True)
        ),
        falls=fall > least,
        explodes=end < len(x) or not curve.complete,
        ends=(float(x[0]), float(x[-1])),
    )


def _first_rise(loss: Floats, noise: float) -> tuple[float, float, int]:
    """The level before training, the least difference that is no noise, the end of the basin."""
    # The basin ends at the first x where either
    #
    #     loss > level + max(0.08 level, least)               (exploded), or
    #     loss > lowest so far + max(0.6 learnt, least)       (60 % of what was learnt is lost),
    #
    # the latter only once something was learnt, learnt = level - lowest so far > least.
    level = float(np.median(loss[: max(2, len(loss) // 10)]))
    scale = abs(level) or 1.0
    # Twice the noise: at the ends a line has about twice the deviation that it has inside.
    least = float(max(_SURE * 2 * noise, _LEAST_FALL * scale))
    lowest = np.minimum.accumulate(loss)
    learnt = level - lowest
    exploded = loss > level + max(_EXPLODED * scale, least)
    over = exploded | ((learnt > least) & (loss > lowest + np.maximum(_RISEN * learnt, least)))
    return level, least, int(over.argmax()) if over.any() else len(loss)
