"""When a policy's model is best looked at: at its LR minima, else at fractions of the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lrbench_hpo.policies.table import FUNCTIONS
from lrbench_hpo.policies.waves import Wave

if TYPE_CHECKING:
    from lrbench_hpo.policies.policy import LRPolicy

_LOOKS = 1_000  # LRs that tell whether a wave turns within a budget


def _waves(policy: LRPolicy) -> Iterator[tuple[Wave, float, float, float]]:
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


def is_cyclic(policy: LRPolicy) -> bool:
    """Whether the LR rises again after it came down to a minimum."""
    return any(True for _ in _waves(policy))


def minima(policy: LRPolicy, budget: int) -> tuple[int, ...]:
    """``LRPolicy.minima`` for a budget that was checked."""
    times = [
        start + wave.minimum_times(half, min(end, budget) - start)
        for wave, half, start, end in _waves(policy)
        if start < budget
    ]
    points: list[int] = np.unique(np.ceil(np.concatenate([[], *times]))).astype(int).tolist()
    return tuple(point for point in points if point <= budget)


def evaluation_points(policy: LRPolicy, budget: int, limit: int) -> tuple[int, ...]:
    """``LRPolicy.evaluation_points`` for numbers that were checked."""
    points = [m for m in minima(policy, budget) if m < budget]
    if points or (is_cyclic(policy) and not _one_way(policy, budget)):
        room = min(limit - 1, len(points))
        chosen = [points[(i + 1) * len(points) // room - 1] for i in range(room)]
    else:
        chosen = [math.ceil(budget * i / limit) for i in range(1, limit)]
    return tuple(sorted({*chosen, budget}))


def _one_way(policy: LRPolicy, budget: int) -> bool:
    """Whether the LR only falls, or only rises, within the budget: half a wave has no cycle."""
    rates = policy(np.unique(np.linspace(0, budget - 1, _LOOKS).astype(int)))
    steps = np.diff(rates)
    return bool(np.all(steps <= 0) or np.all(steps >= 0))
