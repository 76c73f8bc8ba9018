"""Which LR function, with which parameters, made a logged LR curve.

Every function is fitted by itself: by its closed form (`steps`), or from the grid of its row
(`smooth`). Among those that reproduce the curve equally well the one of fewest parameters is
chosen; `certainty` says whether the samples suffice to tell it from the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrbench_hpo.errors import LRBenchError, UnknownNameError
from lrbench_hpo.policies import DEFAULT_FUNCTIONS, FUNCTIONS, LRPolicy, compose
from lrbench_hpo.policies.fitting import steps
from lrbench_hpo.policies.fitting.certainty import LIMIT, doubt
from lrbench_hpo.policies.fitting.curve import MIN_POINTS, Curve, root_mean_square
from lrbench_hpo.policies.fitting.smooth import smooth
from lrbench_hpo.policies.waves import Array

__all__ = ["LIMIT", "Fit", "fit_policy"]

_AS_GOOD = 1.25  # errors within this factor of the least are as good: then the simpler one wins
_AS_EXACT = 1.1  # so much more error is not worth a digit
_CLOSED_FORMS = {
    "FIX": steps.fix,
    "EXP": steps.exponential,
    "STEP": steps.step,
    "NSTEP": steps.nstep,
}


@dataclass(frozen=True)
class Fit:
    """A policy that reproduces an LR curve.

    Attributes:
        policy: the policy.
        error: root mean square of log10(logged LR / policy's LR), in decades, over all samples.
        worst: the largest such distance.
        worst_at: the iteration where it is.
        points: samples in the curve.
        held: for how many iterations each LR was held, where a scheduler was stepped once an epoch
            and the policy was read from the first samples of its epochs; None where it was
            stepped every iteration.
        doubt: why the policy cannot be taken for what made the curve, in one line: it is too far
            off, or the samples do not tell it from another one; None where it can.
        alternatives: the best policies of the other functions that were tried, with their errors,
            least first.
    """

    policy: LRPolicy
    error: float
    worst: float
    worst_at: float
    points: int
    held: float | None = None
    doubt: str | None = None
    alternatives: tuple[tuple[LRPolicy, float], ...] = ()

    @property
    def good(self) -> bool:
        """Whether the policy can be taken for what made the curve: there is no `doubt`."""
        return self.doubt is None


def fit_policy(
    iterations: Sequence[float] | Array,
    lrs: Sequence[float] | Array,
    *,
    functions: Sequence[str] = DEFAULT_FUNCTIONS,
    max_iterations: int | None = None,
) -> Fit:
    """The LR policy that best reproduces a logged LR curve; the simplest of those that do equally.

    A curve that starts with a linear rise, and that no function reproduces, is tried as a warm-up
    followed by one of them. LRs far below the peak (a millionth), or below the last printed
    decimal, do not count.

    Args:
        iterations: where LRs were logged, increasing, counted from 0; irregular or sparse.
        lrs: the learning rates; 0 is allowed where a decay ends.
        functions: the LR functions to try.
        max_iterations: the budget, if it is known: a hint for decays that end there.

    Raises:
        RecordError: for fewer than three samples, LRs that are negative, not finite or all 0, or
            iterations that do not increase.
        UnknownNameError: for an unknown function.

    >>> fit = fit_policy(range(0, 1000, 50), [0.1] * 8 + [0.05] * 8 + [0.025] * 4)
    >>> print(fit.policy, fit.good)
    STEP(k0=0.1, gamma=0.5, l=400) True
    >>> print(fit_policy([0, 100, 200, 300], [0.1, 0.1, 0.05, 0.05]).doubt)
    4 samples are too few to tell STEP(k0=0.1, gamma=0.5, l=200): expected 6 or more
    """
    for name in functions:
        if name not in FUNCTIONS:
            raise UnknownNameError.among("LR function", name, FUNCTIONS)
    curve = whole = Curve.of(iterations, lrs)
    held = None
    with np.errstate(all="ignore"):  # on the way there, shapes are tried that overflow
        found = _found(curve, functions, max_iterations)
        if found[0][1] > LIMIT / 10 and curve.held is not None:
            less = _found(curve.held, functions, max_iterations)
            if less[0][1] < found[0][1] / 3:
                found, held, curve = less, float(np.median(np.diff(curve.held.t))), curve.held
        policy = found[0][0]
        others = tuple(sorted(found[1:], key=lambda one: one[1]))
        doubtful = doubt(policy, others, curve, whole)
    misses = np.abs(whole.decades(policy))
    worst = int(misses.argmax())
    return Fit(
        policy,
        root_mean_square(misses),
        float(misses[worst]),
        float(whole.t[worst]),
        len(lrs),
        held,
        doubtful,
        others,
    )


_Tried = tuple[LRPolicy, float]


def _tried(curve: Curve, functions: Sequence[str], max_iterations: int | None) -> list[_Tried]:
    """The best policy of each function; none of more parameters once one is exact."""
    names = list(FUNCTIONS)
    order = sorted(
        (
            (len(row.parameters) + with_low, names.index(row.name), with_low)
            for row in map(FUNCTIONS.__getitem__, dict.fromkeys(functions))
            for with_low in ((False, True) if "k1" in row.optional else (False,))
        ),
    )
    found: list[_Tried] = []
    exact = math.inf
    for parameters, index, with_low in order:
        if parameters > exact:
            break
        best: _Tried | None = None
        for policy in _candidates(names[index], with_low, curve, max_iterations):
            error = curve.error(policy)
            if best is None or error < best[1]:
                best = policy, error
            if error <= curve.tolerance / 10:
                break
        if best is not None:
            found.append(_rounded(best, curve))
            if found[-1][1] <= curve.tolerance:
                exact = min(exact, best[0].num_parameters)
    return found or [_rounded((p, curve.error(p)), curve) for p in steps.fix(curve)]


def _candidates(
    name: str, with_low: bool, curve: Curve, max_iterations: int | None
) -> Iterator[LRPolicy]:
    try:
        if name in _CLOSED_FORMS:
            yield from _CLOSED_FORMS[name](curve)
        else:
            low = with_low or FUNCTIONS[name].is_cyclic
            yield from smooth(name, curve, max_iterations, low=low)
    except LRBenchError:  # parameters out of bounds: none of this function
        return


def _found(curve: Curve, functions: Sequence[str], max_iterations: int | None) -> list[_Tried]:
    """All policies that were tried, the chosen one first."""
    found = _tried(curve, functions, max_iterations)
    if min(error for _, error in found) > 10 * curve.tolerance:
        found += _warmed_up(curve, functions, max_iterations)
    best = _simplest(found, curve)
    return [best, *(one for one in found if one is not best)]


def _simplest(found: list[_Tried], curve: Curve) -> _Tried:
    """The policy of fewest parameters among those that fit equally well."""
    limit = max(curve.tolerance, _AS_GOOD * min(error for _, error in found))
    good = [one for one in found if one[1] <= limit]
    exact = min(good, key=lambda one: one[1])[1]
    return min(
        good,
        key=lambda one: (
            one[0].num_parameters,
            one[1] > max(curve.tolerance, exact),
            found.index(one),
        ),
    )


def _rounded(found: _Tried, curve: Curve) -> _Tried:
    """The policy with as few digits in each parameter as it takes."""
    policy, error = found
    limit = max(error * _AS_EXACT, curve.rounding, 2e-8)
    for name in ("k0", "k1"):  # a bound that is nothing but rounding
        other = policy.k1 if name == "k0" else policy.k0
        if getattr(policy, name) and other and getattr(policy, name) < other:
            tried = replace(policy, k0=other, k1=0.0)
            if curve.error(tried) <= limit:
                policy = tried
    for name in ("l", "gamma", "p", "k0", "k1"):
        value = getattr(policy, name)
        if not isinstance(value, float) or value == 0:
            continue
        shorter = [float(f"{value:.{digits}g}") for digits in range(1, 13)]
        for rounded in [float(round(value)), *shorter] if name == "l" else shorter:
            try:
                changed: dict[str, Any] = {name: rounded}
                tried = replace(policy, **changed)
            except LRBenchError:
                continue
            if curve.error(tried) <= limit:
                policy = tried
                break
    return policy, curve.error(policy)


def _warmed_up(
    curve: Curve, functions: Sequence[str], max_iterations: int | None
) -> Iterator[_Tried]:
    """A linear rise from the start, followed by one of the functions."""
    on_line = _rising(curve)
    if on_line < MIN_POINTS:
        return
    start, slope = steps.line(curve.t[:on_line], curve.lr[:on_line])
    last = float(curve.t[on_line - 1])
    following = float(curve.t[min(on_line, len(curve.t) - 1)])
    found: list[_Tried] = []
    for end in sorted({last, steps.roundest(last, following), following}):
        rest = curve.after(end)
        if end < 1 or len(rest.t) < MIN_POINTS or not rest.lr.any():
            continue
        budget = None if max_iterations is None else max(1, max_iterations - int(end))
        then, _ = _simplest(_tried(rest, functions, budget), rest)
        top = start + slope * end
        low: dict[str, float] = (
            {"k0": start, "k1": top} if start > 1e-6 * top else {"k0": top, "k1": 0.0}
        )
        rise, _ = _rounded(
            _with_error(LRPolicy("TRI", k0=low["k0"], k1=low["k1"], l=end), curve.before(end)),
            curve.before(end),
        )
        found.append(_with_error(compose([(end, rise), (None, then)]), curve))
        if found[-1][1] <= curve.tolerance:
            break
    if found:
        yield min(found, key=lambda one: one[1])


def _with_error(policy: LRPolicy, curve: Curve) -> _Tried:
    return policy, curve.error(policy)


def _rising(curve: Curve) -> int:
    """How many samples from the start lie on one rising line."""
    t, lr = curve.t, curve.lr
    slope = (lr[1] - lr[0]) / (t[1] - t[0])
    if slope <= 0:
        return 0
    off = np.abs(lr[0] + slope * (t - t[0]) - lr) > 1e-3 * curve.peak
    return int(off.argmax()) if off.any() else len(t)
