"""Curves with a smooth or wavy shape: INV, POLY and the waves.

LRs are linear in their bounds once the shape's parameters are given, so only those are searched:
a grid first, then Gauss-Newton steps on what is left after the linear part is solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.policies.fitting.curve import Curve
from lrbench_hpo.policies.waves import Array

_STARTS = 3  # of the grid's points that are refined
_ITERATIONS = 40  # Gauss-Newton steps
_GAIN = 1e-4  # of a step that makes another one worth while
_MAX_CYCLES, _MAX_DAMPED = 300.0, 100.0  # half cycles that are looked for in samples too few to say
_FAINT = 0.05  # share of the peak below which the first search does not look closely
_APART = 0.02  # of the logarithm of some parameter
_AT_ONCE = 256  # shapes of the grid that are computed together
_ENDS = (0.7, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6)  # what an envelope leaves at the end
_POWERS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
_LENGTHS = (*np.linspace(0.2, 0.98, 27).tolist(), 1.0, 1.01, 1.03, 1.1, 1.25, 1.5, 2.0, 3.0, 6.0)


@dataclass(frozen=True)
class _Family:
    """A function, and whether it has a second bound."""

    function: str
    low: bool

    def g(self, t: Array, shape: Mapping[str, Any]) -> Array:
        values: Array = FUNCTIONS[self.function].g(t, **shape)
        return values


@dataclass(frozen=True)
class _Coordinate:
    """How a parameter is searched: on a scale without bounds."""

    name: str
    to: Callable[[float], float]
    back: Callable[[float], float]


def _clipped_exp(value: float) -> float:
    return math.exp(min(max(value, -60.0), 60.0))


_LENGTH = _Coordinate("l", math.log, lambda u: max(1.0, _clipped_exp(u)))
_POWER = _Coordinate("p", math.log, lambda u: min(1e3, _clipped_exp(u)))
_RATE = _Coordinate("gamma", math.log, lambda u: min(1.0, _clipped_exp(u)))
_DECAY = _Coordinate(
    "gamma", lambda g: math.log(-math.log(g)), lambda u: math.exp(-_clipped_exp(u))
)


def smooth(
    function: str, curve: Curve, max_iterations: int | None, *, low: bool = True
) -> Iterator[LRPolicy]:
    """The best policies of one function, found from several starts.

    Args:
        function: INV, POLY, SIG or any wave.
        curve: what is to be reproduced.
        max_iterations: the budget, if it is known.
        low: whether the function's other bound may be above 0.
    """
    family = _Family(function, low and "k1" in FUNCTIONS[function].takes)
    grid, coordinates = _grid(function, curve.sample, max_iterations)
    seen: set[tuple[float, ...]] = set()
    for shape in _best_of(family, curve.sample, grid, coordinates):
        for floor in (_FAINT * curve.peak, curve.floor):
            shape = _refined(family, curve.sample, shape, coordinates, floor)
            key = tuple(round(math.log(value), 9) for value in shape.values())
            if key not in seen:
                seen.add(key)
                yield from _policies(family, curve, shape, floor)


def _grid(
    function: str, curve: Curve, max_iterations: int | None
) -> tuple[list[dict[str, float]], tuple[_Coordinate, ...]]:
    """Where to look for a function's shape, and what is searched."""
    end = max(curve.end, 2.0)
    if function == "INV":
        rates = np.geomspace(1e-3 / end, min(1.0, 1e4 / end), 60).tolist()
        powers = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
        return [{"gamma": g, "p": p} for g in rates for p in powers], (_RATE, _POWER)
    if function == "SIG":
        middles = (end * np.linspace(0.05, 1.2, 24)).tolist()
        slopes = (np.geomspace(1.0, 1e3, 16) / end).tolist()
        shapes = [{"gamma": min(1.0, s), "l": max(1.0, m)} for s in slopes for m in middles]
        return shapes, (_RATE, _LENGTH)
    if function == "POLY":
        lengths = [share * end for share in _LENGTHS] + _likely_ends(curve, max_iterations)
        shapes = [{"p": p, "l": max(1.0, n)} for n in lengths for p in _POWERS]
        return shapes, (_POWER, _LENGTH)
    damped = "gamma" in FUNCTIONS[function].parameters
    waves = _half_cycles(curve, _MAX_DAMPED if damped else _MAX_CYCLES)
    lengths = [end / f for f in waves.tolist() if end / f >= 1]
    if max_iterations is not None:
        lengths.append(float(max_iterations))
    if not damped:
        return [{"l": n} for n in lengths], (_LENGTH,)
    decays = [share ** (1 / end) for share in _ENDS]
    return [{"l": n, "gamma": g} for n in lengths for g in decays], (_LENGTH, _DECAY)


def _likely_ends(curve: Curve, max_iterations: int | None) -> list[float]:
    """Iterations at which a decay is likely to end."""
    ends = [curve.end, curve.end + 1, 2 * curve.end - float(curve.t[-2])]
    still = curve.lr != curve.lr[-1]
    if still.any() and not still[-2]:  # the LR rests at its last value: since when
        ends += curve.t[np.flatnonzero(still)[-1] : np.flatnonzero(still)[-1] + 2].tolist()
    return ends if max_iterations is None else [*ends, float(max_iterations)]


def _half_cycles(curve: Curve, most: float) -> Array:
    """Numbers of half cycles in the curve that are worth a try."""
    slopes = np.diff(curve.lr)
    turns = int((np.diff(np.sign(slopes[slopes != 0])) != 0).sum())
    if turns < len(curve.t) / 3:  # a wave that the samples follow has as many half cycles
        most = 1.25 * turns + 6
    if curve.spacing is not None:  # regular samples meet a slow wave and many fast ones alike
        most = min(most, len(curve.t) + 0.125)
    return np.concatenate([np.geomspace(0.25, 1.0, 8), np.arange(1.125, most, 0.125)])


