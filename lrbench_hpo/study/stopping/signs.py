"""The signs that tell whether a trial may still win, in numbers that no task's scale changes.

All values are taken relative to the span from the lowest first value of any trial to the best
value known. So a sign means the same for Top-1 on digits and on CIFAR-10, and for a score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrbench_hpo.study.stopping.observed import Observed

Signs = npt.NDArray[np.float64]

NAMES = (
    "constant",
    "gap",  # log of what is missing to the best value
    "gap x share",
    "left",  # log of the share of the budget that is left
    "behind",  # what was missing at this share to the mean of three leaders at the same share
    "rank",  # log of the share of others that were better by then
    "pace",  # log of how much of the gap goes at the last step's pace
    "trials",  # log of the number of others
    "leader's rest x gap",  # times the share of its budget that the best other has left
)
OF_OTHERS = ("behind", "rank")

_LEADERS = 3
_SMALL = 1e-3
_END = 0.02  # a share that keeps the logarithm finite at the end


def signs(trial: Observed, others: Sequence[Observed]) -> Signs | None:
    """What tells whether a trial will beat the best of the others.

    Args:
        trial: with at least one value.
        others: each with at least one value.

    Returns:
        One number for each of `NAMES`; None where it has beaten them already.
    """
    ranked = sorted(others, key=lambda other: -other.best)
    best, value, share = ranked[0].best, trial.best, trial.share
    if value >= best:
        return None
    reached = [o.at(share) for o in ranked if o.finished or o.share >= share - 1e-9]
    reached = [then for then in reached if math.isfinite(then)]
    low = min(trial.first, min(other.first for other in others))
    span = max(best - low, 1e-12)
    gap = max((best - value) / span, _SMALL)
    log_gap = math.log(gap)
    leaders = reached[:_LEADERS] or [value]
    before, then = _step_before(trial, low)
    pace = max(0.0, (value - before) / span) / (share - then) * (1 - share) / gap
    rest = 0.0 if ranked[0].finished else 1 - ranked[0].share
    return np.array(
        [
            1.0,
            log_gap,
            log_gap * share,
            math.log(1 - share + _END),
            (math.fsum(leaders) / len(leaders) - value) / span,
            math.log((sum(v > value for v in reached) + 0.5) / (len(reached) + 1)),
            math.log1p(pace),
            math.log(len(others)),
            rest * log_gap,
        ]
    )


def _step_before(trial: Observed, low: float) -> tuple[float, float]:
    """Best value and share at the evaluation before the last."""
    if len(trial.iterations) < 2:
        return low, 0.0
    before = trial.best_so_far[-2]
    return max(before, low), trial.iterations[-2] / trial.max_iterations
