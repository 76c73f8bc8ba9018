"""What a study's own results say, on top of what similar tasks do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array, Process

WIDTH = 1.1
AMPLITUDES = (0.3, 0.6, 1.2)  # how far the similar tasks may be off from policy to policy
SLOPE = 0.3  # how much stronger or weaker the LR policy may matter here than there
OFFSET = 1.0  # how far the best policy known so far may be from the best there is
NOISE = 0.4  # of a finished trial: the seeds' noise is about half a unit of log regret


@dataclass(frozen=True)
class OwnResults:
    """A Gaussian process of what the prior does not explain, with the prior's slope learnt along.

    ``value = prior + offset + slope prior + process + noise``

    Attributes:
        process: fitted to the results less the prior; of several amplitudes the likeliest.
        incumbent: the highest value expected among the policies with results, noise taken off.
    """

    process: Process
    incumbent: float

    @classmethod
    def fitted(cls, points: Array, values: Array, noise: Array, prior: Array) -> OwnResults:
        """Learn from results.

        Args:
            points: embedded policies, one a row; at least one.
            values: their log regrets.
            noise: how much less each says than a finished trial.
            prior: what similar tasks say of them.
        """
        fits = [
            Process.fitted(
                points,
                values - prior,
                np.hypot(NOISE, noise),
                width=WIDTH,
                amplitude=amplitude,
                linear=_linear(prior),
            )
            for amplitude in AMPLITUDES
        ]
        likeliest = max(fits, key=lambda fit: fit.evidence)
        expected = prior + likeliest.mean(points, _linear(prior))
        return cls(likeliest, float(expected.max()))

    def predict(self, points: Array, prior: Array) -> tuple[Array, Array]:
        """Expected log regret of policies, and its standard deviation.

        Args:
            points: embedded policies, one a row.
            prior: what similar tasks say of them.
        """
        mean, spread = self.process.predict(points, _linear(prior))
        return prior + mean, spread


def _linear(prior: Array) -> Array:
    return np.column_stack([np.full(len(prior), OFFSET), SLOPE * prior])
