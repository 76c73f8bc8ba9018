"""Mixture of source-task surrogates, weighted by similarity and by agreement with results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array
from lrbench_hpo.prior.surrogate.source import Source

PRIOR_NO_TRANSFER = 0.15  # prior probability that no source task transfers
# Standard deviations of a result around a prediction, in log regret.
ERROR_OF_EXPERT = 1.0  # of an expert's prediction
ERROR_WITHOUT_TRANSFER = 1.6  # of the prediction 0 for every policy, where no task transfers
OFFSET_DEVIATION = 1.5  # log regret between the best value known so far and the best there is
LIKELIHOOD_POWER = 0.25  # below 1, as results of similar policies are not independent
_NEGLIGIBLE_WEIGHT = 0.003  # experts below it are not evaluated


@dataclass(frozen=True)
class Expert:
    """One reading of one source task: its LRs multiplied by a constant.

    Attributes:
        source: the source task.
        shift: decades from its LRs to the new task's.
        prior: probability before any result that this reading predicts the new task.
    """

    source: Source
    shift: float
    prior: float


@dataclass(frozen=True)
class Mixture:
    """The weighted prediction of all experts for some policies.

    Attributes:
        mean: expected log regret. Weights that sum to less than 1 pull it towards 0, the
            prediction without transfer.
        spread: how far the experts disagree, ``sqrt(sum_j w_j (m_j - mean)^2)``.
        risk: probability of divergence.
    """

    mean: Array
    spread: Array
    risk: Array


class Experts:
    """All source tasks in all readings of their LRs, and the weight of each.

    Args:
        sources: source tasks.
    """

    # One expert is one pair of source task and shift of its LRs:
    #
    #     prior(task, shift) = (1 - PRIOR_NO_TRANSFER) * weight(task) / sum(weights) * P(shift).
    #
    # The shift is a hypothesis like the task, because curves of two tasks agree only once the LRs
    # of one are multiplied by the right factor (rank correlation 0.9; down to -0.4 without it, see
    # docs/sampler.md). The remaining PRIOR_NO_TRANSFER belongs to the hypothesis that no task
    # transfers; it gains probability where all experts are wrong, so that they can be dropped.

    def __init__(self, sources: Sequence[Source]) -> None:
        total = sum(source.weight for source in sources) or 1.0
        self.experts = tuple(
            Expert(source, shift, (1 - PRIOR_NO_TRANSFER) * source.weight / total * probability)
            for source in sources
            for shift, probability in source.shifts
        )
        self.priors = np.array([expert.prior for expert in self.experts])
        self._shifts = np.array([expert.shift for expert in self.experts])
        owners = [expert.source for expert in self.experts]
        self.by_source = [
            (source, np.array([row for row, owner in enumerate(owners) if owner is source], int))
            for source in sources
        ]

    def predict(self, features: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """Predict log regrets and probabilities of divergence.

        Args:
            features: of the policies, one a row.
            weights: of the experts; those of negligible weight are then not evaluated.

        Returns:
            Log regrets and probabilities, one row an expert, one column a policy.
        """
        means, risks = np.zeros((2, len(self.experts), len(features)))
        counted = np.ones(len(self.experts), bool)
        if weights is not None:
            counted = weights > _NEGLIGIBLE_WEIGHT
        for source, rows in self.by_source:
            some = rows[counted[rows]]
            if some.size:
                means[some], risks[some] = source.surface.predict(features, self._shifts[some])
        if weights is not None and counted.any() and not counted.all():
            # The experts left out get the mean of the others: 0 would stand for the best there is.
            shares = weights[counted] / weights[counted].sum()
            means[~counted], risks[~counted] = shares @ means[counted], shares @ risks[counted]
        return means, risks

    # Posterior probabilities of the experts, by Bayesian model averaging (Hoeting et al. 1999,
    # Statistical Science 14(4)) with a tempered likelihood:
    #
    #     w_j ~ prior_j * p(y | expert j)^LIKELIHOOD_POWER,    sum_j w_j + w_none = 1.
    #
    # Given expert j with the predictions m_j of the n tried policies, their log regrets are
    #
    #     y_i = m_ji + b + e_i,    b ~ N(0, o^2),    e_i ~ N(0, s_j^2),
    #
    # independent of each other. The hypothesis "no transfer" is one more row with m = 0 and a
    # larger s. The offset b is there because y is measured against the best value known so far,
    # while m is measured against the best there is: a source that ranks all policies rightly must
    # not lose weight for that. b is integrated out, so r = y - m_j is normal with the covariance
    # C = s^2 I + o^2 1 1^T, and by Sherman-Morrison and the determinant lemma
    #
    #     r^T C^-1 r = (sum r_i^2 - (sum r_i)^2 / (n + s^2 / o^2)) / s^2,
    #     1/2 log det C = n log s + 1/2 log(1 + n o^2 / s^2).
    #
    # The power is below 1 because errors at similar policies are alike: n results count for fewer
    # independent ones. Feurer et al. 2018 (arXiv 1802.02219) weight the same kind of mixture by how
    # often each model ranks the results best; a likelihood also uses the sizes of the differences.

    def weights(self, means: Array, values: Array) -> Array:
        """Posterior weights of the experts given results; the rest of 1 is "no transfer".

        Args:
            means: the experts' predictions of the tried policies, one row an expert.
            values: the log regrets of these policies.
        """
        if not len(values):
            return self.priors
        rows = np.vstack([means, np.zeros(len(values))])
        deviations = np.array([*[ERROR_OF_EXPERT] * len(means), ERROR_WITHOUT_TRANSFER])
        errors = values - rows
        sums, count = errors.sum(axis=1), len(values)
        squares = (errors**2).sum(axis=1) - sums**2 / (count + (deviations / OFFSET_DEVIATION) ** 2)
        half_log_determinants = count * np.log(deviations) + 0.5 * np.log1p(
            count * (OFFSET_DEVIATION / deviations) ** 2
        )
        log_likelihood = -LIKELIHOOD_POWER * (0.5 * squares / deviations**2 + half_log_determinants)
        log_weights = np.log([*self.priors, PRIOR_NO_TRANSFER]) + log_likelihood
        # The largest is subtracted before the exponential, so that not all of them underflow.
        weights = np.exp(log_weights - log_weights.max())
        posterior: Array = (weights / weights.sum())[:-1]
        return posterior

    def mixture(self, means: Array, risks: Array, weights: Array) -> Mixture:
        """Combine predictions: their weighted mean, and how much they disagree.

        Args:
            means: predicted log regrets, one row an expert, one column a policy.
            risks: predicted probabilities of divergence, likewise.
            weights: of the experts.
        """
        mean = weights @ means
        spread = np.sqrt(weights @ (means - mean) ** 2) if len(means) else np.zeros(means.shape[1])
        return Mixture(mean, spread, weights @ risks)
