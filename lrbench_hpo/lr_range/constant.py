"""The reference LR from the accuracies of trainings with constant LRs (LRBench's search)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.lr_range.reading import BLIND
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.score import evaluation_noise

# In steps between the constant LRs: the deviation of a uniform position in a step, 1 / sqrt(12) =
# 0.29, and a little for the noise.
_DEVIATION_IN_STEP = 0.35


def read_accuracies(
    top1: Mapping[float, float | None],
    losses: Mapping[float, float | None],
    *,
    chance: float,
    samples: int,
    **facts: Any,
) -> RangeTest:
    """Read the accuracies of trainings with constant LRs.

    The reference LR is the best one, or the geometric mean of those within the noise of the best.
    The usable interval holds the LRs that learn at least half of what the best one learns.

    Args:
        top1: accuracies by LR, shares; None where a training diverged.
        losses: validation losses by LR, for the record.
        chance: accuracy of guessing, a share.
        samples: number of samples that the accuracies were measured on.
        facts: further fields of `RangeTest`.

    >>> found = read_accuracies({0.1: 0.3, 0.01: 0.9, 0.001: 0.7}, {}, chance=0.1, samples=200,
    ...     iterations=300)
    >>> found.reference_lr, found.low, found.high
    (0.01, 0.001, 0.01)
    """
    lrs = sorted(top1)
    known = {lr: value for lr in lrs if (value := top1[lr]) is not None}
    best = max(known.values(), default=0.0)
    # With a(LR) the accuracies and s = sqrt(a_best (1 - a_best) / samples) the binomial deviation
    # of the best, the m LRs with a >= a_best - s cannot be told from the best one. Their mean in
    # log LR is the centre; its error grows with their number, as sqrt(m) * 0.35 steps.
    noise = evaluation_noise(best, samples)
    step = max((math.log10(b / a) for a, b in pairwise(lrs)), default=1.0)
    notes = ["Top-1 by LR: " + ", ".join(f"{lr:g}: {_per_cent(top1[lr])}" for lr in lrs)]
    if best <= chance + max(2 * noise, 0.02):
        notes.append("no LR learnt anything: train longer, or look at the data and the model")
        centre, error, usable = math.log10(lrs[0] * lrs[-1]) / 2, BLIND, lrs
    else:
        top = [lr for lr, value in known.items() if value >= best - noise]
        usable = [lr for lr, value in known.items() if value - chance >= (best - chance) / 2]
        centre = sum(map(math.log10, top)) / len(top)
        error = step * math.sqrt(len(top)) * _DEVIATION_IN_STEP
        if best in (known.get(lrs[0]), known.get(lrs[-1])):
            notes.append("the best LR is the last that was tried: one beyond it may do better")
            error = max(error, BLIND / 2)
    return RangeTest(
        reference_lr=checks.rounded(10**centre, 12),
        spread=10**error,
        low=min(usable[0], 10 ** (centre - step / 2)),
        high=max(usable[-1], checks.rounded(10**centre, 12)),
        lrs=(tuple(lrs),),
        losses=(tuple(losses.get(lr) for lr in lrs),),
        method="coarse",
        notes=tuple(notes),
        **facts,
    )


def _per_cent(share: float | None) -> str:
    return "diverged" if share is None else f"{100 * share:.1f} %"
