"""The probability that a trial wins: a logistic regression on its signs.

``p = 1 / (1 + exp(-w x))``, where x are the signs (`signs`) and w their weights. The weights were
learnt from stored learning curves, where it is known which trial won. Gradient-boosted trees in
place of the regression changed nothing that could be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lrbench_hpo.study.stopping.signs import Signs

Weights = tuple[float, ...]


def chance(weights: Weights, seen: Signs) -> float:
    """The probability that a trial with these signs beats all others.

    Args:
        weights: one for each sign.
        seen: the trial's signs.

    >>> chance((0.0,) * 9, np.ones(9))
    0.5
    """
    log_odds = float(np.dot(weights, seen))
    return 1 / (1 + math.exp(-min(max(log_odds, -500.0), 500.0)))  # exp() overflows at 710


# Learnt by benchmarks/stopping/learn.py from 1,600 random policies on eight small image tasks.
MEASURED: Mapping[str, float] = {
    "constant": -0.735034,
    "gap": -0.0687606,
    "gap x share": -1.2191,
    "left": 3.21314,
    "behind": -1.40632,
    "rank": -0.6068,
    "pace": 0.174463,
    "trials": -0.929573,
    "leader's rest x gap": 0.431585,
}

# The same for trials that are evaluated at equal tenths of the budget, whatever the policy.
MEASURED_AT_EQUAL_STEPS: Mapping[str, float] = {
    "constant": -0.473145,
    "gap": -0.0670681,
    "gap x share": -1.09233,
    "left": 3.07666,
    "behind": -1.5209,
    "rank": -0.696636,
    "pace": 0.147687,
    "trials": -1.00582,
    "leader's rest x gap": 0.322269,
}
