"""Candidate policies: random ones of a search space, and variations of good ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import KINDS, Scale
from lrbench_hpo.policies.features import curve_features
from lrbench_hpo.policies.space import Range, SearchSpace
from lrbench_hpo.prior.surrogate.process import Array

_STEP = 0.12  # standard deviation of a variation, as a share of a coordinate's range


@dataclass(frozen=True)
class Candidate:
    """A policy that may be suggested, as a point of the space.

    Attributes:
        function: its LR function.
        point: its coordinates.
        policy: in the task's own scale.
    """

    function: str
    point: Mapping[str, float]
    policy: LRPolicy


@dataclass(frozen=True)
class Pool:
    """Candidates and their features, one row each."""

    candidates: Sequence[Candidate]
    features: Array

    @classmethod
    def of(cls, candidates: Iterable[Candidate], max_iterations: int) -> Pool:
        """The pool of these candidates.

        Args:
            candidates: any number of them.
            max_iterations: the budget, in iterations.
        """
        chosen = list(candidates)
        rows = [curve_features(entry.policy, max_iterations) for entry in chosen]
        return cls(chosen, np.array(rows))

    def __add__(self, other: Pool) -> Pool:
        if not other.candidates or not self.candidates:
            return other if not self.candidates else self
        return Pool(
            [*self.candidates, *other.candidates], np.vstack([self.features, other.features])
        )


def drawn(
    space: SearchSpace, scale: Scale, count: int, random: np.random.Generator
) -> list[Candidate]:
    """Random candidates: a function, each with the same probability, then its coordinates.

    Args:
        space: where to draw from.
        scale: budget and reference LR.
        count: how many.
        random: the source of random numbers.

    >>> from lrbench_hpo.policies.space_files import load_space
    >>> random = np.random.default_rng(0)
    >>> space = load_space("default").restricted(["FIX"])
    >>> [entry.function for entry in drawn(space, Scale(9, 1.0), 2, random)]
    ['FIX', 'FIX']
    """
    names = list(space.functions)
    # All functions have the same probability, however many coordinates they have. A coordinate is
    # uniform over its range, or over the logarithm of its range where the space says so.
    chosen = []
    for function in random.choice(names, count).tolist():
        ranges = _ranges(space, function)
        point = {name: _at(name, entry, random.random()) for name, entry in ranges.items()}
        chosen.append(_candidate(function, point, scale))
    return chosen


def near(
    parents: Sequence[tuple[str, Mapping[str, float]]],
    space: SearchSpace,
    scale: Scale,
    count: int,
    random: np.random.Generator,
) -> list[Candidate]:
    """Candidates near given points: a small normal step in every coordinate.

    Args:
        parents: functions with their coordinates, taken in turn; those outside the space are
            ignored.
        space: where all candidates lie.
        scale: budget and reference LR.
        count: how many.
        random: the source of random numbers.
    """
    chosen = []
    parents = [parent for parent in parents if parent[0] in space.functions]
    for number in range(count if parents else 0):
        function, parent = parents[number % len(parents)]
        point = {}
        for name, entry in _ranges(space, function).items():
            where = _place(entry, parent[name]) if name in parent else random.random()
            point[name] = _at(name, entry, where + _STEP * random.standard_normal())
        chosen.append(_candidate(function, point, scale))
    return chosen


def _candidate(function: str, point: Mapping[str, float], scale: Scale) -> Candidate:
    """A point as a candidate, without the gaps beyond its number of drops."""
    drops = point.get("drops")
    kept = {
        name: value
        for name, value in point.items()
        if drops is None or not name.startswith("gap") or int(name[3:]) <= drops
    }
    return Candidate(function, kept, coordinates.to_policy(function, kept, scale))


def _ranges(space: SearchSpace, function: str) -> dict[str, Range]:
    """The range of each coordinate as trials name them: ``gap1``, ``gap2``, ... separately."""
    ranges = {}
    for name, entry in space.functions[function].items():
        most = int(space.functions[function]["drops"].high) if name == "gap" else 0
        for coordinate in [f"gap{number + 1}" for number in range(most)] or [name]:
            ranges[coordinate] = entry
    return ranges


def _at(name: str, entry: Range, place: float) -> float:
    """The value at a place of a range, 0 for its lower end and 1 for its upper end."""
    # A place outside [0, 1] is reflected at the end, as (p + 1) mod 2 - 1 = p for p in [-1, 1).
    # Clipping it would pile up candidates at the ends of the range.
    place = abs((place + 1) % 2 - 1)
    if entry.log:
        value = math.exp(math.log(entry.low) + place * math.log(entry.high / entry.low))
    else:
        value = entry.low + place * (entry.high - entry.low)
    whole = name in KINDS and KINDS[name].integer
    return entry.clip(round(value) if whole else value)


def _place(entry: Range, value: float) -> float:
    """The place of a value in a range: the inverse of `_at`."""
    if entry.high <= entry.low:
        return 0.5
    if entry.log:
        return math.log(max(value, entry.low) / entry.low) / math.log(entry.high / entry.low)
    return (value - entry.low) / (entry.high - entry.low)
