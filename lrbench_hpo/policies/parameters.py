"""Rules for single parameter values: what is let in comes out as plain Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import NoReturn

import numpy as np

from lrbench_hpo import checks
from lrbench_hpo.errors import PolicyError

MAX_LR = 1e3
MAX_ITERATIONS = 1e12


def short(value: object) -> str:
    """``repr`` of anything, on one line and of bounded length; of numpy's numbers as of Python's.

    >>> short(np.float64(0.5))
    '0.5'
    """
    return checks.short(value.item() if isinstance(value, np.generic) else value)


def _refuse(name: str, value: object, rule: str) -> NoReturn:
    raise PolicyError(f"{name}={short(value)}: expected {rule}")


def number(name: str, value: object, rule: str) -> float:
    """A finite float, or one line that names the value and the rule."""
    # Asking for float first takes a third of the time, and nearly all values are floats.
    if type(value) is float:
        if math.isfinite(value):
            return value + 0.0  # -0.0 becomes 0.0: one spelling for one value
    elif isinstance(value, Real) and not isinstance(value, bool | np.bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if math.isfinite(result):
            return result + 0.0
    _refuse(name, value, rule)


def learning_rate(name: str, value: object) -> float:
    """At most 1e3, and more than 0; ``k1`` may be 0."""
    low = ">= 0" if name == "k1" else "> 0"
    rule = f"a learning rate {low} and <= {MAX_LR:g}"
    result = number(name, value, rule)
    if result > MAX_LR or result < 0 or (name != "k1" and result == 0):
        _refuse(name, value, rule)
    return result


def decay_factor(name: str, value: object) -> float:
    """``gamma``: in (0, 1]."""
    rule = "a decay factor in (0, 1]"
    result = number(name, value, rule)
    if not 0 < result <= 1:
        _refuse(name, value, rule)
    return result


def power(name: str, value: object) -> float:
    """``p``: more than 0."""
    rule = "a power > 0"
    result = number(name, value, rule)
    if result <= 0:
        _refuse(name, value, rule)
    return result


def iterations(name: str, value: object) -> int | float:
    """A number of iterations from 1 to 1e12; whole numbers come out as int."""
    rule = f"a positive number of iterations, 1 to {MAX_ITERATIONS:g} (LR functions count t from 0)"
    result = number(name, value, rule)
    if not 1 <= result <= MAX_ITERATIONS:
        _refuse(name, value, rule)
    return int(result) if result.is_integer() else result


def count(name: str, value: object, minimum: int = 1) -> int:
    """A whole number from ``minimum`` to `MAX_ITERATIONS`."""
    known = checks.whole(name, value, minimum, error=PolicyError)
    if known > MAX_ITERATIONS:
        _refuse(name, value, f"a whole number of at most {MAX_ITERATIONS:g}")
    return known


def milestones(name: str, value: object) -> tuple[int | float, ...]:
    """The ``l`` of NSTEP: a strictly increasing list of iterations."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        _refuse(name, value, "a list of iterations, e.g. [5000, 7000]")
    steps = tuple(iterations(f"{name}[{index}]", entry) for index, entry in enumerate(value))
    if any(later <= earlier for earlier, later in pairwise(steps)):
        _refuse(name, value, "strictly increasing iterations")
    return steps
