"""A made-up response on LR curves, tasks that know it, and searches on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.features import BLOCKS
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.surrogate import (
    Candidate,
    Observations,
    Source,
    Suggestion,
    Surface,
    Surrogate,
)
from lrbench_hpo.prior.surrogate.candidates import Pool, drawn
from lrbench_hpo.prior.surrogate.process import Array

NO_CURVES = np.zeros((0, BLOCKS))


@dataclass(frozen=True)
class World:
    """A task that is a formula: a best mean LR, an end that should be low, a peak that diverges.

    Attributes:
        space: its policies.
        scale: its budget and reference LR.
    """

    space: SearchSpace = field(default_factory=lambda: load_space("default").restricted(None))
    scale: Scale = field(default_factory=lambda: Scale(1_000, 0.1))

    def score(self, features: Array, shift: float = 0.0) -> Array:
        """Of each LR curve; NaN where it diverges; best at LRs `shift` decades higher."""
        curves = np.atleast_2d(features) - shift
        area = np.log10(np.mean(10**curves, axis=1))
        decay = np.clip(curves.max(axis=1) - curves[:, -1], 0, 3)
        score = 0.1 + 0.85 * np.exp(-0.5 * ((area + 1.0) / 0.8) ** 2) * (0.85 + 0.05 * decay)
        return np.where(curves.max(axis=1) > 0.3, np.nan, score)

    def drawn(self, count: int, seed: int = 0) -> Pool:
        """Random policies."""
        random = np.random.default_rng(seed)
        return Pool.of(drawn(self.space, self.scale, count, random), self.scale.max_iterations)

    def source(
        self,
        shift: float = 0.0,
        *,
        runs: int = 80,
        upside_down: bool = False,
        shifts: Sequence[tuple[float, float]] = ((0.0, 1.0),),
        name: str = "made/up",
    ) -> Source:
        """A task with this response, at LRs `shift` decades higher than here."""
        features = self.drawn(runs, seed=99).features + shift
        scores = self.score(features, shift)
        if upside_down:
            scores = np.nanmax(scores) + np.nanmin(scores) - scores
        return Source(name, 0.8, Surface(features, scores), tuple(shifts))

    def seen(self, pool: Pool, scores: Array | None = None, noise: float = 0.0) -> Observations:
        """Policies with their results, as a study has them."""
        scores = self.score(pool.features) if scores is None else scores
        return Observations(
            pool.features,
            scores,
            np.full(len(scores), noise),
            [(entry.function, entry.point) for entry in pool.candidates],
            list(range(len(scores))),
        )

    @property
    def nothing_seen(self) -> Observations:
        """Before any result."""
        return Observations(NO_CURVES, np.zeros(0), np.zeros(0), [], [])

    def curve(self, candidate: Candidate) -> Array:
        """One row of features."""
        return Pool.of([candidate], self.scale.max_iterations).features

    def search(self, surrogate: Surrogate, trials: int) -> tuple[Array, list[Suggestion]]:
        """Try suggestion after suggestion: scores (NaN: diverged) and suggestions."""
        tried: list[Suggestion] = []
        pool, scores = Pool([], NO_CURVES), np.zeros(0)
        for number in range(trials):
            seen = self.seen(pool, scores) if len(scores) else self.nothing_seen
            tried.append(surrogate.suggest(seen, NO_CURVES, number))
            new = Pool.of([tried[-1].candidate], self.scale.max_iterations)
            pool, scores = pool + new, np.append(scores, self.score(new.features))
        return scores, tried

    def top(self, share: float) -> float:
        """The score that this share of 500 random policies reaches."""
        scores = self.score(self.drawn(500, seed=7).features)
        return float(np.quantile(np.nan_to_num(scores, nan=0.0), 1 - share))


@pytest.fixture(scope="session")
def world() -> World:
    """The made-up task."""
    return World()


@pytest.fixture
def constant() -> Callable[..., Array]:
    """Features of constant LRs of so many decades, one row each."""
    return lambda *decades: np.repeat(np.array(decades, float)[:, None], BLOCKS, axis=1)
