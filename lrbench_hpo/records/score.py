"""The score of a run: Top-1, less what iterations and a loss difference cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Protocol

from lrbench_hpo.errors import RecordError

WORST_SCORE = -1.0


@dataclass(frozen=True)
class ScoreWeights:
    """What the whole budget, and a loss difference of 1, cost in Top-1.

    >>> ScoreWeights()
    ScoreWeights(iterations=0.005, loss_difference=0.01)
    """

    iterations: float = 0.005
    loss_difference: float = 0.01

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = _real(f"weight {entry.name}", getattr(self, entry.name))
            if not 0 <= value < math.inf:
                raise RecordError(f"weight {entry.name}={value}: expected at least 0, and finite")
            object.__setattr__(self, entry.name, value)

    @classmethod
    def of(cls, weights: ScoreWeights | Mapping[str, float] | None) -> ScoreWeights:
        """Weights as they are, from a mapping, or the default.

        Raises:
            RecordError: for an unknown weight, or one below 0.

        >>> ScoreWeights.of({"iterations": 0.0})
        ScoreWeights(iterations=0.0, loss_difference=0.01)
        """
        if weights is None:
            return _default_weights()
        if isinstance(weights, ScoreWeights):
            return weights
        if not isinstance(weights, Mapping):
            raise RecordError(f"weights={weights!r}: expected ScoreWeights or a mapping")
        known = [entry.name for entry in fields(cls)]
        unknown = [name for name in weights if name not in known]
        if unknown:
            raise RecordError(f"unknown score weight {unknown[0]!r}: known are {', '.join(known)}")
        return cls(**weights)

    def to_dict(self) -> dict[str, float]:
        """The inverse of `of`, in JSON types."""
        return {"iterations": self.iterations, "loss_difference": self.loss_difference}


@cache
def _default_weights() -> ScoreWeights:
    return ScoreWeights()


def score(
    *,
    top1: float | None,
    iterations_to_best: float | None,
    max_iterations: float,
    loss_difference: float | None,
    weights: ScoreWeights | Mapping[str, float] | None = None,
) -> float:
    """Accuracy first, then speed and fit.

    ``top1 - w_i * iterations_to_best / max_iterations - w_l * |loss_difference|``

    Args:
        top1: share of samples classified correctly, in [0, 1]; None or NaN: the run failed.
        iterations_to_best: iterations when top1 was highest; None counts as the whole budget.
        max_iterations: the budget, in iterations.
        loss_difference: evaluation loss minus training loss; None (not measured) costs nothing.
        weights: `ScoreWeights`, or a mapping with some of its fields.

    Returns:
        The score; `WORST_SCORE` for a run that diverged (a value is NaN or infinite), and never
        less.

    Raises:
        RecordError: for a Top-1 in per cent, or iterations outside the budget.

    >>> score(top1=0.75, iterations_to_best=100, max_iterations=100, loss_difference=0.0)
    0.745
    >>> score(top1=float("nan"), iterations_to_best=10, max_iterations=100, loss_difference=0.1)
    -1.0
    """
    weights = ScoreWeights.of(weights)
    budget = _real("max_iterations", max_iterations)
    if not 0 < budget < math.inf:
        raise RecordError(f"max_iterations={max_iterations}: expected a positive number")
    accuracy = math.nan if top1 is None else _real("top1", top1)
    reached = budget if iterations_to_best is None else _real("iterations", iterations_to_best)
    difference = 0.0 if loss_difference is None else _real("loss_difference", loss_difference)
    if not all(map(math.isfinite, (accuracy, reached, difference))):
        return WORST_SCORE
    if not 0 <= accuracy <= 1:
        raise RecordError(f"top1={top1}: shares in [0, 1], not per cent")
    if not 0 <= reached <= budget:
        rule = f"expected 0 to max_iterations={max_iterations}"
        raise RecordError(f"iterations_to_best={iterations_to_best}: {rule}")
    penalty = weights.iterations * reached / budget + weights.loss_difference * abs(difference)
    return max(WORST_SCORE, accuracy - penalty)


class Scorable(Protocol):
    """What `score_run` reads of a run."""

    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def metrics(self) -> Mapping[str, float | None]: ...  # noqa: D102
    @property
    def max_iterations(self) -> int: ...  # noqa: D102


def score_run(run: Scorable, weights: ScoreWeights | Mapping[str, float] | None = None) -> float:
    """The `score` of a run; `WORST_SCORE` if it diverged, failed or has no Top-1.

    Metrics that were not measured count as in `score`: no ``iterations_to_best`` as the whole
    budget, no ``loss_difference`` as 0.
    """
    if run.status in {"diverged", "failed"}:
        ScoreWeights.of(weights)
        return WORST_SCORE
    return score(
        top1=run.metrics.get("top1"),
        iterations_to_best=run.metrics.get("iterations_to_best"),
        max_iterations=run.max_iterations,
        loss_difference=run.metrics.get("loss_difference"),
        weights=weights,
    )


def evaluation_noise(value: float, samples: int | None) -> float:
    """Standard deviation of one evaluation, ``sqrt(p (1 - p) / n)``; 0 if the value is no share.

    Top-1 is the share p of n images classified correctly; their number is binomially distributed.

    Args:
        value: the measured share, p.
        samples: the number of samples that it was measured on, n; None if unknown.

    >>> evaluation_noise(0.5, 100), evaluation_noise(-1.0, 100), evaluation_noise(0.5, None)
    (0.05, 0.0, 0.0)
    """
    if not samples or not 0 <= value <= 1:
        return 0.0
    return math.sqrt(value * (1 - value) / samples)


def _real(name: str, value: Any) -> float:
    """A float of any scalar: numpy's and torch's too, text and truth values not."""
    if isinstance(value, (str, bytes, bool)):
        raise RecordError(f"{name}={value!r}: expected a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name}: expected a number, got {type(value).__name__}") from None
