"""Whether a policy that passes near some samples can be said to have made them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrbench_hpo.policies import FUNCTIONS, LRPolicy
from lrbench_hpo.policies.fitting.curve import Curve, root_mean_square
from lrbench_hpo.policies.waves import Array

LIMIT = 0.02  # decades (5 %): a policy that is further off is not what was trained with
WORST = 0.1  # decades (26 %), at any sample whose LR is above a hundredth of the peak
HELD = 0.1  # of the peak: how far off a policy may be while a scheduler holds its LR
LIMIT_OF_FEW = LIMIT / 10  # below _FEW samples, to which something can nearly always be bent
_FEW = 20
SPARE = 3  # samples beyond the numbers that were fitted
UNSURE = 0.15  # of the run, in which the LR has dropped, or has not yet
_LOW = 0.01  # of the peak
_PER_WAVE, _PER_EXACT_WAVE = 4, 1  # samples in a cycle
_GRID = 4_000  # points at which policies are compared
_EXACT = 10  # times the tolerance: what comes as near as that is exact, too
_EXACT_IF_ROUNDED, _ROUNDED = 3, 1e-3  # beyond so many decades, rounding says how near that is


def doubt(
    policy: LRPolicy,
    others: Sequence[tuple[LRPolicy, float]],
    curve: Curve,
    whole: Curve,
) -> str | None:
    """Why a policy cannot be taken for what made a curve, in one line; None if it can.

    Args:
        policy: the policy.
        others: the best ones of other functions, with their errors.
        curve: what the policy was fitted to.
        whole: all samples, of which `curve` has the first of each LR where it is held.
    """
    return (
        _far_off(policy, curve)
        or (_too_coarse(policy, curve, whole) if whole is not curve else None)
        or (_too_few(policy, curve) if policy.function != "FIX" else None)
        or _unsure_drops(policy, curve)
        or _unlike(policy, others, curve)
    )


def _far_off(policy: LRPolicy, curve: Curve) -> str | None:
    misses = np.abs(curve.decades(policy))
    nearest = f"{policy} is the nearest, off by"
    limit = LIMIT if len(curve.t) >= _FEW else LIMIT_OF_FEW
    if (error := root_mean_square(misses)) > limit:
        many = "" if len(curve.t) >= _FEW else f" (at fewer than {_FEW} samples)"
        return f"{nearest} {error:.2g} decades, more than {limit}{many}"
    misses = np.where(curve.lr > _LOW * curve.peak, misses, 0.0)
    if (worst := float(misses.max())) > WORST:
        at = float(curve.t[misses.argmax()])
        return f"{nearest} {worst:.2g} decades at iteration {at:g}, more than {WORST}"
    return None


def _too_coarse(policy: LRPolicy, curve: Curve, whole: Curve) -> str | None:
    off = float(np.abs(policy(whole.t) - whole.lr).max()) / whole.peak
    if off <= HELD:
        return None
    held = float(np.median(np.diff(curve.t)))
    return (
        f"each LR is held for {held:g} iterations, in which {policy} goes on by up to {off:.0%} "
        f"of the peak, more than {HELD:.0%}"
    )


def _too_few(policy: LRPolicy, curve: Curve) -> str | None:
    count, least = len(curve.t), policy.num_parameters + SPARE
    if count < least:
        return f"{count} samples are too few to tell {policy}: expected {least} or more"
    row = FUNCTIONS.get(policy.function)
    if row is None or not row.is_cyclic:
        return None
    per_wave = _PER_EXACT_WAVE if curve.error(policy) <= curve.tolerance else _PER_WAVE
    cycles = (curve.end - float(curve.t[0])) / (2 * float(policy.l))  # type: ignore[arg-type]
    if cycles > 1 and count < per_wave * cycles:
        return f"{count} samples are too few to tell the {cycles:.0f} cycles of {policy}"
    return None


def _unsure_drops(policy: LRPolicy, curve: Curve) -> str | None:
    """STEP and NSTEP drop somewhere between two samples; at regular ones, if that can be."""
    gaps = _gaps(policy, curve)
    if gaps is None or not gaps.size:
        return None
    run = curve.end - float(curve.t[0])
    spacing = curve.spacing
    at_samples = spacing is not None and not (np.asarray(policy.l, dtype=float) % spacing).any()
    unsure = float(spacing if spacing is not None and at_samples else gaps.sum()) / run
    if unsure <= UNSURE:
        return None
    return f"samples are too far apart to tell where {policy} drops: {unsure:.0%} of the run"


def _gaps(policy: LRPolicy, curve: Curve) -> Array | None:
    """Of each drop, in how many iterations it may have been; None where there are none."""
    t = curve.t
    if policy.function == "NSTEP":
        ends = np.searchsorted(t, np.asarray(policy.l, dtype=float))
        seen = ends[(ends > 0) & (ends < len(t))]
        between: Array = t[seen] - t[seen - 1]
        return between
    if policy.function != "STEP":
        return None
    drops = np.floor(t / float(policy.l))  # type: ignore[arg-type]
    if not drops[-1]:
        return None
    some = drops > 0
    width = float((t[some] / drops[some]).min() - (t / (drops + 1)).max())
    # The l's that explain the samples are an interval of this width; the n-th drop is at n l.
    widths: Array = width * np.arange(max(1.0, drops[0]), drops[-1] + 1)
    return widths


def _unlike(policy: LRPolicy, others: Sequence[tuple[LRPolicy, float]], curve: Curve) -> str | None:
    """Another policy that fits as well, and is another one between the samples.

    Both pass near every sample. If they are also near each other in between, it does not matter
    which of them was used.
    """
    grid = np.linspace(float(curve.t[0]), curve.end, _GRID)
    exact = curve.error(policy) <= curve.tolerance
    near = max(_EXACT_IF_ROUNDED * curve.tolerance, min(_EXACT * curve.tolerance, _ROUNDED))
    near = near if exact else LIMIT
    values = policy(grid) + curve.floor
    for other, error in others:
        if error > near:
            continue
        if _is_same(policy, other, curve):
            continue
        apart = root_mean_square(np.log10(values / (other(grid) + curve.floor)))
        if apart > LIMIT:
            return (
                f"too few samples to tell {policy} from {other}, {apart:.2g} decades off between "
                "them"
            )
    return None


def _is_same(policy: LRPolicy, other: LRPolicy, curve: Curve) -> bool:
    """Whether the other is the policy in a form of more numbers."""
    match (policy.function, other.function):
        case ("STEP", "NSTEP"):  # any of the places where it may have dropped
            return True
        case ("EXP", "STEP"):  # a drop at every sample: stepped when it was logged
            return float(other.l) <= float(np.diff(curve.t).max())  # type: ignore[arg-type]
        case ("EXP", "NSTEP"):
            return other.num_parameters + SPARE > len(curve.t)
        case _:
            return False
