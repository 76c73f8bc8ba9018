"""What one task's runs say about all policies: a surrogate of its results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrbench_hpo.prior.surrogate.embedding import direction, embedded
from lrbench_hpo.prior.surrogate.process import Array, kernel, squared_distances
from lrbench_hpo.prior.surrogate.scale import log_regret

WIDTH, AMPLITUDE, NOISE = 1.1, 1.5, 0.8
_UNIT = 0.025  # of what lies between the best run and the worst quarter
_LEAST_UNIT = 2e-3
_NEVER_SURE = 0.5  # even the same task says not everything
_FEW = 3  # runs that are believed by half
_UNTRIED = -3.0  # log regret
_NO_RUN = 0.5  # of a run that did not diverge, wherever there is none
_DIVERGED = 1.0  # below the worst run that did not diverge


@dataclass(frozen=True)
class Surface:
    """The runs of a task and, between them, a Gaussian process of their log regret.

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

    @cached_property
    def unit(self) -> float:
        """A difference in score that just matters on this task."""
        known = self.scores[np.isfinite(self.scores)]
        if known.size < 2:
            return _LEAST_UNIT
        return max(_LEAST_UNIT, _UNIT * float(known.max() - np.quantile(known, 0.25)))

    @cached_property
    def values(self) -> Array:
        """The runs' scores as log regrets, diverged ones below all others."""
        known = self.scores[np.isfinite(self.scores)]
        best = float(known.max()) if known.size else 0.0
        values = log_regret(self.scores, best, self.unit)
        below: Array = values - _DIVERGED * self.diverged
        return below

    @cached_property
    def _points(self) -> Array:
        return embedded(self.features)

    @cached_property
    def _model(self) -> tuple[float, Array]:
        """What is expected where nobody has tried anything, and the weights of the runs."""
        # One expects little there: people try what they think is good.
        middle = min(float(self.values.mean()), _UNTRIED)
        covariance = AMPLITUDE**2 * kernel(self._points, self._points, WIDTH)
        covariance[np.diag_indices_from(covariance)] += NOISE**2
        weights = np.linalg.solve(covariance, self.values - middle)
        return middle, np.asarray(weights, np.float64)

    def predict(self, features: Array) -> Array:
        """Expected log regrets of policies, one a row of features."""
        means, _ = self.say(features, np.zeros(1))
        found: Array = means[0]
        return found

    def say(self, features: Array, shifts: Array) -> tuple[Array, Array]:
        """What the runs say of policies, for each way to read the LRs.

        Args:
            features: of the policies, one a row.
            shifts: decades that the LRs of the runs are multiplied by.

        Returns:
            Expected log regrets, and the share of the runs near each policy that diverged: one
            row a shift, one column a policy.
        """
        middle, weights = self._model
        points, along = embedded(features), direction(features.shape[1])
        # |p - shift along - q|^2, of which only the last two terms depend on the shift.
        apart = squared_distances(points, self._points)
        ahead = (points @ along)[:, None] - (self._points @ along)[None, :]
        means, risks = np.empty((2, len(shifts), len(features)))
        diverged = self.diverged if self.diverged.any() else None
        for row, shift in enumerate(shifts):
            near = apart - 2 * shift * ahead + shift**2 * (along @ along)
            near *= -0.5 / WIDTH**2
            np.exp(near, out=near)
            means[row] = middle + AMPLITUDE**2 * (near @ weights)
            risks[row] = 0.0 if diverged is None else _share(near, diverged)
        return means, risks

    @cached_property
    def best_constant(self) -> float:
        """Decades of the constant LR that the surrogate expects most of."""
        decades = np.linspace(-7.0, 2.0, 181)
        low, high = self.features.min(), self.features.max()
        decades = decades[(decades >= low) & (decades <= high)]
        if not decades.size:
            return float(self.features.mean())
        constant = np.repeat(decades[:, None], self.features.shape[1], axis=1)
        return float(decades[self.predict(constant).argmax()])


def _share(near: Array, diverged: Array) -> Array:
    """The share of diverged runs near each policy, by a kernel of half the width."""
    nearer = near**4
    share: Array = (nearer @ diverged) / (nearer.sum(axis=1) + _NO_RUN)
    return share


@dataclass(frozen=True)
class Source:
    """A similar task: its surface, and how its LRs may relate to the new task's.

    Attributes:
        name: ``dataset/model``, for people.
        similarity: to the new task, from metadata, in (0, 1].
        surface: what its runs showed, in its own LRs.
        shifts: decades that its LRs may have to be multiplied by, each with its probability.
        trust: how far its runs are taken for what they would be here, in (0, 1].
    """

    name: str
    similarity: float
    surface: Surface
    shifts: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    trust: float = 1.0

    @property
    def weight(self) -> float:
        """How much it is heeded beside other sources, before there are results."""
        runs = len(self.surface.scores)
        odds = self.similarity / (1 - self.similarity + _NEVER_SURE)
        return odds * self.trust * runs / (runs + _FEW)