def _best_of(
    family: _Family,
    curve: Curve,
    grid: list[dict[str, float]],
    coordinates: tuple[_Coordinate, ...],
) -> Iterator[dict[str, float]]:
    """The few shapes of a grid that come nearest, none of them beside another."""
    floor = curve.floor if family.function == "INV" else _FAINT * curve.peak
    costs = np.concatenate(
        [
            _costs(family, curve, grid[first : first + _AT_ONCE], floor)
            for first in range(0, len(grid), _AT_ONCE)
        ]
    )
    taken: list[Array] = []
    for index in np.argsort(costs, kind="stable").tolist():
        place = np.array([c.to(grid[index][c.name]) for c in coordinates])
        if all(np.abs(place - other).max() > _APART for other in taken):
            taken.append(place)
            yield grid[index]
        if len(taken) == _STARTS:
            return


def _costs(family: _Family, curve: Curve, shapes: list[dict[str, float]], floor: float) -> Array:
    """What `_solved` says of many shapes at once."""
    columns = {name: np.array([[shape[name]] for shape in shapes]) for name in shapes[0]}
    weight = 1.0 / (curve.lr + floor)
    g = family.g(curve.t, columns) * weight
    y = curve.lr * weight
    gg, gy = (g * g).sum(axis=1), g @ y
    yy, floorless = y @ y, np.divide(gy * gy, gg, out=np.zeros_like(gy), where=gg > 0)
    costs: Array = yy - floorless
    if family.low:
        gw, ww, wy = g @ weight, weight @ weight, weight @ y
        determinant = gg * ww - gw * gw
        sound = determinant > 1e-12 * gg * ww
        safe = np.where(sound, determinant, 1.0)
        height, low = (gy * ww - wy * gw) / safe, (gg * wy - gw * gy) / safe
        sound &= (height > 0) & (low > 0)
        costs = np.where(sound, yy - height * gy - low * wy, costs)
    return costs


def _solved(
    family: _Family, curve: Curve, shape: dict[str, float], floor: float
) -> tuple[float, Array, float, float]:
    """Cost, relative misfits, height and low bound of the best policy with this shape."""
    weight = 1.0 / (curve.lr + floor)
    g = family.g(curve.t, shape) * weight
    y = curve.lr * weight
    height, low = 0.0, 0.0
    if family.low:
        gg, gw, ww, gy, wy = g @ g, g @ weight, weight @ weight, g @ y, weight @ y
        determinant = gg * ww - gw * gw
        if determinant > 1e-14 * gg * ww:
            height = float((gy * ww - wy * gw) / determinant)
            low = float((gg * wy - gw * gy) / determinant)
    if low <= 0 or height <= 0:
        gg = g @ g
        height, low = (float(g @ y / gg) if gg > 0 else 0.0), 0.0
    misfits: Array = height * g + low * weight - y
    return float(misfits @ misfits), misfits, height, low


def _refined(
    family: _Family,
    curve: Curve,
    shape: dict[str, float],
    coordinates: tuple[_Coordinate, ...],
    floor: float,
) -> dict[str, float]:
    """The shape after Gauss-Newton steps, damped when they lead uphill."""

    def at(u: Array) -> dict[str, float]:
        return {c.name: c.back(float(v)) for c, v in zip(coordinates, u, strict=True)}

    u: Array = np.array(
        [c.to(min(shape[c.name], 1 - 1e-12) if c is _DECAY else shape[c.name]) for c in coordinates]
    )
    cost, misfits, _, _ = _solved(family, curve, at(u), floor)
    damping = 1e-3
    for _ in range(_ITERATIONS):
        slopes = np.empty((len(misfits), len(u)))
        for column in range(len(u)):
            nudge = np.zeros(len(u))
            nudge[column] = 1e-6
            ahead = _solved(family, curve, at(u + nudge), floor)[1]
            back = _solved(family, curve, at(u - nudge), floor)[1]
            slopes[:, column] = (ahead - back) / 2e-6
        normal, pull = slopes.T @ slopes, slopes.T @ misfits
        for _ in range(8):
            damped = normal + damping * np.diag(np.diag(normal) + 1e-30)
            move: Array = np.negative(np.linalg.lstsq(damped, pull, rcond=None)[0], dtype=float)
            tried = _solved(family, curve, at(u + move), floor)
            if tried[0] < cost:
                break
            damping *= 10
        else:
            break
        u, damping = u + move, damping / 30
        done = tried[0] < 1e-26 or tried[0] > cost * (1 - _GAIN)
        cost, misfits = tried[0], tried[1]
        if done:
            break
    return at(u)


def _policies(
    family: _Family, curve: Curve, shape: dict[str, float], floor: float
) -> Iterator[LRPolicy]:
    """The policy of a shape, and the one beside it whose l is whole."""
    whole = {**shape, "l": float(round(shape["l"]))} if "l" in shape else shape
    for tried in (shape, whole) if whole != shape else (shape,):
        _, _, height, low = _solved(family, curve.sample, tried, floor)
        row = FUNCTIONS[family.function]
        high = low + height
        bounds: dict[str, Any] = {"k0": high}
        if row.is_cyclic:
            bounds = {"k0": low, "k1": high} if low > 0 else {"k0": high, "k1": 0.0}
        elif low > 0:
            bounds["k1"] = low
        try:
            yield LRPolicy(family.function, **(bounds | tried))
        except LRBenchError:  # a bound of 0, or far above any LR
            continue
