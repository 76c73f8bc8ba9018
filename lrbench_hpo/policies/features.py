"""Policies as points of one space: their LR curves, whatever the function and its parameters.

A policy's features are the decades of its mean LR over each 16th of the budget. What one function
teaches there holds for every other function with a similar curve, and multiplying all LRs by a
factor moves a policy along one direction, which is how evidence changes its scale.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrbench_hpo.policies import LRPolicy

BLOCKS = 16
_POINTS = 320
_DEPTH = 1e-3  # LRs below this share of the peak train nothing any more

Features = npt.NDArray[np.float64]


def curve_features(policy: LRPolicy, max_iterations: int) -> Features:
    """A policy as one point in a space common to all functions: log10 of its mean LR over time.

    Args:
        policy: any policy.
        max_iterations: the budget, in iterations.

    Returns:
        16 numbers, the decades of the mean LR over each 16th of the budget; LRs below a
        thousandth of the peak count as that.

    >>> curve_features(LRPolicy("FIX", k0=0.1), 1000).round(3).tolist() == [-1.0] * 16
    True
    """
    times = np.arange(_POINTS) * (max_iterations / _POINTS)
    lrs = policy(times).reshape(BLOCKS, -1).mean(axis=1)
    features: Features = np.log10(np.maximum(lrs, _DEPTH * lrs.max()))
    return features
