"""What random policies reach on a task: the measure of every search in the transfer benchmark.

A search's own maximum is a lucky seed. So a policy is judged by the mean score of two trainings
with seeds that no search trains with, and so are the random policies it is compared with: the best
64 of the pool at seed 0, and 32 of its 256 others, each of which stands for eight. They are the
same two seeds for all, because some seeds are better for every policy: on digits-mlp-sgd the good
ones reach 0.954 with one pair and 0.950 with another.

The best policy's score is the mean over four more seeds, as the judges' seeds are lucky for it too.
How far these seeds differ from the judges' is measured on policies that neither chose, the best 16
at seed 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.records.ranking import student_t95
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run

FIRST, JUDGES, CONFIRMING = 0, (1, 2), (3, 4, 5, 6)  # training seeds of a pool
BEST = 64  # of the pool by their first seed: all of them are judged, of the others a sample
CONFIRMED = 8  # the best by the judges
FAIR = 16  # the best by their first seed, for the offset
TOP_SHARE = 0.05


def by_policy(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """Scores by the policy's fingerprint and the training seed."""
    scores: dict[str, dict[int, float]] = {}
    for run in runs:
        scores.setdefault(run.policy.fingerprint, {})[run.seed or 0] = score_run(run)
    return scores


def best_judged(runs: Sequence[Run], count: int) -> list[str]:
    """The policies of the highest mean over the judges' seeds."""
    means = {
        key: _mean(seeds, JUDGES)
        for key, seeds in by_policy(runs).items()
        if all(seed in seeds for seed in JUDGES)
    }
    return sorted(means, key=lambda key: -means[key])[:count]


def fair_sample(runs: Sequence[Run]) -> list[str]:
    """Good policies that were chosen by neither judges nor confirming seeds."""
    scores = by_policy(runs)
    order = sorted(scores, key=lambda key: -scores[key][FIRST])
    return order[:FAIR]


@dataclass(frozen=True)
class PoolScores:
    """The scores of a task's random policies.

    Attributes:
        means: judged scores, from low to high.
        weights: how many of the pool's policies each of them stands for.
        best: the best policy's mean over seeds that it was not chosen by, as the judges would
            see it.
        offset: how much more the judges' seeds give than the confirming ones.
        median: median score of all random policies.
        noise: standard deviation of one score between seeds, among the top 5 %.
    """

    means: tuple[float, ...]
    weights: tuple[float, ...]
    best: float
    median: float
    noise: float
    offset: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> PoolScores:
        """From the runs of a pool."""
        scores = by_policy(runs)
        first = [seeds[FIRST] for seeds in scores.values()]
        judged = [s for s in scores.values() if all(seed in s for seed in JUDGES)]
        judged.sort(key=lambda seeds: -seeds[FIRST])
        others = (len(first) - BEST) / (len(judged) - BEST)
        pairs = sorted(
            (_mean(seeds, JUDGES), 1.0 if place < BEST else others)
            for place, seeds in enumerate(judged)
        )
        means, weights = zip(*pairs, strict=True)
        confirmed = {k: _mean(s, CONFIRMING) for k, s in scores.items() if CONFIRMING[0] in s}
        differences = [_mean(scores[key], JUDGES) - confirmed[key] for key in fair_sample(runs)]
        # The median, as one of them may have diverged with one seed.
        offset = statistics.median(differences)
        best = max(confirmed.values()) + offset
        top = _quantile(means, weights, 1 - TOP_SHARE)
        good = [s for s in judged if _mean(s, JUDGES) >= top]
        noise = statistics.fmean(statistics.variance(s[x] for x in JUDGES) for s in good) ** 0.5
        return cls(means, weights, best, statistics.median(first), noise, offset)

    @property
    def top(self) -> float:
        """What one in twenty random policies reaches when it is judged as any other.

        The 95 % quantile of single scores would be higher, as the lucky are among the highest.
        """
        return self.threshold(TOP_SHARE)

    def threshold(self, share: float) -> float:
        """What this share of random policies reaches when they are judged."""
        return _quantile(self.means, self.weights, 1 - share)

    def quantile(self, value: float) -> float:
        """The share of random policies that are worse; of those equal, half."""
        means, weights = np.array(self.means), np.array(self.weights)
        below = weights[means < value].sum() + weights[means == value].sum() / 2
        return float(below / weights.sum())

    def regret(self, value: float, best: float) -> float:
        """0 for the best known, 1 for the median random policy."""
        return (best - value) / (best - self.median)

    def tie_margin(self, seeds: int = len(JUDGES), best_seeds: int = len(CONFIRMING)) -> float:
        """The difference of means up to which a policy is tied with the best (95 %)."""
        return student_t95(math.inf) * self.noise * math.sqrt(1 / seeds + 1 / best_seeds)


def _mean(scores: Mapping[int, float], seeds: Sequence[int]) -> float:
    return statistics.fmean(scores[seed] for seed in seeds)


def _quantile(means: Sequence[float], weights: Sequence[float], share: float) -> float:
    reached = np.cumsum(weights) / np.sum(weights)
    return float(means[int(np.searchsorted(reached, share))])
