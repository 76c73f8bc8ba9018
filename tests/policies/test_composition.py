from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import (
    LRPolicy,
    compose,
    knee,
    one_cycle,
    sgdr,
    warmup,
    warmup_stable_decay,
)

EXP = LRPolicy("EXP", k0=1.0, gamma=0.9)
TRI = LRPolicy("TRI", k0=0.1, k1=0.9, l=7)
FIX = LRPolicy("FIX", k0=0.5)


def test_every_part_counts_from_its_own_start() -> None:
    policy = compose([(10, EXP), (25, TRI), (None, FIX)])
    expected = [*EXP(range(10)), *TRI(range(15)), *FIX(range(5))]
    assert policy(range(30)).tolist() == expected
    assert [policy(t) for t in range(30)] == expected
    assert policy([29, 3, 12]).tolist() == [expected[29], expected[3], expected[12]]


def test_the_last_part_goes_on_after_its_end() -> None:
    assert compose([(10, EXP)])(50) == EXP(50)
    assert compose([(10, EXP)]).fingerprint == compose([(None, EXP)]).fingerprint


PARTS = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from([EXP, TRI, FIX])), min_size=1, max_size=4
)


def chain(parts: list[tuple[int, LRPolicy]]) -> LRPolicy:
    ends = np.cumsum([length for length, _ in parts]).tolist()
    return compose(list(zip(ends, [policy for _, policy in parts], strict=True)))


@settings(max_examples=100, deadline=None, database=None)
@given(PARTS, PARTS, st.integers(1, 200), st.integers(0, 60))
def test_compositions_of_compositions(
    first: list[tuple[int, LRPolicy]], second: list[tuple[int, LRPolicy]], end: int, t: int
) -> None:
    a, b = chain(first), chain(second)
    both = compose([(end, a), (None, b)])
    assert both.parts is not None
    assert all(policy.function != "COMPOSED" for _, policy in both.parts)
    assert both(t) == (a(t) if t < end else b(t - end))
    assert LRPolicy.from_dict(both.to_dict()) == both
    thrice = compose([(5, FIX), (end + 40, both), (None, a)])
    assert thrice(t) == (FIX(t) if t < 5 else both(t - 5) if t < end + 40 else a(t - end - 40))


def test_composed_policies_stay_within_their_bounds() -> None:
    policy = compose([(10, EXP), (25, TRI), (None, FIX)])
    assert policy.bounds == (0.0, 1.0)


def test_warmup_reaches_the_first_lr_of_the_policy() -> None:
    policy = warmup(EXP, 5)
    np.testing.assert_allclose(policy(range(6)), [0.2, 0.36, 0.52, 0.68, 0.84, 1.0])
    assert policy(range(5, 20)).tolist() == EXP(range(15)).tolist()
    assert warmup(EXP, 1)([0, 1, 2]).tolist() == [1.0, 1.0, EXP(1)]
    assert warmup(compose([(10, FIX), (None, EXP)]), 4)(14) == 1.0


def test_knee() -> None:
    policy = knee(0.4, 60, 100)
    np.testing.assert_allclose(policy([0, 59, 60, 80, 100, 500]), [0.4, 0.4, 0.4, 0.2, 0, 0])


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_one_cycle_stays_low_after_its_end(anneal: str) -> None:
    policy = one_cycle(0.5, 200, anneal=anneal)  # type: ignore[arg-type]
    values = policy(np.arange(1000))
    assert int(values.argmax()) == 59
    assert values[59] == 0.5
    assert values[199:].tolist() == [policy(199)] * 801
    np.testing.assert_allclose([values[0], values[-1]], [0.02, 2e-6])


def test_warmup_stable_decay() -> None:
    policy = warmup_stable_decay(0.5, 100, warmup_iterations=10, decay_iterations=20, k1=0.1)
    np.testing.assert_allclose(
        policy([0, 5, 10, 79, 80, 90, 100, 300]), [0.05, 0.275, 0.5, 0.5, 0.5, 0.3, 0.1, 0.1]
    )


def test_sgdr_restarts() -> None:
    policy = sgdr(1.0, 0.2, 10, multiplier=2, cycles=3)
    np.testing.assert_allclose(policy([0, 5, 10, 20, 30, 50]), [1, 0.6, 1, 0.6, 1, 0.6])
    np.testing.assert_allclose(policy([70, 90, 110]), [1, 0.6, 1])


BAD: list[tuple[Callable[[], LRPolicy], str]] = [
    (lambda: compose([]), "parts=(): expected"),
    (lambda: compose([(0, FIX)]), "end=0: expected a positive number"),
    (lambda: compose([("5", FIX)]), "end='5': expected"),  # type: ignore[list-item]
    (lambda: compose([(5, FIX), (5, EXP)]), "end=5: expected more than the end before, 5"),
    (lambda: compose([(None, FIX), (5, EXP)]), "end=None: expected an end iteration"),
    (lambda: compose([(5, 0.1)]), "parts[0]=0.1: expected an LRPolicy"),  # type: ignore[list-item]
    (lambda: compose([FIX]), "expected an (end iteration, LRPolicy) pair"),  # type: ignore[list-item]
    (lambda: warmup(FIX, 0), "n=0: expected a whole number of at least 1"),
    (lambda: warmup(FIX, 2.5), "n=2.5: expected a whole number of at least 1"),  # type: ignore[arg-type]
    (lambda: warmup(LRPolicy("TRI", k0=1, k1=0, l=5), 3), "its first LR is 0"),
    (lambda: knee(0.1, 100, 100), "total=100: expected more iterations"),
    (lambda: knee(0, 10, 100), "k0=0: expected a learning rate > 0"),
    (lambda: one_cycle(0, 100), "k_max=0: expected a learning rate > 0"),
    (lambda: one_cycle(0.1, 3), "total=3: expected more iterations"),
    (lambda: one_cycle(0.1, 100, pct_start=0), "pct_start=0: expected a share"),
    (lambda: one_cycle(0.1, 100, pct_start=1), "pct_start=1: expected a share"),
    (lambda: one_cycle(0.1, 100, div_factor=0.5), "div_factor=0.5: expected a factor >= 1"),
    (lambda: one_cycle(0.1, 100, anneal="sin"), "unknown anneal 'sin'"),  # type: ignore[arg-type]
    (
        lambda: warmup_stable_decay(0.1, 30, warmup_iterations=10, decay_iterations=20),
        "total=30: expected more iterations than its parts take, 30",
    ),
    (lambda: sgdr(0.1, 0, 10, cycles=0), "cycles=0: expected"),
    (lambda: sgdr(0.1, 0, 10, multiplier=0, cycles=2), "multiplier=0: expected"),
    (lambda: sgdr(0.1, 0, 10, multiplier=10, cycles=1000), "l=10"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_values_get_one_clear_line(make: Callable[[], LRPolicy], message: str) -> None:
    with pytest.raises(LRBenchError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
