"""A trial's values so far, and where they can be compared with those of others."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import rung_at
from lrbench_hpo.records.score import evaluation_noise


@dataclass(frozen=True)
class Observed:
    """A trial's values at its evaluations, which fall on its policy's LR minima.

    Values that are not finite are ignored. For a trial that diverged, pass its values up to then,
    or leave the trial out.

    Args:
        policy: its LR policy.
        max_iterations: its budget, in iterations.
        iterations: those after which it was evaluated, in order.
        values: its score or metric there, larger is better.
        finished: whether its budget is used up.

    Raises:
        RecordError: for iterations that are out of order or beyond the budget, or not as many as
            values.

    >>> trial = Observed(LRPolicy("FIX", k0=0.1), 100, (10, 20), (0.5, 0.4), finished=False)
    >>> trial.share, trial.best, trial.at(0.15)
    (0.2, 0.5, 0.5)
    """

    policy: LRPolicy
    max_iterations: int
    iterations: tuple[int, ...]
    values: tuple[float, ...]
    finished: bool

    def __post_init__(self) -> None:
        if len(self.iterations) != len(self.values):
            given = f"{len(self.iterations)} iterations and {len(self.values)} values"
            raise RecordError(f"{given}: expected one value for each evaluation")
        ordered = all(a < b for a, b in zip(self.iterations, self.iterations[1:], strict=False))
        if not ordered or (self.iterations and self.iterations[-1] > self.max_iterations):
            raise RecordError(
                f"iterations={self.iterations}: expected increasing numbers, up to "
                f"max_iterations={self.max_iterations}"
            )

    @property
    def share(self) -> float:
        """The share of the budget that was used at the last evaluation."""
        return self.iterations[-1] / self.max_iterations if self.iterations else 0.0

    @cached_property
    def best_so_far(self) -> tuple[float, ...]:
        """The highest value up to each evaluation; minus infinity before there is one."""
        finite = (value if math.isfinite(value) else -math.inf for value in self.values)
        return tuple(accumulate(finite, max))

    @property
    def best(self) -> float:
        """The highest value; minus infinity before there is one."""
        return self.best_so_far[-1] if self.values else -math.inf

    @cached_property
    def first(self) -> float:
        """The first finite value; minus infinity before there is one."""
        return next((value for value in self.values if math.isfinite(value)), -math.inf)

    def at(self, share: float) -> float:
        """The highest value at or before a share of the budget; minus infinity before one."""
        place = bisect_right(self.iterations, share * self.max_iterations + 1e-9)
        return self.best_so_far[place - 1] if place else -math.inf


def comparable(policy: LRPolicy, iteration: int, max_iterations: int) -> bool:
    """Whether a trial can be compared with others after so many updates.

    At a high LR the loss is higher than it will be once the LR falls. So a policy whose LR falls
    and rises again is comparable at its LR minima and at the end of the budget only. Any other is
    comparable at any time, including one whose LR only rises or only falls within this budget.

    Args:
        policy: the trial's LR policy.
        iteration: updates made so far.
        max_iterations: the budget, in iterations.

    >>> triangle = LRPolicy("TRI", k0=0.01, k1=0.06, l=1000)
    >>> [comparable(triangle, iteration, 5000) for iteration in (1000, 2000, 5000)]
    [False, True, True]
    """
    if iteration >= max_iterations:
        return True
    inside, anywhere = _judged(policy, max_iterations)
    return anywhere or iteration in inside


@lru_cache(maxsize=256)
def _judged(policy: LRPolicy, max_iterations: int) -> tuple[frozenset[int], bool]:
    """The LR minima within the budget, and whether a trial may be compared anywhere."""
    inside = frozenset(m for m in policy.minima(max_iterations) if m < max_iterations)
    # A policy with one cycle in the budget is evaluated at its end alone: before it, the LR is on
    # its way up or down. One without any cycle is evaluated at equal parts of the budget.
    return inside, not inside and len(policy.evaluation_points(max_iterations, limit=2)) > 1


def rung(policy: LRPolicy, iteration: int, max_iterations: int) -> int | None:
    """The rung of a trial: whole tenths of its budget, where it is comparable.

    A scheduler that compares trials at equal rungs compares them at LR minima.

    Args:
        policy: the trial's LR policy.
        iteration: updates made so far.
        max_iterations: the budget, in iterations.

    Returns:
        0 to 10; None between minima, where the trial is comparable with no other.

    >>> triangle = LRPolicy("TRI", k0=0.01, k1=0.06, l=1000)
    >>> [rung(triangle, iteration, 5000) for iteration in (1000, 2000, 4000, 5000)]
    [None, 4, 8, 10]
    """
    if not comparable(policy, iteration, max_iterations):
        return None
    return rung_at(min(iteration, max_iterations), max_iterations)


def noise_of_best(others: Iterable[Observed], samples: int | None) -> float:
    """Standard deviation of one evaluation of the best value; 0 if that is no share of samples.

    Args:
        others: the trials.
        samples: the number of samples that they are evaluated on; None if unknown.
    """
    return evaluation_noise(max((other.best for other in others), default=math.nan), samples)
