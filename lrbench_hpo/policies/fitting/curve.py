"""A logged LR curve: iterations and learning rates, checked, with a measure of misfit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lrbench_hpo import checks
from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.waves import Array

MIN_POINTS, MAX_POINTS = 3, 1_000_000
MIN_HELD = 8  # values of a curve that is held
_SAMPLE = 400  # points that searches look at
_LEAST_PEAK = 1e-30  # below, nothing is learnt, and squares are 0
_SPREAD = 0.4343 * 1.5 * 12**-0.5  # what rounding by 1 does to a logarithm, with some to spare
_COMPARED = 20_000  # points of a long curve at which candidates are compared
_DIGITS_OF = 300  # points whose digits are counted
# Of the peak: the last printed decimal of few and of many values.
_FINE, _COARSE = 2e-4, 2.5e-3
_MANY_VALUES = 12
# Decades: what float32 rounds off; and the most that few printed digits may excuse.
_FLOAT32, _FEW_DIGITS = 5e-8, 1e-4


@dataclass(frozen=True, eq=False)
class Curve:
    """Learning rates by iteration.

    Attributes:
        t: iterations, increasing.
        lr: learning rates, at least 0, and one of them above.
        floor: is added to both sides of a comparison, so that what lies far below the peak, or
            below the last printed decimal, does not count.
        tolerance: misfits up to here may be rounding, in decades.
        rounding: the misfit that rounding to the last printed decimal makes by itself.
    """

    t: Array
    lr: Array
    floor: float
    tolerance: float
    rounding: float

    @classmethod
    def of(cls, iterations: Sequence[float] | Array, lrs: Sequence[float] | Array) -> Curve:
        """The curve of these samples.

        Raises:
            RecordError: for fewer than three samples, LRs that are negative, not finite or all 0,
                or iterations that do not increase.
        """
        t, lr = _numbers("iterations", iterations), _numbers("lrs", lrs)
        if len(t) != len(lr):
            raise RecordError(f"{len(t)} iterations, {len(lr)} LRs: expected as many of each")
        if not MIN_POINTS <= len(t) <= MAX_POINTS:
            rule = f"expected {MIN_POINTS} to {MAX_POINTS} samples of the LR, got {len(t)}"
            raise RecordError(f"LR curve: {rule}")
        _refuse_first("LR", lr, ~((lr >= 0) & (lr <= 1e3)), "expected an LR of 0 to 1000")
        _refuse_first("iteration", t, ~((t >= 0) & (t <= 1e12)), "expected 0 to 1e12")
        _refuse_first("iteration", t[1:], np.diff(t) <= 0, "expected iterations that increase")
        if (peak := float(lr.max())) < _LEAST_PEAK:
            checks.refuse("LR", peak, "expected an LR above 0 somewhere in the curve")
        digits, decimals = _digits(lr)
        quantum = 10.0**-decimals
        # A coarser grid than this is no rounding, unless many values are on it: 0.1, 0.01, 0.001
        # are meant exactly.
        many = len(np.unique(lr)) >= _MANY_VALUES
        quantum = quantum if quantum <= (_COARSE if many else _FINE) * peak else 0.0
        floor = max(1e-6 * peak, 10 * quantum)
        rounding = quantum * _SPREAD * float(np.sqrt(np.mean((lr + floor) ** -2.0)))
        few_digits = min(_FEW_DIGITS, 0.22 * 10.0 ** (1 - digits))
        return cls(t, lr, floor, max(_FLOAT32, few_digits, rounding), rounding)

    @cached_property
    def peak(self) -> float:
        """The highest LR."""
        return float(self.lr.max())

    @cached_property
    def end(self) -> float:
        """The last iteration."""
        return float(self.t[-1])

    @cached_property
    def spacing(self) -> float | None:
        """Iterations between samples, where they are regular and count from 0; else None."""
        gaps = np.diff(self.t)
        gap = float(gaps[0])
        return gap if (gaps == gap).all() and self.t[0] % gap == 0 else None

    @cached_property
    def sample(self) -> Curve:
        """Enough of the points to search with, irregular, so that no wave hides between them."""
        count = len(self.t)
        if count <= _SAMPLE:
            return self
        chosen = np.random.default_rng(0).choice(count, _SAMPLE, replace=False)
        kept = np.unique(np.concatenate([chosen, [0, 1, count - 2, count - 1]]))
        return Curve(self.t[kept], self.lr[kept], self.floor, self.tolerance, self.rounding)

    @cached_property
    def held(self) -> Curve | None:
        """The first sample of each value, where all are held equally long; else None."""
        starts = np.flatnonzero(np.concatenate([[True], np.diff(self.lr) != 0]))
        if not MIN_HELD <= len(starts) <= len(self.t) / 2:
            return None
        lengths = np.diff(self.t[starts])
        typical = float(np.median(lengths))
        gap = float(np.diff(self.t).max())
        if gap > typical / 2 or (np.abs(lengths - typical) > gap).mean() > 0.1:
            return None
        return Curve(self.t[starts], self.lr[starts], self.floor, self.tolerance, self.rounding)

    def decades(self, policy: LRPolicy) -> Array:
        """log10 of logged LR over the policy's, at each point."""
        ratio: Array = np.log10((self.lr + self.floor) / (policy(self.t) + self.floor))
        return ratio

    def error(self, policy: LRPolicy) -> float:
        """The root mean square of `decades`; of a long curve, at evenly spread points."""
        return root_mean_square(self._spread.decades(policy))

    @cached_property
    def _spread(self) -> Curve:
        step = -(-len(self.t) // _COMPARED)
        if step == 1:
            return self
        kept = slice(None, None, step)
        return Curve(self.t[kept], self.lr[kept], self.floor, self.tolerance, self.rounding)

    def before(self, end: float) -> Curve:
        """What lies before an iteration."""
        kept = self.t < end
        return Curve(self.t[kept], self.lr[kept], self.floor, self.tolerance, self.rounding)

    def after(self, start: float) -> Curve:
        """What follows from an iteration on, counted from there."""
        kept = self.t >= start
        return Curve(self.t[kept] - start, self.lr[kept], self.floor, self.tolerance, self.rounding)


def root_mean_square(values: Array) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def _numbers(where: str, values: Sequence[float] | Array) -> Array:
    try:
        found: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        checks.refuse(where, values, "expected numbers")
    if found.ndim != 1:
        checks.refuse(where, values, "expected a list of numbers")
    return found


def _refuse_first(where: str, values: Array, wrong: npt.NDArray[np.bool], rule: str) -> None:
    if wrong.any():
        checks.refuse(where, float(values[wrong][0]), rule)


def _digits(lr: Array) -> tuple[int, int]:
    """The most significant digits, and the most decimals, with which LRs are written."""
    step = max(1, len(lr) // _DIGITS_OF)
    digits = decimals = 1
    for value in np.unique(lr[::step]).tolist():
        if value > 0:
            mantissa, _, exponent = f"{value:.16e}".partition("e")
            shortest = f"{value!r}" if math.isfinite(value) else mantissa
            written = shortest.partition("e")[0].replace(".", "").strip("0")
            digits = max(digits, len(written))
            decimals = max(decimals, len(written) - 1 - int(exponent))
    return digits, decimals
