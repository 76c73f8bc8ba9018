"""The surrogate of one source task: a Gaussian process fitted to the results of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrbench_hpo.prior.surrogate.embedding import direction, embedded
from lrbench_hpo.prior.surrogate.process import Array, kernel, squared_distances
from lrbench_hpo.prior.surrogate.scale import log_regret

# Of the Gaussian process over a task's runs.
WIDTH = 1.1  # of the kernel, in units of `embedding.embedded`
AMPLITUDE = 1.5  # prior standard deviation of a policy's log regret
NOISE = 0.8  # standard deviation of one run's log regret

_UNIT_SHARE = 0.025  # of the range between the best run and the worst quarter: the unit of regret
_LEAST_UNIT = 2e-3  # in the score's unit: two thousandths, where all runs are equally good
_MEAN_UNTRIED = -3.0  # log regret expected far from all runs, at most
_DIVERGED_PENALTY = 1.0  # log regret of a diverged run below the worst one that finished
_PSEUDO_RUN = 0.5  # weight of a finished run that is assumed at every policy
_DOUBT_IN_SAME_TASK = 0.5  # in the odds of similarity: keeps them finite for the same task
_RUNS_FOR_HALF_WEIGHT = 3


@dataclass(frozen=True)
class Surface:
    """The runs of a task, and a Gaussian process on their log regrets.

    Attributes:
        features: decades of LR over equal parts of the budget, one run a row.
        scores: the runs' scores; NaN where a run diverged.
    """

    features: Array
    scores: Array

    @property
    def diverged(self) -> Array:
        """1 where a run diverged, else 0."""
        return np.isnan(self.scores).astype(np.float64)

    # unit = max(0.002, 0.025 * (best - 25 % quantile of the scores)).
    # A score difference of 0.01 is much on one task and nothing on another, so each task's regrets
    # are measured in a unit of its own. The lower quartile stands for a poor run; the minimum would
    # let one network that learnt nothing set the unit.

    @cached_property
    def unit(self) -> float:
        """The smallest score difference that matters on this task."""
        known = self.scores[np.isfinite(self.scores)]
        if known.size < 2:
            return _LEAST_UNIT
        return max(_LEAST_UNIT, _UNIT_SHARE * float(known.max() - np.quantile(known, 0.25)))

    @cached_property
    def values(self) -> Array:
        """The runs' scores as log regrets, diverged ones below all others."""
        known = self.scores[np.isfinite(self.scores)]
        best = float(known.max()) if known.size else 0.0
        values = log_regret(self.scores, best, self.unit)
        below: Array = values - _DIVERGED_PENALTY * self.diverged
        return below

    @cached_property
    def _points(self) -> Array:
        return embedded(self.features)

    # Gaussian process regression (Rasmussen & Williams 2006, section 2.2) on n runs at the points X
    # with the log regrets y:
    #
    #     m(x) = mu + k(x, X) alpha,    alpha = (K + NOISE^2 I)^-1 (y - mu),
    #     k(x, x') = AMPLITUDE^2 exp(-|x - x'|^2 / (2 WIDTH^2)).
    #
    # mu = min(mean(y), -3) is the prediction far from all runs. Runs are a biased sample, because
    # users try what they expect to be good: a policy unlike any tried one is assumed to be poor.
    # The variance is not computed: how far a source task is right about the new task is uncertain
    # in a way its own runs cannot show, and `experts.Experts` learns it from the study's results.

    @cached_property
    def _model(self) -> tuple[float, Array]:
        """The mean far from all runs (mu), and the weights of the runs (alpha)."""
        middle = min(float(self.values.mean()), _MEAN_UNTRIED)
        covariance = AMPLITUDE**2 * kernel(self._points, self._points, WIDTH)
        covariance[np.diag_indices_from(covariance)] += NOISE**2
        weights = np.linalg.solve(covariance, self.values - middle)
        return middle, np.asarray(weights, np.float64)

    def mean(self, features: Array) -> Array:
        """Expected log regrets of policies, one a row of features, in the task's own LRs."""
        means, _ = self.predict(features, np.zeros(1))
        expected: Array = means[0]
        return expected

    # Reading the runs' LRs multiplied by 10^s moves all their points by s d, where d is
    # `embedding.direction`. With p a policy's point and q a run's,
    #
    #     |p - (q + s d)|^2 = |p - q|^2 - 2 s d.(p - q) + s^2 d.d,
    #
    # so the n x m distances are computed once and each shift costs one update and one exponential.
    # alpha does not change: all runs move together, and K depends on their differences only.

    def predict(self, features: Array, shifts: Array) -> tuple[Array, Array]:
        """Predict the log regret and the risk of policies, for each reading of the task's LRs.

        Args:
            features: of the policies, one a row.
            shifts: decades that the LRs of the runs are multiplied by.

        Returns:
            Expected log regrets, and the share of the runs near each policy that diverged: one
            row a shift, one column a policy.
        """
        middle, weights = self._model
        points, along = embedded(features), direction(features.shape[1])
        apart = squared_distances(points, self._points)
        ahead = (points @ along)[:, None] - (self._points @ along)[None, :]
        means, risks = np.empty((2, len(shifts), len(features)))
        diverged = self.diverged if self.diverged.any() else None
        for row, shift in enumerate(shifts):
            near = apart - 2 * shift * ahead + shift**2 * (along @ along)
            near *= -0.5 / WIDTH**2
            np.exp(near, out=near)
            means[row] = middle + AMPLITUDE**2 * (near @ weights)
            risks[row] = 0.0 if diverged is None else _diverged_share(near, diverged)
        return means, risks

    @cached_property
    def best_constant(self) -> float:
        """log10 of the constant LR with the highest expected log regret, within the LRs tried."""
        decades = np.linspace(-7.0, 2.0, 181)
        low, high = self.features.min(), self.features.max()
        decades = decades[(decades >= low) & (decades <= high)]
        if not decades.size:
            return float(self.features.mean())
        constant = np.repeat(decades[:, None], self.features.shape[1], axis=1)
        return float(decades[self.mean(constant).argmax()])


