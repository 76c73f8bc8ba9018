"""The next policy to try, from the results of source tasks and the study's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.surrogate.acquisition import chance_above, expected_improvement
from lrbench_hpo.prior.surrogate.candidates import Candidate, Pool, drawn, near
from lrbench_hpo.prior.surrogate.embedding import embedded
from lrbench_hpo.prior.surrogate.experts import Experts
from lrbench_hpo.prior.surrogate.own import WIDTH, OwnResults
from lrbench_hpo.prior.surrogate.process import Array, kernel
from lrbench_hpo.prior.surrogate.scale import log_regret, rank_correlation
from lrbench_hpo.prior.surrogate.source import Source

POOL = 600  # random policies that all suggestions choose from
STRIPES = 4  # parts of the pool; trials that start together choose from different ones
LOCAL = 16  # variations of the best policies, new for each suggestion
_PARENTS = 4  # policies that are varied
_RANKED_RESULTS = 3  # results, from which on rankings are compared
EXPLORE_EVERY, FIRST_EXPLORATION = 7, 5  # trials that use no source task
_EXPLORED = EXPLORE_EVERY + 1  # trials, at least one of which explored
_WIDTH_TRIED, _WIDTH_BUSY = 0.05, 0.25  # of the kernels that keep away from other trials
_DIVERGED_PENALTY = 1.0  # log regret of a diverged trial below the worst one that finished
_PRIOR_RISK_TRIALS = 0.3  # trials that the prior risk counts for, beside the source tasks' weight
_UNIT_WITHOUT_SOURCES = 0.01  # a point of accuracy


@dataclass(frozen=True)
class Observations:
    """The study's own results, one row each.

    Attributes:
        features: decades of LR over the budget.
        values: larger is better; NaN where a trial diverged.
        noise: standard deviation beyond that of a finished trial's value, in log regret.
        points: function and coordinates.
        keys: numbers of the trials.
    """

    features: Array
    values: Array
    noise: Array
    points: Sequence[tuple[str, Mapping[str, float]]]
    keys: Sequence[int]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Suggestion:
    """A policy to try, and why.

    Attributes:
        candidate: the policy.
        source: ``surrogate`` or ``exploration``.
        mean: its expected log regret against the best known so far.
        spread: standard deviation of that.
        risk: probability of divergence.
        prior_weight: the weight of all source tasks together, 0 to 1.
        experts: name, weight, similarity and rank agreement of each source task.
        expected_score: the mean as a value of the study; None before its first result.
        low: the value one standard deviation below the mean.
        high: the value one standard deviation above it.
        chance: probability of beating the best value so far.
    """

    candidate: Candidate
    source: str
    mean: float
    spread: float
    risk: float
    prior_weight: float
    experts: Sequence[Mapping[str, Any]] = field(default=())
    expected_score: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


class Surrogate:
    """Chooses policies by expected improvement, given source tasks and own results.

    Args:
        space: the search space.
        scale: budget and reference LR.
        sources: source tasks.
        known: known-good points of the space, which are always candidates.
        seed: of the random candidates.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: Scale,
        sources: Sequence[Source] = (),
        known: Sequence[Candidate] = (),
        seed: int = 0,
    ) -> None:
        self.space, self.scale = space, scale
        self.experts = Experts(sources)
        self.known = tuple(known)
        self.seed = seed
        self.unit = _unit(sources)
        self._predictions: dict[int, Array] = {}  # of the experts, by trial

    @cached_property
    def _pool(self) -> tuple[Pool, Array, Array]:
        random = np.random.default_rng((self.seed, 0))
        chosen = [*self.known, *drawn(self.space, self.scale, POOL, random)]
        pool = Pool.of(chosen, self.scale.max_iterations)
        return pool, *self.experts.predict(pool.features)

    # The acquisition function of a candidate x (all of its parts in log regret):
    #
    #     a(x) = EI(x) * (1 - risk(x)) * apart(x).
    #
    # EI is the expected improvement over the best expected value of the tried policies, under the
    # mixture of experts plus the process on the study's residuals. Their variances are added as if
    # independent: the experts' disagreement is doubt about the prior, which the process does not
    # know of. Before the first result there is nothing to improve on, and exp(mean - spread), a
    # pessimistic estimate of 1 / (1 + regret), takes its place.
    #
    # Every seventh trial sets all weights to 0. While a wrong prior is followed, its results may
    # all be equally bad, which contradicts nothing; one trial without it finds that out
    # (measured with sources that are upside down: docs/benchmarks.md).

    def suggest(self, seen: Observations, pending: Array, number: int) -> Suggestion:
        """The next policy.

        Args:
            seen: own results.
            pending: features of policies that are being tried.
            number: of the trial; another number draws other candidates.
        """
        exploring = number % EXPLORE_EVERY == FIRST_EXPLORATION
        of_trials = self._predictions_of(seen)
        values = self._values(seen)
        weights = self.experts.weights(of_trials, values)
        pool, means, risks = self._candidates(seen, values, weights, number)
        if exploring:
            weights = np.zeros_like(weights)
        mixture = self.experts.mixture(means, risks, weights)
        points = embedded(pool.features)
        if len(seen):
            prior = weights @ of_trials
            own = OwnResults.fitted(embedded(seen.features), values, seen.noise, prior)
            mean, spread = own.predict(points, mixture.mean)
            spread = np.hypot(spread, mixture.spread)
            gain = expected_improvement(mean, spread, own.incumbent)
        else:
            mean, spread = mixture.mean, mixture.spread
            gain = np.exp(mean - spread)
        risk = _risk(seen, points, mixture.risk, float(weights.sum()))
        others = ((pending, _WIDTH_BUSY), (seen.features, _WIDTH_TRIED))
        gain *= (1 - risk) * _apart(points, others)
        index = int(gain.argmax())
        return Suggestion(
            pool.candidates[index],
            "exploration" if exploring else "surrogate",
            float(mean[index]),
            float(spread[index]),
            float(risk[index]),
            float(weights.sum()),
            self._weights_of_tasks(weights, of_trials, values),
            **self._in_scores(seen, float(mean[index]), float(spread[index])),
        )

    def _in_scores(self, seen: Observations, mean: float, spread: float) -> dict[str, float]:
        """A log regret against the best value so far, in the study's values."""
        # The inverse of `log_regret`: value = best - unit * (exp(-y) - 1).
        known = seen.values[np.isfinite(seen.values)]
        if not known.size:
            return {}
        best = float(known.max())
        scores = {
            name: best - self._unit_of(seen) * float(np.expm1(-value))
            for name, value in (
                ("expected_score", mean),
                ("low", mean - spread),
                ("high", mean + spread),
            )
        }
        return {**scores, "chance": chance_above(mean, spread, 0.0)}

    def _predictions_of(self, seen: Observations) -> Array:
        """The experts' predictions of the own trials, each of which is predicted once."""
        new = [row for row, key in enumerate(seen.keys) if key not in self._predictions]
        if new:
            columns = self.experts.predict(seen.features[new])[0].T
            self._predictions |= {
                seen.keys[row]: column for row, column in zip(new, columns, strict=True)
            }
        rows = [self._predictions[key] for key in seen.keys]
        return np.array(rows).reshape(len(rows), len(self.experts.experts)).T

    def _candidates(
        self, seen: Observations, values: Array, weights: Array, number: int
    ) -> tuple[Pool, Array, Array]:
        """The candidates of a trial, with the experts' predictions of them."""
        # A quarter of the pool, the known-good policies, and variations of good policies. Trials
        # that start together choose from different quarters, so that they do not all find the same
        # best policy. The parents of the variations are the best own results; where these are fewer
        # than four, policies of the pool that the experts predict to be best join them.
        pool, means, risks = self._pool
        keep = np.arange(len(pool.candidates)) % STRIPES == number % STRIPES
        keep[: len(self.known)] = True
        chosen = Pool(
            [c for c, k in zip(pool.candidates, keep, strict=True) if k], pool.features[keep]
        )
        random = np.random.default_rng((self.seed, 1, number))
        order = np.argsort(-values)[:_PARENTS]
        parents = [seen.points[row] for row in order if np.isfinite(seen.values[row])]
        if weights.size:
            likely = np.argsort(-(weights @ means))[: _PARENTS - len(parents)]
            parents += [(pool.candidates[i].function, pool.candidates[i].point) for i in likely]
        local = near(parents, self.space, self.scale, LOCAL, random)
        if not local:
            return chosen, means[:, keep], risks[:, keep]
        more = Pool.of(local, self.scale.max_iterations)
        more_means, more_risks = self.experts.predict(more.features, weights)
        means, risks = means[:, keep], risks[:, keep]
        return chosen + more, np.hstack([means, more_means]), np.hstack([risks, more_risks])

    def _unit_of(self, seen: Observations) -> float:
        """The unit of the study's log regrets."""
        # The source tasks' unit, but at most the range of the study's values: these need not be
        # accuracies, and in too large a unit all of them would be equal. The range is used only
        # after a trial that explored, since those of one prior may all be equally good.
        known = seen.values[np.isfinite(seen.values)]
        spread = float(np.ptp(known)) if len(known) > _EXPLORED else 0.0
        return min(self.unit, spread) if spread > 0 else self.unit

    def _values(self, seen: Observations) -> Array:
        """The study's results as log regrets, diverged ones below all others."""
        known = seen.values[np.isfinite(seen.values)]
        best = float(known.max()) if known.size else 0.0
        values = log_regret(seen.values, best, self._unit_of(seen))
        return values - _DIVERGED_PENALTY * ~np.isfinite(seen.values)

    def _weights_of_tasks(
        self, weights: Array, predictions: Array, values: Array
    ) -> list[dict[str, Any]]:
        """Each source task with its weight, and how its ranking agrees with the results'."""
        tasks = []
        for source, rows in self.experts.by_source:
            entry: dict[str, Any] = {"task": source.name, "weight": float(weights[rows].sum())}
            entry["similarity"] = source.similarity
            if len(values) >= _RANKED_RESULTS and weights[rows].any():
                agreement = rank_correlation(weights[rows] @ predictions[rows], values)
                entry |= {} if agreement is None else {"agreement": agreement}
            tasks.append(entry)
        return sorted(tasks, key=lambda entry: -entry["weight"])


