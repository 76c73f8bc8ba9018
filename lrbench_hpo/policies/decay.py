"""The decaying LR functions: from 1 at (or near) t = 0 down towards 0, never up again."""

from __future__ import annotations

import numpy as np

from lrbench_hpo.policies.waves import Array


def fix(t: Array) -> Array:
    """Constant."""
    return np.ones_like(t)


def step(t: Array, gamma: float, l: float) -> Array:  # noqa: E741 (the papers' name)
    """Times gamma every l iterations."""
    return np.power(gamma, np.floor_divide(t, l))


def nstep(t: Array, gamma: float, l: tuple[float, ...]) -> Array:  # noqa: E741
    """Times gamma at each iteration of the list l."""
    return np.power(gamma, np.searchsorted(np.asarray(l, dtype=np.float64), t, side="right"))


def exponential(t: Array, gamma: float) -> Array:
    """Times gamma every iteration."""
    return np.power(gamma, t)


def inverse(t: Array, gamma: float, p: float) -> Array:
    """Inverse power of the time."""
    return np.power(1.0 + t * gamma, -p)


def polynomial(t: Array, p: float, l: float) -> Array:  # noqa: E741
    """Power of the time that is left; 0 from l on."""
    return np.power(1.0 - np.minimum(t, l) / l, p)


def sigmoid(t: Array, gamma: float, l: float) -> Array:  # noqa: E741
    """Smooth step down, half-way at l."""
    # 1/(1 + exp(x)) written so that no exp overflows.
    return np.exp(-np.logaddexp(0.0, gamma * (t - l)))
