"""One number for a run, and a ranking of policies that knows the seeds' noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.score import WORST_SCORE

# Two-sided 95 % points of Student's t distribution for 1, 2, ... 30 degrees of freedom.
# fmt: off
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on


def student_t95(degrees_of_freedom: float) -> float:
    """How many standard errors a difference must exceed, at 95 % confidence.

    >>> student_t95(8), round(student_t95(float("inf")), 2)
    (2.306, 1.96)
    """
    if degrees_of_freedom < len(_T95) + 1:
        return _T95[max(1, math.floor(degrees_of_freedom)) - 1]
    return 1.959964 + 2.3722 / degrees_of_freedom  # the series' next term is below 0.004


@dataclass(frozen=True)
class PolicyResult:
    """What one policy reached over its seeds.

    Args:
        policy: the LR policy.
        mean: mean score (or Top-1) over all seeds.
        std: sample standard deviation over the seeds that did not fail; None when unknown.
        n: number of seeds.
        failed: how many of them diverged or failed.

    Raises:
        RecordError: for a mean or deviation that is no finite number, or no seeds.
    """

    policy: LRPolicy
    mean: float
    std: float | None = None
    n: int = 1
    failed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean) or not 0 <= (self.std or 0.0) < math.inf:
            given = f"mean={self.mean}, std={self.std}"
            raise RecordError(f"{given}: expected a finite mean and a deviation of at least 0")
        if not 0 <= self.failed <= self.n or self.n < 1:
            raise RecordError(f"n={self.n}, failed={self.failed}: expected at least one seed")

    @classmethod
    def of(cls, policy: LRPolicy, scores: Sequence[float]) -> PolicyResult:
        """From the score of each seed; `WORST_SCORE` marks a failed one.

        >>> PolicyResult.of(LRPolicy("FIX", k0=0.1), [0.90, 0.92]).n
        2
        """
        good = [score for score in scores if score > WORST_SCORE]
        return cls(
            policy,
            mean=statistics.fmean(scores) if scores else math.nan,
            std=statistics.stdev(good) if len(good) > 1 else None,
            n=len(scores),
            failed=len(scores) - len(good),
        )


def results_by_policy(scores: Iterable[tuple[LRPolicy, float]]) -> list[PolicyResult]:
    """Gather the scores of each policy's seeds; policies with one fingerprint are one policy.

    >>> low, high = LRPolicy("FIX", k0=0.01), LRPolicy("FIX", k0=0.1)
    >>> [result.n for result in results_by_policy([(low, 0.8), (high, 0.9), (low, 0.82)])]
    [2, 1]
    """
    grouped: dict[str, tuple[LRPolicy, list[float]]] = {}
    for policy, value in scores:
        grouped.setdefault(policy.fingerprint, (policy, []))[1].append(value)
    return [PolicyResult.of(policy, values) for policy, values in grouped.values()]


@dataclass(frozen=True)
class Ranked:
    """A policy's place: 1 is best, and policies that cannot be told apart share a place."""

    rank: int
    policy: LRPolicy
    mean: float
    std: float | None
    n: int
    tied_with: tuple[LRPolicy, ...] = ()


def rank_policies(
    results: Iterable[PolicyResult], evaluation_samples: int | None = None
) -> list[Ranked]:
    """Rank policies from best to worst; those within the seeds' noise share a rank (1, 1, 3).

    A policy ties with the best one of its group when

    ``|mean_a - mean_b| <= t95(df) * sqrt(s_a^2 / n_a + s_b^2 / n_b)``

    with Welch's degrees of freedom ``df``. Where a policy has fewer than three seeds, ``s`` is the
    deviation pooled over all policies. Where no policy has two, it is the binomial deviation
    ``sqrt(p (1 - p) / evaluation_samples)`` of one evaluation, or 0 when their number is unknown:
    then only equal means tie. The group is always compared with its best member, so ties do not
    chain from the first policy to the last. A policy with failed seeds never ties with one that
    has fewer of them: divergence is no noise.

    Args:
        results: one entry per policy.
        evaluation_samples: samples in the evaluation split; used when every policy has one seed.

    >>> sin2 = PolicyResult(LRPolicy("SIN2", k0=0.01, k1=0.06, l=2000), 0.9933, 0.0002, 5)
    >>> cos = PolicyResult(LRPolicy("COS", k0=0.01, k1=0.06, l=2000), 0.9932, 0.0004, 5)
    >>> nstep = PolicyResult(LRPolicy("FIX", k0=0.01), 0.9912, 0.0001, 5)
    >>> [(entry.rank, entry.policy.function) for entry in rank_policies([cos, nstep, sin2])]
    [(1, 'SIN2'), (1, 'COS'), (3, 'FIX')]
    """
    ordered = sorted(results, key=lambda result: (-result.mean, result.failed, result.std or 0.0))
    noise = _noise_of(ordered, evaluation_samples)
    groups: list[list[PolicyResult]] = []
    for result in ordered:
        if groups and _tied(groups[-1][0], result, noise):
            groups[-1].append(result)
        else:
            groups.append([result])
    ranked: list[Ranked] = []
    for group in groups:
        rank = len(ranked) + 1
        for index, one in enumerate(group):
            others = tuple(other.policy for i, other in enumerate(group) if i != index)
            ranked.append(Ranked(rank, one.policy, one.mean, one.std, one.n, others))
    return ranked


@dataclass(frozen=True)
class _Noise:
    """The variance of one seed's result where a policy cannot tell its own."""

    variance: float
    degrees_of_freedom: float
    evaluation_samples: int | None

    def of(self, result: PolicyResult) -> tuple[float, float, bool]:
        """Variance of the mean, its degrees of freedom, and whether they are the policy's own."""
        seeds = max(1, result.n - result.failed)
        if seeds >= 3 and result.std is not None:
            return result.std * result.std / seeds, seeds - 1, True
        if self.degrees_of_freedom:
            return self.variance / seeds, self.degrees_of_freedom, False
        share = min(1.0, max(0.0, result.mean))
        samples = self.evaluation_samples
        return (share * (1 - share) / samples if samples else 0.0), math.inf, False


def _noise_of(results: Sequence[PolicyResult], evaluation_samples: int | None) -> _Noise:
    if evaluation_samples is not None and evaluation_samples < 1:
        raise RecordError(f"evaluation_samples={evaluation_samples}: expected at least 1")
    known = [(r.n - r.failed - 1, r.std) for r in results if r.std is not None]
    known = [(degrees, std) for degrees, std in known if degrees > 0]
    total = sum(degrees for degrees, _ in known)
    squares = sum(degrees * std * std for degrees, std in known)
    return _Noise(squares / total if total else 0.0, total, evaluation_samples)


def _tied(best: PolicyResult, other: PolicyResult, noise: _Noise) -> bool:
    if best.failed != other.failed:
        return False
    difference = abs(best.mean - other.mean)
    (var_a, df_a, own_a), (var_b, df_b, own_b) = noise.of(best), noise.of(other)
    if var_a + var_b == 0:
        return difference == 0
    if not own_a and not own_b:  # one estimate serves both
        degrees = df_a
    else:
        part = var_a / (var_a + var_b)  # squares of the variances could underflow
        degrees = 1 / (part**2 / df_a + (1 - part) ** 2 / df_b)
    return difference <= student_t95(degrees) * math.sqrt(var_a + var_b)
