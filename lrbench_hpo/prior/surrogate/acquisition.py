"""Expected improvement, and the probability of improvement."""

from __future__ import annotations

import math

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array


def expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """Expected improvement over the best value, ``E max(0, f - best)`` of a normal ``f``.

    Args:
        mean: expected values.
        spread: their standard deviations, above 0.
        best: the value to improve on.

    >>> expected_improvement(np.array([0.0, 1.0]), np.array([1.0, 1e-9]), 0.0).round(3).tolist()
    [0.399, 1.0]
    """
    # With z = (mean - best) / spread, Phi the normal distribution and phi its density,
    #
    #     EI = spread * (z Phi(z) + phi(z))        (Jones et al. 1998, J. Global Optimization 13).
    #
    # Phi(z) = erfc(-z / sqrt(2)) / 2, not (1 + erf(z / sqrt(2))) / 2: for z far below 0 the latter
    # cancels to 0, and the order of the candidates is lost.
    standard = (mean - best) / spread
    density = np.exp(-0.5 * standard**2) / math.sqrt(2 * math.pi)
    below = 0.5 * np.array([math.erfc(each) for each in -standard / math.sqrt(2)])
    gain: Array = spread * (standard * below + density)
    return gain


def chance_above(mean: float, spread: float, best: float) -> float:
    """The probability that a normal value is above the best: ``Phi((mean - best) / spread)``.

    Args:
        mean: its mean.
        spread: its standard deviation, above 0.
        best: the value to beat.

    >>> chance_above(0.0, 1.0, 0.0)
    0.5
    """
    return 0.5 * math.erfc((best - mean) / (spread * math.sqrt(2)))
