"""The next policy to try, from similar tasks' runs and the study's own."""

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

POOL = 600  # policies of the whole space that all suggestions weigh
STRIPES = 4  # trials asked for at once choose from different parts of it
LOCAL = 16  # policies near the best ones, new for each suggestion
_PARENTS = 4  # of these
_ENOUGH = 3  # results, before rankings are compared
EXPLORE_EVERY, FIRST_EXPLORATION = 7, 5  # trials that heed no similar task
_EXPLORED = EXPLORE_EVERY + 1  # trials, of which one surely was such a one
_TRIED, _BUSY = 0.05, 0.25  # nearer than this, a policy teaches nothing beside the other one
_DIVERGED = 1.0  # a diverged trial is so much worse than the worst that ended
_DOUBT = 0.3  # of the prior's risk of divergence, in trials, where no similar task is believed


@dataclass(frozen=True)
class Observations:
    """The study's own results, one row each.

    Attributes:
        features: decades of LR over the budget.
        values: larger is better; NaN where a trial diverged.
        noise: how much less a value says than a finished trial's, in log regret.
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
        prior_weight: how far similar tasks are believed, 0 to 1.
        experts: name, weight, similarity and agreement of ranks of each of them.
        expected_score: the mean as a value of the study; None before there is one to compare.
        low: a standard deviation below that.
        high: a standard deviation above it.
        chance: of beating the best value so far.
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
    """Weighs all policies of a space by what similar tasks and own results say.

    Args:
        space: where policies are looked for.
        scale: budget and reference LR.
        sources: similar tasks.
        known: known-good points of the space, always among the candidates.
        seed: of the candidates.
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
        self._asked: dict[int, Array] = {}

    @cached_property
    def _pool(self) -> tuple[Pool, Array, Array]:
        random = np.random.default_rng((self.seed, 0))
        chosen = [*self.known, *drawn(self.space, self.scale, POOL, random)]
        pool = Pool.of(chosen, self.scale.max_iterations)
        return pool, *self.experts.say(pool.features)

    def suggest(self, seen: Observations, pending: Array, number: int) -> Suggestion:
        """The next policy.

        Args:
            seen: own results.
            pending: features of policies that are being tried.
            number: of the trial; another number draws other candidates.
        """
        exploring = number % EXPLORE_EVERY == FIRST_EXPLORATION
        said = self._said(seen)
        values = self._values(seen)
        weights = self.experts.weights(said, values)
        pool, told, risks = self._candidates(seen, values, weights, number)
        if exploring:
            weights = np.zeros_like(weights)
        opinion = self.experts.opinion(told, risks, weights)
        points = embedded(pool.features)
        if len(seen):
            own = OwnResults.fitted(embedded(seen.features), values, seen.noise, weights @ said)
            mean, spread = own.predict(points, opinion.mean)
            spread = np.hypot(spread, opinion.spread)
            gain = expected_improvement(mean, spread, own.incumbent)
        else:
            mean, spread = opinion.mean, opinion.spread
            gain = np.exp(mean - spread)
        risk = _risk(seen, points, opinion.risk, float(weights.sum()))
        gain *= (1 - risk) * _apart(points, ((pending, _BUSY), (seen.features, _TRIED)))
        index = int(gain.argmax())
        return Suggestion(
            pool.candidates[index],
            "exploration" if exploring else "surrogate",
            float(mean[index]),
            float(spread[index]),
            float(risk[index]),
            float(weights.sum()),
            self._believed(weights, said, values),
            **self._in_scores(seen, float(mean[index]), float(spread[index])),
        )

    def _in_scores(self, seen: Observations, mean: float, spread: float) -> dict[str, float]:
        """What a log regret against the best value so far means in the study's values."""
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

    def _said(self, seen: Observations) -> Array:
        """What the experts say of the own trials: each of these is asked about once."""
        new = [row for row, key in enumerate(seen.keys) if key not in self._asked]
        if new:
            columns = self.experts.say(seen.features[new])[0].T
            self._asked |= {
                seen.keys[row]: column for row, column in zip(new, columns, strict=True)
            }
        known = [self._asked[key] for key in seen.keys]
        return np.array(known).reshape(len(known), len(self.experts.experts)).T

    def _candidates(
        self, seen: Observations, values: Array, weights: Array, number: int
    ) -> tuple[Pool, Array, Array]:
        """This trial's part of the pool and policies near the best, and what is said of them."""
        pool, told, risks = self._pool
        keep = np.arange(len(pool.candidates)) % STRIPES == number % STRIPES
        keep[: len(self.known)] = True
        chosen = Pool(
            [c for c, k in zip(pool.candidates, keep, strict=True) if k], pool.features[keep]
        )
        random = np.random.default_rng((self.seed, 1, number))
        order = np.argsort(-values)[:_PARENTS]
        parents = [seen.points[row] for row in order if np.isfinite(seen.values[row])]
        if weights.size:
            likely = np.argsort(-(weights @ told))[: _PARENTS - len(parents)]
            parents += [(pool.candidates[i].function, pool.candidates[i].point) for i in likely]
        local = near(parents, self.space, self.scale, LOCAL, random)
        if not local:
            return chosen, told[:, keep], risks[:, keep]
        more = Pool.of(local, self.scale.max_iterations)
        more_told, more_risks = self.experts.say(more.features, weights)
        told, risks = told[:, keep], risks[:, keep]
        return chosen + more, np.hstack([told, more_told]), np.hstack([risks, more_risks])

    def _unit_of(self, seen: Observations) -> float:
        """The prior's unit, or a smaller one where all results would look alike in it.

        A study's values need not be accuracies. One trial at least has explored by then.
        """
        known = seen.values[np.isfinite(seen.values)]
        spread = float(np.ptp(known)) if len(known) > _EXPLORED else 0.0
        return min(self.unit, spread) if spread > 0 else self.unit

    def _values(self, seen: Observations) -> Array:
        known = seen.values[np.isfinite(seen.values)]
        best = float(known.max()) if known.size else 0.0
        values = log_regret(seen.values, best, self._unit_of(seen))
        return values - _DIVERGED * ~np.isfinite(seen.values)

    def _believed(self, weights: Array, said: Array, values: Array) -> list[dict[str, Any]]:
        """Each similar task with its weight, and how its ranking agrees with the results'."""
        found = []
        for source, rows in self.experts.by_source:
            entry: dict[str, Any] = {"task": source.name, "weight": float(weights[rows].sum())}
            entry["similarity"] = source.similarity
            if len(values) >= _ENOUGH and weights[rows].any():
                agreement = rank_correlation(weights[rows] @ said[rows], values)
                entry |= {} if agreement is None else {"agreement": agreement}
            found.append(entry)
        return sorted(found, key=lambda entry: -entry["weight"])


def _risk(seen: Observations, points: Array, prior: Array, believed: float) -> Array:
    """Probability of divergence: the prior's, and the own trials' by a kernel estimate."""
    if not len(seen):
        return prior
    close = kernel(points, embedded(seen.features), WIDTH / 2)
    diverged = (~np.isfinite(seen.values)).astype(np.float64)
    weight = _DOUBT + believed
    risk: Array = (weight * prior + close @ diverged) / (weight + close.sum(axis=1))
    return risk


def _apart(points: Array, others: Sequence[tuple[Array, float]]) -> Array:
    """1 far from what is tried already, 0 at the very same policy."""
    apart = np.ones(len(points))
    for features, width in others:
        if len(features):
            apart *= 1 - kernel(points, embedded(features), width).max(axis=1)
    return apart


def _unit(sources: Sequence[Source]) -> float:
    if not sources:
        return 0.01
    weights = np.array([s.similarity for s in sources])
    return float(np.exp(np.average(np.log([s.surface.unit for s in sources]), weights=weights)))
