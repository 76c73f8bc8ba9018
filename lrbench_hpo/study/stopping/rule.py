"""The rule that stops a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrbench_hpo.errors import StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.study.stopping.chance import MEASURED, MEASURED_AT_EQUAL_STEPS, Weights, chance
from lrbench_hpo.study.stopping.observed import Observed, comparable
from lrbench_hpo.study.stopping.signs import NAMES, Signs, signs


@dataclass(frozen=True)
class StoppingRule:
    """Stops a trial when its iterations are better spent on another one.

    The rule compares probabilities to win per iteration. If n other trials are known, a new one is
    the best of all with a probability of about ``1 / (n + 1)``, and needs a whole budget B. A trial
    that has used a share f of its budget wins with a probability p, and still needs ``(1 - f) B``.
    It is stopped if it promises less per iteration, ``p / (1 - f) < level / (n + 1)``:

    ``p < level * (1 - f) / (n + 1)``

    p is predicted from how far the trial is behind, how fast it gains, and what the others had
    reached by the same share of the budget (`signs`, `chance`). Trials are compared at equal shares
    of the budget, as in successive halving (Li et al. 2020, ASHA, arXiv 1810.05934), but at LR
    minima only. The probability takes the place of a rung's fixed quota.

    At level 1 a new trial counts as much as those before it did. After a warm start it is worse:
    the first trials are near the best already. So the default is lower.

    Args:
        level: how much a new trial counts; lower values stop fewer trials.
        known: how many others must have reached a trial's share of the budget before it is judged.
        patience: the share of the budget that every trial gets.
        margin: how many standard deviations of noise a trial must be behind the best.
        weights: one for each of `signs.NAMES`; those learnt from measured curves when None.
        minima_only: whether cyclic policies are judged at their LR minima only. With False every
            evaluation counts, which suits searches that evaluate at equal shares of the budget.

    Raises:
        StudyError: for a value out of its range.

    >>> from lrbench_hpo.policies import LRPolicy
    >>> def fixed(lr, *values):
    ...     times = tuple(range(10, 10 * len(values) + 10, 10))
    ...     return Observed(LRPolicy("FIX", k0=lr), 100, times, values, len(values) == 10)
    >>> good = [fixed(0.1 + i / 50, *(0.9 - 0.6 / t for t in range(1, 11))) for i in range(4)]
    >>> bad = fixed(1e-5, 0.1, 0.1, 0.11)
    >>> StoppingRule().should_stop(bad, good), StoppingRule().should_stop(good[0], [bad])
    (True, False)
    """

    level: float = 0.4
    known: int = 3
    patience: float = 0.0
    margin: float = 1.0
    weights: Weights | None = None
    minima_only: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("level", 0.0, math.inf),
            ("known", 1, math.inf),
            ("patience", 0.0, 1.0),
            ("margin", 0.0, math.inf),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise StudyError(f"{name}={value!r}: expected a number from {low:g} to {high:g}")
        if not isinstance(self.minima_only, bool):
            raise StudyError(f"minima_only={self.minima_only!r}: expected True or False")
        if self.weights is not None and len(self.weights) != len(NAMES):
            raise StudyError(
                f"{len(self.weights)} weights: expected {len(NAMES)}, for {', '.join(NAMES)}"
            )

    def should_stop(
        self, trial: Observed, others: Sequence[Observed], *, noise: float = 0.0
    ) -> bool:
        """Whether to stop a trial at its last evaluation.

        Args:
            trial: the trial, evaluated just now.
            others: the other trials of the search: finished, stopped and under way.
            noise: standard deviation of a value between evaluations or seeds.
        """
        if trial.finished or not trial.values or not math.isfinite(trial.values[-1]):
            return False
        if trial.share >= 1 or trial.share < self.patience - 1e-9:
            return False
        if not self.judges(trial.policy, trial.iterations[-1], trial.max_iterations):
            return False
        others = [other for other in others if math.isfinite(other.best)]
        # Too few to compare with: others that stopped earlier do not count.
        if sum(o.finished or o.share >= trial.share - 1e-9 for o in others) < self.known:
            return False
        # Within the noise of the best: the evaluation alone may have decided which is ahead.
        if trial.best >= max(other.best for other in others) - self.margin * noise:
            return False
        seen = signs(trial, others)
        if seen is None:
            return False
        return self.chance(seen) < self.level * (1 - trial.share) / (len(others) + 1)

    def judges(self, policy: LRPolicy, iteration: int, max_iterations: int) -> bool:
        """Whether an evaluation after so many updates counts.

        Args:
            policy: the trial's LR policy.
            iteration: updates made so far.
            max_iterations: the budget, in iterations.
        """
        return not self.minima_only or comparable(policy, iteration, max_iterations)

    def chance(self, seen: Signs) -> float:
        """The probability that a trial with these signs beats all others."""
        measured = MEASURED if self.minima_only else MEASURED_AT_EQUAL_STEPS
        return chance(tuple(measured.values()) if self.weights is None else self.weights, seen)
