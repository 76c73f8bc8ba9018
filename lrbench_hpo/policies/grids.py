"""Where a fit starts to look for the shape of an LR function, and on which scales it goes on.

Once the parameters of ``g`` are given, an LR curve is linear in its bounds. Only the parameters of
``g`` are searched: first at all points of a grid, then by Gauss-Newton steps from the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.policies.waves import Array

Shape = dict[str, float]  # the parameters of g


@dataclass(frozen=True)
class Outline:
    """What a grid depends on in a logged LR curve.

    Attributes:
        end: the last iteration, at least 2.
        max_iterations: the budget, if it is known.
        likely_ends: iterations at which a decay is likely to end.
        half_cycles: numbers of half cycles worth a try in the curve, up to a given one.
    """

    end: float
    max_iterations: int | None
    likely_ends: tuple[float, ...]
    half_cycles: Callable[[float], Array]


@dataclass(frozen=True)
class Axis:
    """A parameter on a scale without bounds, on which no step leads to an impossible value.

    Attributes:
        name: the parameter.
        to: its value on that scale.
        back: the inverse, cut to what the parameter may be.
        most: the largest value from which a search may start.
    """

    name: str
    to: Callable[[float], float]
    back: Callable[[float], float]
    most: float = math.inf


@dataclass(frozen=True)
class Grid:
    """How a fit searches the parameters of one LR function.

    Attributes:
        axes: what is searched.
        shapes: the points that are tried first.
        tail: whether the first search counts relative misfits also where the LR is far below its
            peak. It should where the shape shows in a long tail; it would only be distracted
            there by the minima of a wave or the end of a decay that reaches 0.
    """

    axes: tuple[Axis, ...]
    shapes: Callable[[Outline], list[Shape]]
    tail: bool = False


def _clipped_exp(value: float) -> float:
    return math.exp(min(max(value, -60.0), 60.0))


LENGTH = Axis("l", math.log, lambda u: max(1.0, _clipped_exp(u)))
POWER = Axis("p", math.log, lambda u: min(1e3, _clipped_exp(u)))
# gamma as a rate, near 0: INV's and SIG's.
RATE = Axis("gamma", math.log, lambda u: min(1.0, _clipped_exp(u)))
# gamma as a factor an iteration, near 1. With gamma = exp(-r), this is the logarithm of r.
DECAY = Axis(
    "gamma",
    lambda g: math.log(-math.log(g)),
    lambda u: math.exp(-_clipped_exp(u)),
    most=1 - 1e-12,
)


def rates(outline: Outline) -> list[float]:
    """Rates gamma for which ``gamma t`` at the end of the curve is from 1e-3 to 1e4, at most 1."""
    end = outline.end
    found: list[float] = np.geomspace(1e-3 / end, min(1.0, 1e4 / end), 60).tolist()
    return found
