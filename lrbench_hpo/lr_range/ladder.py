"""The shape of a loss that was measured while the LR rose: smoothed in log LR, its first basin.

Numbers only. What they say about a task's LR is `lr_range`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Decades of LR that a smoothed value looks at (a Gaussian's deviation). Measured as in
# `lr_range.CALIBRATION`: 0.3 errs by 0.26 decades, 0.2 by 0.28, 0.15 by 0.29; and one run alone of
# 50 steps, within SGD with momentum, by 0.21, 0.49 and 0.49.
BANDWIDTH = 0.3
_COLUMNS = 60  # points of the smoothed curve in a decade
_CEILING = 0.5  # above the level before training, as a share of it: as high as any loss counts
_EXPLODED = 0.08  # above that level, likewise: the network has unlearnt what it knew
_RISEN = 0.6  # of the fall so far: after that the first basin is over, whatever follows
_LEAST_FALL = 0.02  # of that level: less is no learning, whatever the noise
_EDGE = 0.25  # decades: a minimum this near to an end may lie beyond it
_EARLY = 1.5  # decades: what explodes before has had no room to learn
_SURE = 2.5  # standard errors: no accident
_ONSET, _LOST = 0.1, 0.25  # shares of the fall: there it begins, there it is being lost again


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Smoothed losses of one or several runs, as their mean at common LRs.

    Attributes:
        x: log10 of the LR.
        mean: the runs' mean.
        runs: each run's own, one row each.
        noise: standard error of the mean, as the batches' losses scatter around their curves.
        complete: whether no run ended early, diverged.
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
        level: the loss before anything was learnt.
        fall: how far it fell.
        onset: where a tenth of the fall was done.
        steepest: where it fell fastest.
        minimum: where it was lowest.
        lost: where a quarter of the fall was lost again, or the end.
        minima: each run's own minimum.
        falls: whether it fell by more than noise.
        explodes: whether it rose far above what it was, or was not finite.
        ends: where the ladder began and ended.
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
        """Which way the ladder has to go on before it shows a minimum: ``up``, ``down`` or None."""
        first, last = self.ends
        if self.explodes and self.lost < first + _EARLY:
            return None if self.falls and self.minimum >= first + _EDGE else "down"
        if self.falls and self.minimum < first + _EDGE:
            return "down"
        return None if self.explodes or (self.falls and self.minimum <= last - _EDGE) else "up"


def smoothed(lrs: Sequence[Sequence[float]], losses: Sequence[Sequence[float | None]]) -> LossCurve:
    """Smooth the losses of some runs over log LR, by local lines (Cleveland 1979).

    Losses that are not finite count as half as high again as the loss was before training; so
    does what would have come after a run that ended at lower LRs than others.

    Args:
        lrs: of each run, rising.
        losses: likewise, at least one of each run finite.

    >>> lr = [10 ** (i / 20 - 4) for i in range(81)]
    >>> loss = [2.3 if x < 0.003 else 1.0 if x < 0.3 else 9.0 for x in lr]
    >>> curve = smoothed([lr], [loss])
    >>> bool(0.01 < 10 ** curve.x[curve.mean.argmin()] < 0.1)
    True
    """
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
        scatter = np.median(np.abs(np.diff(y))) / 0.954  # a difference of two, by its median
        errors.append(scatter * np.sqrt(step / (2 * np.sqrt(np.pi) * width)))
    noise = float(np.sqrt(np.mean(np.square(errors)) / len(rows)))
    complete = all(y[-1] < ceiling and x[-1] > last - BANDWIDTH for x, y, ceiling in points)
    return LossCurve(grid, np.mean(rows, axis=0), np.array(rows), noise, complete)


def _pairs(
    lrs: Sequence[Sequence[float]], losses: Sequence[Sequence[float | None]]
) -> list[tuple[Floats, list[float]]]:
    return [
        (np.array(a, dtype=np.float64), [np.nan if value is None else value for value in b])
        for a, b in zip(lrs, losses, strict=True)
    ]


def _clipped(x: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """LRs and losses up to the ceiling, and that ceiling."""
    finite = np.flatnonzero(np.isfinite(y))
    level = float(np.median(y[finite][: max(3, len(finite) // 6)]))
    ceiling = level + _CEILING * (abs(level) or 1.0)
    # A single loss that is missing in the middle tells nothing; at the end it is divergence.
    known = np.isfinite(y) | (np.arange(len(y)) > finite[-1])
    filled = np.nan_to_num(y[known], nan=ceiling, posinf=ceiling, neginf=ceiling)
    return x[known], np.minimum(filled, ceiling), ceiling


def _local_lines(x: Floats, y: Floats, grid: Floats, width: float) -> Floats:
    """At each point of the grid, the value of the line that fits the points around it best."""
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
    """The first fall and rise of a smoothed loss; later ones belong to a network that broke.

    Args:
        curve: of `smoothed`.
    """
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
    """The level before training, the least difference that is no noise, and where the rise ends."""
    level = float(np.median(loss[: max(2, len(loss) // 10)]))
    scale = abs(level) or 1.0
    # Twice the noise: at its ends a line scatters twice as much as inside.
    least = float(max(_SURE * 2 * noise, _LEAST_FALL * scale))
    lowest = np.minimum.accumulate(loss)
    learnt = level - lowest
    exploded = loss > level + max(_EXPLODED * scale, least)
    over = exploded | ((learnt > least) & (loss > lowest + np.maximum(_RISEN * learnt, least)))
    return level, least, int(over.argmax()) if over.any() else len(loss)
