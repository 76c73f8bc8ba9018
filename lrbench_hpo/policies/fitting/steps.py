"""Curves that fall in steps: FIX, EXP, STEP and NSTEP, in closed form.

On a logarithmic scale, equal factors are equal drops: a line in ``log LR`` over the iterations is
an EXP, and a line over the number of drops so far is a STEP or an NSTEP. What is left to find is
where the drops are, and how many of them lie between two samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.fitting.curve import Curve
from lrbench_hpo.policies.waves import Array

_MAX_DROPS = 60  # of NSTEP
_MAX_MISSED = 50  # STEP's drops before the first sample
_NOISES = (1e-6, 0.02, 0.1)  # changes up to here, of the logarithm, are none
_MAX_SHARE = 6  # the smallest drop may be so many units


def fix(curve: Curve) -> Iterator[LRPolicy]:
    """A constant."""
    yield LRPolicy("FIX", k0=_exp(float(np.mean(np.log(curve.lr + curve.floor)))) - curve.floor)


def exponential(curve: Curve) -> Iterator[LRPolicy]:
    """A line in the logarithm."""
    seen = curve.lr > curve.floor
    if seen.sum() < 2:
        return
    start, slope = line(curve.t[seen], np.log(curve.lr[seen]))
    if slope < 0 < (gamma := math.exp(slope)):
        yield LRPolicy("EXP", k0=_exp(start), gamma=gamma)


def step(curve: Curve) -> Iterator[LRPolicy]:
    """Equal drops every l iterations."""
    for found in _staircases(curve):
        for missed in range(_MAX_MISSED if curve.t[0] > 0 else 1):
            length = _step_length(curve, found.drops_before + missed)
            if length is not None:
                drops = found.drops_before + missed
                start, slope = line(drops, np.log(curve.lr))
                if slope < 0:
                    yield LRPolicy("STEP", k0=_exp(start), gamma=math.exp(slope), l=length)
                break


def nstep(curve: Curve) -> Iterator[LRPolicy]:
    """Equal drops at any iterations."""
    for found in _staircases(curve):
        if not 0 < found.drops_before[-1] <= _MAX_DROPS:
            continue
        changes = np.flatnonzero(np.diff(found.drops_before))
        milestones: list[float] = []
        for index in changes.tolist():
            count = int(found.drops_before[index + 1] - found.drops_before[index])
            before, after = float(curve.t[index]), float(curve.t[index + 1])
            last = after if curve.spacing is not None else roundest(before, after)
            milestones += [last - back for back in range(count - 1, -1, -1)]
        start, slope = line(found.drops_before, np.log(curve.lr))
        try:
            yield LRPolicy("NSTEP", k0=_exp(start), gamma=math.exp(slope), l=milestones)
        except LRBenchError:  # more drops between two samples than iterations
            continue


@dataclass(frozen=True, eq=False)
class _Staircase:
    drops_before: Array  # how many drops came before each sample


def _staircases(curve: Curve) -> Iterator[_Staircase]:
    """The curve as equal drops between plateaus, at each idea of what is noise."""
    if not curve.lr.all():
        return
    logs = np.log(curve.lr)
    for noise in _NOISES:
        steps = np.diff(logs)
        falls = steps < -noise
        if (steps > noise).any() or not falls.any():
            continue
        plateau = np.concatenate([[0], np.cumsum(falls)])
        sizes = np.bincount(plateau)
        levels = np.bincount(plateau, weights=logs) / sizes
        counts = _in_units(-np.diff(levels))
        if counts is not None:
            yield _Staircase(np.concatenate([[0.0], np.cumsum(counts)])[plateau])


def _in_units(drops: Array) -> Array | None:
    """The drops as whole numbers of a common unit, if there is one.

    Samples may miss drops, so that one that is seen is several. The smallest is tried as one, two,
    ... units; the unit is then the least-squares fit to all drops at once.
    """
    smallest = float(drops.min())
    for share in range(1, _MAX_SHARE + 1):
        unit = smallest / share
        counts = np.round(drops / unit)
        unit = float(drops @ counts / (counts @ counts))
        if np.abs(drops / unit - counts).max() < 0.05:
            return counts
    return None


def _step_length(curve: Curve, drops: Array) -> float | None:
    """An l with floor(t / l) = drops at every sample, the most likely one.

    ``drops <= t/l < drops + 1`` at each sample means ``t/(drops + 1) < l <= t/drops``: the l's that
    satisfy all samples are an interval, of which the roundest number was most likely meant.
    """
    seen = drops > 0
    if not seen.any():
        return None
    high = float((curve.t[seen] / drops[seen]).min())
    low = float((curve.t / (drops + 1)).max())
    if high <= low or high < 1:
        return None
    if curve.spacing is not None and high % curve.spacing == 0:
        return high
    return roundest(max(low, 1 - 1e-9), high)


def roundest(above: float, to: float) -> float:
    """The whole number in (above, to] with the most zeros at its end; `to` if there is none."""
    for power in range(12, -1, -1):
        for unit in (5 * 10.0**power, 10.0**power):
            candidate = math.floor(to / unit) * unit
            if candidate > above and candidate > 0:
                return candidate
    return to


def line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of the line nearest to the points."""
    middle = x.mean()
    spread = float(((x - middle) ** 2).sum())
    slope = float(((x - middle) * (y - y.mean())).sum()) / spread if spread else 0.0
    return float(y.mean() - slope * middle), slope


def _exp(value: float) -> float:
    return math.exp(min(value, 50.0))
