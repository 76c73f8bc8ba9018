"""What a sampler said of its suggestion, read from where it left it: the trial's attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HIGHEST = 1e100  # whole numbers may be longer than any float


@dataclass(frozen=True)
class Leaning:
    """A similar task that a suggestion leaned on.

    Attributes:
        task: ``dataset/model``.
        weight: how far it was believed, in [0, 1]; all weights of a suggestion sum to at most 1.
        similarity: to the study's task, from metadata, in [0, 1].
        agreement: of its ranking of policies with the study's own results, in [-1, 1].
    """

    task: str
    weight: float
    similarity: float | None
    agreement: float | None


@dataclass(frozen=True)
class Expectation:
    """What was expected of a policy before it was tried.

    Attributes:
        score: in the study's own unit.
        low: lower end of the range that it was expected in.
        high: upper end.
        mean: expected log regret, ``-log(1 + (best so far - score) / unit)``.
        spread: its standard deviation.
        chance: probability to beat the best so far.
    """

    score: float | None
    low: float | None
    high: float | None
    mean: float | None
    spread: float | None
    chance: float | None


def number(said: Mapping[str, Any], name: str) -> float | None:
    """A finite number among what a sampler said; None for anything else that is written there.

    Args:
        said: what was said.
        name: of the number.

    >>> number({"mean": -0.5, "row": "?"}, "mean"), number({"row": "?"}, "row")
    (-0.5, None)
    """
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= _HIGHEST else None  # NaN is not


def leanings(tasks: object) -> tuple[Leaning, ...]:
    """The similar tasks of a suggestion, the most believed first.

    Args:
        tasks: as the sampler wrote them.
    """
    entries = tasks if isinstance(tasks, Sequence) and not isinstance(tasks, str) else ()
    found = [
        Leaning(
            str(entry.get("task", "?")),
            number(entry, "weight") or 0.0,
            number(entry, "similarity"),
            number(entry, "agreement"),
        )
        for entry in entries
        if isinstance(entry, Mapping)
    ]
    return tuple(sorted(found, key=lambda leaning: -leaning.weight))


def expectation(said: Mapping[str, Any]) -> Expectation:
    """What a sampler expected of its suggestion.

    Args:
        said: what it said of it.
    """
    mean, spread = number(said, "mean"), number(said, "spread")
    chance = number(said, "chance")
    if chance is None and mean is not None and spread is not None and spread > 0:
        # The best so far has the log regret 0.
        chance = 0.5 * (1 + math.erf(mean / spread / math.sqrt(2)))
    low, high = number(said, "low"), number(said, "high")
    return Expectation(number(said, "expected_score"), low, high, mean, spread, chance)
