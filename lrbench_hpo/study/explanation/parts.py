"""Reads what a sampler stored about its suggestion in the trial's user attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HIGHEST = 1e100  # whole numbers may be longer than any float


@dataclass(frozen=True)
class Leaning:
    """A similar task that a suggestion relied on.

    Attributes:
        task: ``dataset/model``.
        weight: its posterior weight, in [0, 1]; the weights of a suggestion sum to at most 1.
        similarity: to the study's task, from metadata, in [0, 1].
        agreement: rank correlation of its predictions with the study's results, in [-1, 1].
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
        chance: probability of beating the best so far.
    """

    score: float | None
    low: float | None
    high: float | None
    mean: float | None
    spread: float | None
    chance: float | None


def number(reason: Mapping[str, Any], name: str) -> float | None:
    """Read a finite number from trial attributes, which users can overwrite; None if malformed.

    Args:
        reason: what the sampler stored.
        name: key of the number.

    >>> number({"mean": -0.5, "row": "?"}, "mean"), number({"row": "?"}, "row")
    (-0.5, None)
    """
    value = reason.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= _HIGHEST else None  # NaN is not


def leanings(tasks: object) -> tuple[Leaning, ...]:
    """The similar tasks of a suggestion, the largest weight first.

    Args:
        tasks: as the sampler stored them.
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


def expectation(reason: Mapping[str, Any]) -> Expectation:
    """What a sampler expected of its suggestion.

    Args:
        reason: what it stored.
    """
    mean, spread = number(reason, "mean"), number(reason, "spread")
    chance = number(reason, "chance")
    if chance is None and mean is not None and spread is not None and spread > 0:
        # P(f > 0) of a normal f: the best so far has the log regret 0.
        chance = 0.5 * (1 + math.erf(mean / spread / math.sqrt(2)))
    low, high = number(reason, "low"), number(reason, "high")
    return Expectation(number(reason, "expected_score"), low, high, mean, spread, chance)