# Kernel estimate of the probability of divergence (Nadaraya-Watson, with a pseudo-count):
#
#     risk(p) = sum_i k'(p, q_i) [run i diverged] / (sum_i k'(p, q_i) + 0.5).
#
# k' has half the width of the process's kernel: k' = (k / AMPLITUDE^2)^4, because
# exp(-d^2 / (2 (w/2)^2)) = exp(-d^2 / (2 w^2))^4. The 0.5 is the weight of a finished run that is
# assumed at every policy: without it, a single diverged run would make divergence certain at any
# distance.


def _diverged_share(near: Array, diverged: Array) -> Array:
    """The share of diverged runs near each policy."""
    nearer = near**4
    share: Array = (nearer @ diverged) / (nearer.sum(axis=1) + _PSEUDO_RUN)
    return share


@dataclass(frozen=True)
class Source:
    """A source task: its surrogate, and how its LRs may relate to the new task's.

    Attributes:
        name: ``dataset/model``, for output.
        similarity: to the new task, from metadata, in (0, 1].
        surface: the surrogate of its runs, in its own LRs.
        shifts: decades that its LRs may have to be multiplied by, each with its probability.
        trust: factor for the origin of its runs and for another budget, in (0, 1].
    """

    name: str
    similarity: float
    surface: Surface
    shifts: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    trust: float = 1.0

    # weight = s / (1 - s + 0.5) * trust * n / (n + 3), with s the similarity and n the runs.
    # Like the odds s / (1 - s), the first factor falls faster than s: 2 at s = 1, 1.5 at 0.9, 0.5
    # at 0.5. The 0.5 keeps it finite and grants that even the same task does not predict all.
    # n / (n + 3) halves the weight of a task with three runs, of which a surrogate can know little.

    @property
    def weight(self) -> float:
        """The unnormalised prior weight of this source among all sources."""
        runs = len(self.surface.scores)
        odds = self.similarity / (1 - self.similarity + _DOUBT_IN_SAME_TASK)
        return odds * self.trust * runs / (runs + _RUNS_FOR_HALF_WEIGHT)
