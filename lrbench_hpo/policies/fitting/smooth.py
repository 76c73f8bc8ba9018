"""Curves with a smooth or wavy shape: every function whose row has a grid.

The model is ``LR(t) = height g(t; shape) + low``, fitted by weighted least squares. It is linear in
height and low once the shape's parameters are given, so only those are searched, and the two
linear ones are solved for at every shape (variable projection, Golub & Pereyra 1973). The misfit
has many minima in the length of a cycle; so the search starts from the best points of a grid, and
goes on with damped Gauss-Newton steps (Levenberg-Marquardt).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.policies.fitting.curve import Curve
from lrbench_hpo.policies.grids import Axis, Grid, Outline, Shape
from lrbench_hpo.policies.waves import Array

_STARTS = 3  # of the grid's points that are refined
_ITERATIONS = 40  # Gauss-Newton steps
_GAIN = 1e-4  # of a step that makes another one worth while
_FAINT = 0.05  # share of the peak below which the first search does not look closely
_APART = 0.02  # of the logarithm of some parameter
_AT_ONCE = 256  # shapes of the grid that are computed together


@dataclass(frozen=True)
class _Family:
    """A function, and whether it has a second bound."""

    function: str
    low: bool

    def g(self, t: Array, shape: Mapping[str, Any]) -> Array:
        values: Array = FUNCTIONS[self.function].g(t, **shape)
        return values


def smooth(
    function: str, curve: Curve, max_iterations: int | None, *, low: bool = True
) -> Iterator[LRPolicy]:
    """The best policies of one function, found from several starts.

    Args:
        function: one that has a grid.
        curve: what is to be reproduced.
        max_iterations: the budget, if it is known.
        low: whether the function's other bound may be above 0.
    """
    row = FUNCTIONS[function]
    if row.grid is None:
        return
    family = _Family(function, low and "k1" in row.takes)
    seen: set[tuple[float, ...]] = set()
    for shape in _best_of(family, curve.sample, row.grid, max_iterations):
        # First what is large, then, from there, the faint rest of the curve as well.
        for floor in (_FAINT * curve.peak, curve.floor):
            shape = _refined(family, curve.sample, shape, row.grid.axes, floor)
            key = tuple(round(math.log(value), 9) for value in shape.values())
            if key not in seen:
                seen.add(key)
                yield from _policies(family, curve, shape, floor)


def _outline(curve: Curve, max_iterations: int | None) -> Outline:
    """What a grid depends on in a curve."""
    return Outline(
        max(curve.end, 2.0),
        max_iterations,
        tuple(_likely_ends(curve, max_iterations)),
        partial(_half_cycles, curve),
    )


def _likely_ends(curve: Curve, max_iterations: int | None) -> list[float]:
    """Iterations at which a decay is likely to end."""
    ends = [curve.end, curve.end + 1, 2 * curve.end - float(curve.t[-2])]
    still = curve.lr != curve.lr[-1]
    if still.any() and not still[-2]:  # the LR rests at its last value: since when
        ends += curve.t[np.flatnonzero(still)[-1] : np.flatnonzero(still)[-1] + 2].tolist()
    return ends if max_iterations is None else [*ends, float(max_iterations)]


def _half_cycles(curve: Curve, most: float) -> Array:
    """Numbers of half cycles in the curve that are worth a try.

    An eighth apart: at the nearest number, the end is off by a sixteenth of a half cycle at most.
    """
    slopes = np.diff(curve.lr)
    turns = int((np.diff(np.sign(slopes[slopes != 0])) != 0).sum())
    if turns < len(curve.t) / 3:  # a wave that the samples follow has as many half cycles
        most = 1.25 * turns + 6
    if curve.spacing is not None:  # regular samples meet a slow wave and many fast ones alike
        most = min(most, len(curve.t) + 0.125)
    return np.concatenate([np.geomspace(0.25, 1.0, 8), np.arange(1.125, most, 0.125)])


def _best_of(
    family: _Family, curve: Curve, grid: Grid, max_iterations: int | None
) -> Iterator[Shape]:
    """The few shapes of a grid that come nearest, none of them beside another."""
    floor = curve.floor if grid.tail else _FAINT * curve.peak
    shapes = grid.shapes(_outline(curve, max_iterations))
    costs = np.concatenate(
        [
            _costs(family, curve, shapes[first : first + _AT_ONCE], floor)
            for first in range(0, len(shapes), _AT_ONCE)
        ]
    )
    taken: list[Array] = []
    for index in np.argsort(costs, kind="stable").tolist():
        place = np.array([axis.to(shapes[index][axis.name]) for axis in grid.axes])
        if all(np.abs(place - other).max() > _APART for other in taken):
            taken.append(place)
            yield shapes[index]
        if len(taken) == _STARTS:
            return


def _costs(family: _Family, curve: Curve, shapes: list[Shape], floor: float) -> Array:
    """The cost of `_solved` for many shapes at once: the grid is most of a fit's time."""
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
    family: _Family, curve: Curve, shape: Shape, floor: float
) -> tuple[float, Array, float, float]:
    """Cost, relative misfits, height and low bound of the best policy with this shape.

    Minimises ``sum (w (height g + low - lr))^2`` with ``w = 1 / (lr + floor)``: misfits count in
    proportion to the LR, as they do in training, down to where the floor hides them. The normal
    equations of the two unknowns are solved by Cramer's rule. Where they are (nearly) singular, or
    a solution is negative, low is 0 and height alone is solved for.
    """
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
    shape: Shape,
    axes: tuple[Axis, ...],
    floor: float,
) -> Shape:
    """The shape after Gauss-Newton steps, damped when they lead uphill.

    Each step solves ``(J'J + damping diag(J'J)) move = -J' misfits`` (Levenberg-Marquardt, with
    Marquardt's scaling, so that the parameters' units do not matter). The slopes J are central
    differences of the misfits after projection: with two or three parameters that is cheaper than
    their exact form is long.
    """

    def at(u: Array) -> Shape:
        return {axis.name: axis.back(float(v)) for axis, v in zip(axes, u, strict=True)}

    u: Array = np.array([axis.to(min(shape[axis.name], axis.most)) for axis in axes])
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


def _policies(family: _Family, curve: Curve, shape: Shape, floor: float) -> Iterator[LRPolicy]:
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
