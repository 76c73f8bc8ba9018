"""The study's own results: a Gaussian process on the residuals of the transfer prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array, Process

# In log regret, but for WIDTH and SLOPE.
WIDTH = 1.1  # of the kernel, in units of `embedding.embedded`
AMPLITUDES = (0.3, 0.6, 1.2)  # deviations of single policies from the prior; the likeliest is taken
SLOPE = 0.3  # prior deviation of the slope: how much more or less the policy matters here
OFFSET = 1.0  # prior deviation of the offset, as the best known so far may be far from the best
NOISE = 0.4  # of a finished trial: the seeds' noise is about half a unit of log regret


@dataclass(frozen=True)
class OwnResults:
    """Gaussian process on the residuals of the transfer prior.

    ``value = prior + offset + slope * prior + f(policy) + noise``, with a Gaussian slope around 0,
    so that a useless prior is switched off.

    Attributes:
        process: fitted to the results less the prior.
        incumbent: the highest expected value among the tried policies, without the noise.
    """

    process: Process
    incumbent: float

    @classmethod
    def fitted(cls, points: Array, values: Array, noise: Array, prior: Array) -> OwnResults:
        """Fit the process to results.

        Args:
            points: embedded policies, one a row; at least one.
            values: their log regrets.
            noise: standard deviation of each value, beyond that of a finished trial.
            prior: the mixture's log regrets of these policies.
        """
        # With p the prior mean of the mixture, the residuals r = value - p are a Gaussian process
        #
        #     r ~ GP(0, a^2 k(x, x') + OFFSET^2 + SLOPE^2 p p') + N(0, NOISE^2 + noise_i^2).
        #
        # This is a linear model in (1, p) with Gaussian coefficients, integrated out (Rasmussen &
        # Williams 2006, section 2.7), plus a process for single policies. A slope of -1 cancels the
        # prior. The offset is free, because the best value so far may be far from the best.
        #
        # The amplitude a is the one of three with the highest marginal likelihood (section 5.4.1
        # there). Width and noise are fixed: a study has few results when they matter most.
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
        # Noise is taken off the incumbent too: the highest observed value is high partly by luck,
        # and would make every other policy look like no improvement.
        expected = prior + likeliest.mean(points, _linear(prior))
        return cls(likeliest, float(expected.max()))

    def predict(self, points: Array, prior: Array) -> tuple[Array, Array]:
        """Expected log regret of policies, and its standard deviation.

        Args:
            points: embedded policies, one a row.
            prior: the mixture's log regrets of these policies.
        """
        mean, spread = self.process.predict(points, _linear(prior))
        return prior + mean, spread


def _linear(prior: Array) -> Array:
    """The functions of the linear model, each times the prior deviation of its coefficient."""
    return np.column_stack([np.full(len(prior), OFFSET), SLOPE * prior])
