"""Results on one scale for all tasks: how far from the best, in units that shrink towards it."""

from __future__ import annotations

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array


def log_regret(values: Array, best: float, unit: float) -> Array:
    """``-log(1 + (best - value) / unit)``: 0 for the best, -1 a little more than a unit below it.

    Near the best it is linear, so that the noise of seeds stays noise; far from it a tenth of the
    accuracy more or less hardly counts.

    Args:
        values: larger is better; NaN and infinite ones count as the worst of the others.
        best: the best value, or more.
        unit: a difference that just matters, in the values' unit.

    >>> log_regret(np.array([0.9, 0.89, 0.1]), 0.9, 0.01).round(2).tolist()
    [-0.0, -0.69, -4.39]
    """
    known = values[np.isfinite(values)]
    worst = known.min() if known.size else best
    filled = np.where(np.isfinite(values), values, worst)
    regret: Array = -np.log1p(np.maximum(best - filled, 0.0) / unit)
    return regret


def rank_correlation(left: Array, right: Array) -> float | None:
    """Spearman's: 1 for the same order, -1 for the opposite one; None where one has no order.

    Args:
        left: some values.
        right: as many.

    >>> round(rank_correlation(np.array([1.0, 2.0, 5.0]), np.array([0.1, 0.3, 0.2])) or 0, 2)
    0.5
    >>> rank_correlation(np.array([1.0, 2.0, 5.0]), np.array([0.5, 0.5, 0.5])) is None
    True
    """
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: Array) -> Array:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: Array = np.cumsum(counts) - (counts + 1) / 2
    return means[place]
