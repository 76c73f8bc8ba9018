"""The similar tasks' opinions in one: weighted by metadata, then by agreement with results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array
from lrbench_hpo.prior.surrogate.source import Source

_NOBODY = 0.15  # probability, before any result, that no similar task says anything
_MISFIT, _NOBODYS_MISFIT = 1.0, 1.6  # how far off a useful source is, and knowing nothing
_OFFSET = 1.5  # how far the best known so far may be from the best there is
_CAUTION = 0.25  # results near each other say the same twice
_NEGLIGIBLE = 0.003  # weight


@dataclass(frozen=True)
class Expert:
    """One similar task, its LRs read in one unit.

    Attributes:
        source: the task.
        shift: decades from its LRs to the new task's.
        prior: its probability before any result.
    """

    source: Source
    shift: float
    prior: float


@dataclass(frozen=True)
class Opinion:
    """What the experts say of some policies.

    Attributes:
        mean: expected log regret, as far as it is believed.
        spread: how much they disagree.
        risk: probability of divergence.
    """

    mean: Array
    spread: Array
    risk: Array


class Experts:
    """All sources in all units, and how far each is believed.

    Args:
        sources: similar tasks.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        total = sum(source.weight for source in sources) or 1.0
        self.experts = tuple(
            Expert(source, shift, (1 - _NOBODY) * source.weight / total * probability)
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

    def say(self, features: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """Log regrets and probabilities of divergence, one row an expert, one column a policy.

        Args:
            features: of the policies.
            weights: how far each expert is believed; those of no account need not be asked.
        """
        told, risks = np.zeros((2, len(self.experts), len(features)))
        heeded = np.ones(len(self.experts), bool) if weights is None else weights > _NEGLIGIBLE
        for source, rows in self.by_source:
            asked = rows[heeded[rows]]
            if asked.size:
                told[asked], risks[asked] = source.surface.say(features, self._shifts[asked])
        if weights is not None and heeded.any() and not heeded.all():
            # Taken to agree with the others: saying 0, the best there is, they would be heard.
            shares = weights[heeded] / weights[heeded].sum()
            told[~heeded], risks[~heeded] = shares @ told[heeded], shares @ risks[heeded]
        return told, risks

    def weights(self, said: Array, values: Array) -> Array:
        """How far each is believed, given results; what is left of 1 believes nobody.

        The posterior of a model in which a source's prediction is off by a constant, the same
        for all policies, and by independent errors.

        Args:
            said: what the experts say of the policies with results.
            values: the log regrets of these.
        """
        if not len(values):
            return self.priors
        rows = np.vstack([said, np.zeros(len(values))])
        misfits = np.array([*[_MISFIT] * len(said), _NOBODYS_MISFIT])
        errors = values - rows
        sums, count = errors.sum(axis=1), len(values)
        squares = (errors**2).sum(axis=1) - sums**2 / (count + (misfits / _OFFSET) ** 2)
        # The determinant of misfit^2 I + offset^2 1 1^T.
        spreads = count * np.log(misfits) + 0.5 * np.log1p(count * (_OFFSET / misfits) ** 2)
        log_likelihood = -_CAUTION * (0.5 * squares / misfits**2 + spreads)
        log_weights = np.log([*self.priors, _NOBODY]) + log_likelihood
        weights = np.exp(log_weights - log_weights.max())
        believed: Array = (weights / weights.sum())[:-1]
        return believed

    def opinion(self, said: Array, risks: Array, weights: Array) -> Opinion:
        """The weighted mean of what they say."""
        mean = weights @ said
        spread = np.sqrt(weights @ (said - mean) ** 2) if len(said) else np.zeros(said.shape[1])
        return Opinion(mean, spread, weights @ risks)
