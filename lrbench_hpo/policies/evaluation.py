"""When a policy's model is best looked at: at its LR minima, else at fractions of the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lrbench_hpo.policies.table import FUNCTIONS
from lrbench_hpo.policies.waves import Wave

Places = npt.NDArray[np.int64]

_LOOKS = 1_000  # LRs that tell whether a wave turns within a budget


class Schedule(Protocol):
    """What is asked of an `LRPolicy` here; `policy` imports this module, not the reverse."""

    @property
    def function(self) -> str:
        """Name of the LR function."""

    @property
    def l(self) -> float | Sequence[float] | None:  # noqa: E743 (the papers' name)
        """Half a cycle of a cyclic function, in iterations."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest LR."""

    @property
    def spans(self) -> Sequence[tuple[float, float, Schedule]]:
        """(start, end, policy) of each part."""

    def __call__(self, t: Any) -> Any:
        """LR at an iteration, or at each of an array."""


def _waves(policy: Schedule) -> Iterator[tuple[Wave, float, float, float]]:
    """(wave, l, start, end) of each cyclic part with a minimum that a rise follows."""
    spans = policy.spans
    for index, (start, end, part) in enumerate(spans):
        wave = FUNCTIONS[part.function].wave
        if wave is None or not isinstance(part.l, int | float):
            continue
        last_chance = end
        if index + 1 < len(spans):
            following = spans[index + 1][2]
            # Where the next part goes on as low, the LR has come to rest: no cycle ends there.
            if following(0) <= part.bounds[0]:
                last_chance = math.nextafter(end, 0)
        if start + wave.first_minimum(part.l) <= last_chance:
            yield wave, float(part.l), start, last_chance


def is_cyclic(policy: Schedule) -> bool:
    """Whether the LR rises again after it came down to a minimum."""
    return any(True for _ in _waves(policy))


@dataclass(frozen=True)
class _Minima:
    """Minima of one part as whole iterations, computed when asked for: memory may not hold all.

    Hardly two are the same, because no cycle is shorter than an iteration (rounding can bring two
    cycles of one iteration together, far from 0).

    Attributes:
        wave: the part's.
        half: half a cycle, in iterations.
        start: of the part.
        first: the first one's place among all minima of the part, from 1.
        count: how many.
    """

    wave: Wave
    half: float
    start: float
    first: int
    count: int

    def at(self, places: Places) -> Places:
        """Those at some places, from 0."""
        times = self.wave.minimum_times(self.half, self.first + places.astype(np.float64))
        return np.ceil(self.start + times).astype(np.int64)

    @property
    def last(self) -> int:
        return int(self.at(np.array([self.count - 1]))[0])


def _minima(policy: Schedule, budget: int) -> list[_Minima]:
    """The minima of each part in turn, none of them twice."""
    found: list[_Minima] = []
    for wave, half, start, end in _waves(policy):
        if start >= budget:
            continue
        count = wave.count_minima(half, min(end, budget) - start)
        part = _Minima(wave, half, start, 1, count)
        # Where a part ends between two iterations, the next one's first minimum may be its last.
        if count and found and part.at(np.array([0]))[0] <= found[-1].last:
            part = _Minima(wave, half, start, 2, count - 1)
        if part.count:
            found.append(part)
    return found


def minima(policy: Schedule, budget: int) -> tuple[int, ...]:
    """``LRPolicy.minima`` for a budget that was checked."""
    points = [part.at(np.arange(part.count)) for part in _minima(policy, budget)]
    return tuple(np.unique(np.concatenate(points)).tolist()) if points else ()


def evaluation_points(policy: Schedule, budget: int, limit: int) -> tuple[int, ...]:
    """``LRPolicy.evaluation_points`` for numbers that were checked."""
    parts = _minima(policy, budget)
    count = sum(part.count for part in parts)
    count -= bool(parts) and parts[-1].last == budget
    if count or (is_cyclic(policy) and not _one_way(policy, budget)):
        room = min(limit - 1, count)
        chosen = _at(parts, [(i + 1) * count // room - 1 for i in range(room)])
    else:
        chosen = [math.ceil(budget * i / limit) for i in range(1, limit)]
    return tuple(sorted({*chosen, budget}))


def _at(parts: Sequence[_Minima], places: Sequence[int]) -> list[int]:
    """The minima at some places among those of all parts."""
    wanted, before = np.array(places, dtype=np.int64), 0
    found: list[int] = []
    for part in parts:
        inside = (wanted >= before) & (wanted < before + part.count)
        found += part.at(wanted[inside] - before).tolist()
        before += part.count
    return found


def _one_way(policy: Schedule, budget: int) -> bool:
    """Whether the LR only falls, or only rises, within the budget: half a wave has no cycle."""
    rates = policy(np.unique(np.linspace(0, budget - 1, _LOOKS).astype(int)))
    steps = np.diff(rates)
    return bool(np.all(steps <= 0) or np.all(steps >= 0))
