"""Policies made of policies: each part counts its iterations from its own start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from lrbench_hpo.errors import PolicyError, UnknownNameError
from lrbench_hpo.policies import parameters
from lrbench_hpo.policies.parameters import short
from lrbench_hpo.policies.policy import LRPolicy
from lrbench_hpo.policies.table import COMPOSED


def compose(parts: Iterable[tuple[float | None, LRPolicy]]) -> LRPolicy:
    """One policy after the other: ``LR(t) = part_i(t - end_(i-1))`` for ``end_(i-1) <= t < end_i``.

    After the last end the last part goes on. A composed part is replaced by its own parts, so a
    composition of compositions is a plain list again. From Wu et al. 2019, arXiv 1908.06477.

    Args:
        parts: (end iteration, policy) pairs, ends increasing; the last end may be None.

    Raises:
        PolicyError: no part, ends that do not increase, or a part that is no policy.

    >>> fix, fall = LRPolicy("FIX", k0=1.0), LRPolicy("EXP", k0=0.5, gamma=0.5)
    >>> policy = compose([(10, fix), (None, fall)])
    >>> policy([0, 9, 10, 11]).tolist()
    [1.0, 1.0, 0.5, 0.25]
    """
    flat: list[tuple[float | None, LRPolicy]] = []
    start: float | None = 0
    for pair in parts:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise PolicyError(f"part {short(pair)}: expected an (end iteration, LRPolicy) pair")
        if start is None:
            raise PolicyError("end=None: expected an end iteration for every part but the last")
        end, policy = pair
        end = None if end is None else parameters.iterations("end", end)
        if end is not None and end <= start:
            raise PolicyError(f"end={end}: expected more than the end before, {start}")
        inner = policy.parts if isinstance(policy, LRPolicy) else None
        flat.extend(_shifted(inner, start, end) if inner else [(end, policy)])
        start = end
    return LRPolicy(COMPOSED, parts=tuple(flat))


def _shifted(
    parts: tuple[tuple[float | None, LRPolicy], ...], start: float, end: float | None
) -> Iterator[tuple[float | None, LRPolicy]]:
    """The parts of a composed policy as they stand in the composition around it."""
    for inner_end, policy in parts[:-1]:
        stop = start + (inner_end or 0)
        if end is not None and stop >= end:
            yield end, policy
            return
        yield stop, policy
    last_end, policy = parts[-1]
    yield (start + last_end if end is None and last_end is not None else end), policy


def warmup(policy: LRPolicy, n: int) -> LRPolicy:
    """Linear warm-up before a policy: ``LR(t) = LR_0 (1 + (n - 1) t/n) / n`` for ``t < n``.

    ``LR_0`` is the policy's first LR; the policy itself starts at iteration n. From Goyal et al.
    2017, arXiv 1706.02677.

    Args:
        policy: what follows.
        n: length of the warm-up, in iterations.

    Raises:
        PolicyError: the policy starts at LR 0, or n is no whole number >= 1.

    >>> policy = warmup(LRPolicy("FIX", k0=1.0), 4)
    >>> policy(range(6)).tolist()
    [0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0]
    """
    n = parameters.count("n", n)
    first = policy(0)
    if first == 0:
        raise PolicyError(f"{policy}: its first LR is 0, so it needs no warm-up; leave it out")
    return compose([(n, LRPolicy("TRI", k0=first / n, k1=first, l=n)), (None, policy)])


def knee(k0: float, constant_iterations: int, total: int) -> LRPolicy:
    """Constant, then linear to 0: ``k0``, then ``k0 (1 - (t - c)/(total - c))`` from ``t = c`` on.

    From Iyer et al. 2020, arXiv 2003.03977 (explore, then exploit).

    Args:
        k0: the constant LR.
        constant_iterations: c, iterations of it.
        total: the iteration at which the LR is 0.

    Raises:
        PolicyError: a value breaks its rule, or the constant part fills the budget.

    >>> knee(0.1, 50, 100)([0, 49, 75, 100]).round(3).tolist()
    [0.1, 0.1, 0.05, 0.0]
    """
    c = parameters.count("constant_iterations", constant_iterations)
    total = _total(total, more_than=c)
    return compose(
        [(c, LRPolicy("FIX", k0=k0)), (total, LRPolicy("POLY", k0=k0, p=1, l=total - c))]
    )


def one_cycle(
    k_max: float,
    total: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: Literal["cos", "linear"] = "cos",
) -> LRPolicy:
    """1cycle: up to ``k_max``, then down far below the start; the LRs of torch's ``OneCycleLR``.

    The LR rises from ``k_max/div_factor`` to ``k_max`` at ``t = pct_start total - 1`` and falls to
    ``k_max/(div_factor final_div_factor)`` at ``t = total - 1``, the last update. From Smith &
    Topin 2017, arXiv 1708.07120.

    Args:
        k_max: the highest LR.
        total: length, in iterations.
        pct_start: share of the iterations in which the LR rises.
        div_factor: the highest LR over the first.
        final_div_factor: the first LR over the last.
        anneal: shape of both halves.

    Raises:
        PolicyError: a value breaks its rule, or a half is shorter than one iteration.

    >>> one_cycle(1.0, 101, pct_start=0.5)([0, 49.5, 100]).round(6).tolist()
    [0.04, 1.0, 4e-06]
    """
    total = _total(total, more_than=3)
    k_max = parameters.learning_rate("k_max", k_max)
    first = k_max / _at_least_1("div_factor", div_factor)
    last = first / _at_least_1("final_div_factor", final_div_factor)
    rule = "a share in (0, 1) that leaves at least one iteration to each half"
    top = parameters.number("pct_start", pct_start, rule) * total - 1
    if not 1 <= top <= total - 2:
        raise PolicyError(f"pct_start={pct_start}: expected {rule} of total={total}")
    fall = total - 1 - top
    if anneal == "cos":
        halves = (
            LRPolicy("UPCOS", k0=first, k1=k_max, l=top),
            LRPolicy("COS", k0=last, k1=k_max, l=fall),
        )
    elif anneal == "linear":
        halves = (
            LRPolicy("TRI", k0=first, k1=k_max, l=top),
            LRPolicy("POLY", k0=k_max, k1=last, p=1, l=fall),
        )
    else:
        raise UnknownNameError.among("anneal", anneal, ["cos", "linear"])
    # A wave would rise again: after the last update the LR stays where it is.
    return compose([(top, halves[0]), (total - 1, halves[1]), (None, LRPolicy("FIX", k0=last))])


def warmup_stable_decay(
    k0: float, total: int, *, warmup_iterations: int, decay_iterations: int, k1: float = 0.0
) -> LRPolicy:
    """Warm-up-stable-decay: linear up to ``k0``, constant, linear down to ``k1`` at ``total``.

    From Hu et al. 2024, arXiv 2404.06395, with the linear decay of Hägele et al. 2024, arXiv
    2405.18392.

    Args:
        k0: the constant LR.
        total: length, in iterations.
        warmup_iterations: length of the warm-up.
        decay_iterations: length of the decay.
        k1: the last LR.

    Raises:
        PolicyError: a value breaks its rule, or nothing is left for the constant part.

    >>> policy = warmup_stable_decay(1.0, 100, warmup_iterations=10, decay_iterations=20)
    >>> policy([0, 10, 80, 90, 100]).round(3).tolist()
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    n = parameters.count("warmup_iterations", warmup_iterations)
    d = parameters.count("decay_iterations", decay_iterations)
    total = _total(total, more_than=n + d)
    stable_decay = compose(
        [
            (total - n - d, LRPolicy("FIX", k0=k0)),
            (total - n, LRPolicy("POLY", k0=k0, k1=k1, p=1, l=d)),
        ]
    )
    return warmup(stable_decay, n)