# Probability of divergence, the posterior mean of a share under a beta prior of c trials:
#
#     risk(x) = (c * prior(x) + sum_i k'(x, x_i) [trial i diverged]) / (c + sum_i k'(x, x_i)),
#
# where the kernel k' of half the width counts how many of the own trials were near x. c = 0.3 + the
# weight of the source tasks: those that predict the values are trusted about divergence too.


def _risk(seen: Observations, points: Array, prior: Array, prior_weight: float) -> Array:
    """Probability of divergence, from the source tasks and the own trials near each point."""
    if not len(seen):
        return prior
    close = kernel(points, embedded(seen.features), WIDTH / 2)
    diverged = (~np.isfinite(seen.values)).astype(np.float64)
    weight = _PRIOR_RISK_TRIALS + prior_weight
    risk: Array = (weight * prior + close @ diverged) / (weight + close.sum(axis=1))
    return risk


# The product over pending and tried policies of 1 - max_i k(x, x_i), a simple form of local
# penalisation (Gonzalez et al. 2016, arXiv 1505.08052). It stands for the improvement that a trial
# at the same place would take away, without predicting its result. The kernel is wider for pending
# policies, as their results are not known yet.


def _apart(points: Array, others: Sequence[tuple[Array, float]]) -> Array:
    """Factors from 0 at a policy of other trials to 1 far from all of them."""
    apart = np.ones(len(points))
    for features, width in others:
        if len(features):
            apart *= 1 - kernel(points, embedded(features), width).max(axis=1)
    return apart


def _unit(sources: Sequence[Source]) -> float:
    """The geometric mean of the source tasks' units, weighted by similarity."""
    if not sources:
        return _UNIT_WITHOUT_SOURCES
    weights = np.array([s.similarity for s in sources])
    return float(np.exp(np.average(np.log([s.surface.unit for s in sources]), weights=weights)))
