"""Results on one scale for all tasks: how far from the best, in units that shrink towards it."""

from __future__ import annotations

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array


def log_regret(values: Array, best: float, unit: float) -> Array:
    """Log regret ``-log(1 + (best - value) / unit)``; 0 for the best value, below 0 for the others.

    Args:
        values: larger is better; NaN and infinite ones count as the worst of the others.
        best: the best value, or more.
        unit: the smallest difference that matters, in the values' unit.

    >>> log_regret(np.array([0.9, 0.89, 0.1]), 0.9, 0.01).round(2).tolist()
    [-0.0, -0.69, -4.39]
    """
    # For small regrets d = (best - value) / unit, -log(1 + d) = -d + O(d^2): the noise of seeds
    # keeps its normal shape. For large d it is logarithmic: among poor policies a tenth of accuracy
    # more or less hardly counts, and a few very bad results do not dominate a least-squares fit.
    known = values[np.isfinite(values)]
    worst = known.min() if known.size else best
    filled = np.where(np.isfinite(values), values, worst)
    regret: Array = -np.log1p(np.maximum(best - filled, 0.0) / unit)
    return regret


def rank_correlation(left: Array, right: Array) -> float | None:
    """Spearman's rank correlation, in [-1, 1]; None if all values of one side are equal.

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
