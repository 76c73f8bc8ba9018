"""The signs from which a trial's probability to win is predicted, free of a task's scale.

All values are taken relative to the span from the lowest first value of any trial to the best
value known. So a sign means the same for Top-1 on digits and on CIFAR-10, and for a score.

Most signs are logarithms. The log odds of winning are linear in the signs, so the odds are a
product of powers, ``gap^a * left^b * ...``, as suits ratios that range over decades.
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
    "gap",  # log of the distance to the best value of all, g
    "gap x share",  # the same times the share of the budget used: a gap weighs more near the end
    "left",  # log of the share of the budget that is left
    "behind",  # distance to the mean of the three best others when they were at the same share
    "rank",  # log of the share of others that were better when they were at the same share
    "pace",  # log of 1 + the part of the gap that closes if the last step's gain goes on
    "trials",  # log of the number of others: the more there are, the higher the best of them
    "leader's rest x gap",  # gap times the share of its budget that the best other has left
)
OF_OTHERS = ("behind", "rank")

_LEADERS = 3
_SMALL = 1e-3  # lowest gap, which keeps its logarithm finite
_END = 0.02  # share of a budget that keeps the logarithm finite at the end


def signs(trial: Observed, others: Sequence[Observed]) -> Signs | None:
    """The signs of whether a trial will beat the best of the others.

    With f the share of the budget that the trial has used, v its best value, V the best of all,
    low the lowest first value and ``span = V - low``, the gap is ``g = (V - v) / span``. Its pace
    is the last step's gain per share of the budget, carried on to the end and divided by the gap:
    ``pace = (v - v') / (f - f') * (1 - f) / (V - v)``, where v' and f' were one evaluation before.
    At 1 the trial just reaches the best at this pace.

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
    # What the others had at the same share; one that was stopped before has no value there.
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
            # Half a trial more in the count, and one in all, keep the logarithm finite.
            math.log((sum(v > value for v in reached) + 0.5) / (len(reached) + 1)),
            math.log1p(pace),
            math.log(len(others)),
            rest * log_gap,
        ]
    )


def _step_before(trial: Observed, low: float) -> tuple[float, float]:
    """Best value and share at the evaluation before the last; low and 0 at the first one."""
    if len(trial.iterations) < 2:
        return low, 0.0
    before = trial.best_so_far[-2]
    return max(before, low), trial.iterations[-2] / trial.max_iterations
