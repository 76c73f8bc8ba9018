"""The row of an LR function: all that the package knows of it, from formula to default ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies.grids import Grid
from lrbench_hpo.policies.waves import Array, Wave

Coordinates = Mapping[str, float]
Parameters = Mapping[str, Any]  # ``k0``, ``l``, ...; None for what a function does not take


@dataclass(frozen=True)
class Scale:
    """What turns coordinates into an absolute policy.

    Attributes:
        max_iterations: the budget T, in iterations.
        reference_lr: eta_ref, the task's best constant LR or an estimate of it.
    """

    max_iterations: int
    reference_lr: float

    def __post_init__(self) -> None:
        checks.whole("max_iterations", self.max_iterations, error=PolicyError)
        if not (math.isfinite(self.reference_lr) and 0 < self.reference_lr <= 1e3):
            raise PolicyError(
                f"reference_lr={self.reference_lr}: expected a learning rate above 0, at most 1000"
            )


@dataclass(frozen=True)
class Range:
    """The range of one coordinate.

    Attributes:
        low: smallest value, included.
        high: largest value, included.
        log: whether equal ratios, not equal differences, are equally likely.
        origin: where the range comes from.
    """

    low: float
    high: float
    log: bool = False
    origin: str = ""

    def clip(self, value: float) -> float:
        """The nearest value within the range.

        >>> Range(0.1, 10).clip(30)
        10
        """
        return min(self.high, max(self.low, value))


def log_range(low: float, high: float, origin: str) -> Range:
    """A range in which equal ratios are equally likely.

    >>> log_range(0.1, 20.0, "as STEP").log
    True
    """
    return Range(low, high, log=True, origin=origin)


@dataclass(frozen=True)
class Codec:
    """The way from a function's parameters to its scale-free coordinates, and back.

    Attributes:
        read: coordinates from parameters; a `PolicyError` for those that they cannot express.
        write: parameters from coordinates; a missing one is a KeyError.
    """

    read: Callable[[Parameters, Scale], dict[str, float]]
    write: Callable[[Coordinates, Scale], dict[str, Any]]


@dataclass(frozen=True)
class LRFunction:
    """One LR function, ``LR(t) = |k0 - k1| g(t) + min(k0, k1)``.

    Attributes:
        name: its name in the papers.
        formula: ``g(t)`` as the papers write it.
        parameters: what must be given, in the order of the papers.
        g: the formula; takes ``t`` and the parameters after the k's by name.
        reference: the paper that it comes from.
        about: what it does and what it is good for, for the documentation.
        codec: its scale-free coordinates from its parameters, and back.
        ranges: its coordinates, in order, each with the range of the default search space.
        grid: where a fit looks for the parameters of ``g``; None where `fitting` has a closed form.
        optional: parameters that may be left out.
        l_is_list: whether ``l`` is a list of iterations, not one number.
        wave: the wave shape of a cyclic function, None for a decaying one.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    g: Callable[..., Array]
    reference: str
    about: str
    codec: Codec
    ranges: Mapping[str, Range]
    grid: Grid | None = None
    optional: tuple[str, ...] = ()
    l_is_list: bool = False
    wave: Wave | None = None

    @property
    def is_cyclic(self) -> bool:
        """Whether the LR rises again after it fell."""
        return self.wave is not None

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """All parameters, needed or not, in the order of the papers."""
        either = self.parameters + self.optional
        return tuple(name for name in ("k0", "k1", "gamma", "p", "l") if name in either)


def tidy(value: float) -> float:
    """A number without the rounding noise of a conversion: 12 significant digits.

    >>> tidy(0.1 + 0.2)
    0.3
    """
    return checks.rounded(value, 12)


def interval(budget: float, count: float) -> float:
    """The length that fits `count` times into the budget: a whole number if it nearly is one.

    Rounding moves the last of `count` intervals by `count` times as much as one of them; up to a
    twentieth of an interval is accepted. A shorter interval than one iteration is one iteration.

    >>> interval(10_000, 3), interval(10, 3)
    (3333, 3.33333333333)
    """
    exact = budget / count
    whole = round(exact)
    if whole >= 1 and abs(whole - exact) * count <= 0.05 * exact:
        return whole
    return max(1.0, tidy(exact))


def bounds(given: Parameters) -> tuple[float, float]:
    """The lowest and the highest LR; a bound that is not given is 0."""
    low, high = sorted((given["k0"] or 0.0, given["k1"] or 0.0))
    return low, high


def peak(given: Parameters, scale: Scale) -> float:
    """The coordinate `peak`: the highest LR over the reference LR."""
    return bounds(given)[1] / scale.reference_lr


def highest(point: Coordinates, scale: Scale) -> float:
    """The highest LR at a point: the inverse of `peak`."""
    return tidy(point["peak"] * scale.reference_lr)