def sgdr(k0: float, k1: float, l: int, *, multiplier: int = 1, cycles: int) -> LRPolicy:  # noqa: E741
    """Cosine with warm restarts: COSRSW cycles of ``l, l m, l m^2, …`` iterations.

    After the last cycle its length stays. From Loshchilov & Hutter 2016, arXiv 1608.03983.

    Args:
        k0: one bound of the LR.
        k1: the other bound.
        l: length of the first cycle, in iterations.
        multiplier: m, length of a cycle over that of the one before.
        cycles: number of cycles.

    Raises:
        PolicyError: a value breaks its rule.

    >>> sgdr(1.0, 0.0, 10, multiplier=2, cycles=3)([0, 5, 10, 20, 30]).round(3).tolist()
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    length = parameters.count("l", l)
    multiplier = parameters.count("multiplier", multiplier)
    end = 0
    parts: list[tuple[float | None, LRPolicy]] = []
    for _ in range(parameters.count("cycles", cycles)):
        end += length
        parts.append((end, LRPolicy("COSRSW", k0=k0, k1=k1, l=length)))
        length *= multiplier
    return compose(parts)


def _total(total: int, more_than: int) -> int:
    total = parameters.count("total", total)
    if total <= more_than:
        raise PolicyError(
            f"total={total}: expected more iterations than its parts take, {more_than}"
        )
    return total


def _at_least_1(name: str, value: float) -> float:
    rule = "a factor >= 1"
    if parameters.number(name, value, rule) < 1:
        raise PolicyError(f"{name}={value}: expected {rule}")
    return float(value)
