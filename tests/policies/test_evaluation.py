from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy, compose, knee, one_cycle, sgdr, warmup

BOUNDS = {"k0": 0.001, "k1": 0.9}


def test_cos_fits_the_papers_best_iterations() -> None:
    policy = LRPolicy("COS", k0=0.01, k1=0.06, l=2000)
    assert policy.minima(10_000) == (2000, 6000, 10_000)
    assert policy.minima(70_000)[-1] == 70_000


@pytest.mark.parametrize("name", [name for name, row in FUNCTIONS.items() if row.is_cyclic])
def test_minima_are_where_the_lr_is_lowest(name: str) -> None:
    shape = {"gamma": 0.999} if name.endswith("EXP") else {}
    policy = LRPolicy(name, l=50, **BOUNDS, **shape)
    values = policy(np.arange(501))
    if FUNCTIONS[name].wave.period == 1:  # type: ignore[union-attr]
        # A restart has its lowest LR in the last update before the new tooth.
        expected = [t + 1 for t in range(1, 500) if values[t + 1] > values[t]]
    else:
        expected = [t for t in range(1, 501) if values[t] <= BOUNDS["k0"] + 1e-12]
    assert list(policy.minima(500)) == expected
    assert policy.is_cyclic


@pytest.mark.parametrize("name", [name for name, row in FUNCTIONS.items() if not row.is_cyclic])
def test_decaying_functions_have_none(name: str) -> None:
    values = {"k0": 0.1, "gamma": 0.9, "p": 1.0, "l": [10] if name == "NSTEP" else 10}
    policy = LRPolicy(name, **{key: values[key] for key in FUNCTIONS[name].parameters})
    assert policy.minima(1000) == ()
    assert not policy.is_cyclic
    assert policy.evaluation_points(1000, limit=4) == (250, 500, 750, 1000)


def test_fractional_cycles_end_with_their_last_update() -> None:
    assert LRPolicy("RSW", k0=1, k1=0, l=2.5).minima(10) == (3, 5, 8, 10)
    assert LRPolicy("TRI", k0=1, k1=0, l=1.3).minima(8) == (3, 6, 8)


def test_compositions_have_the_minima_of_their_parts() -> None:
    assert sgdr(1.0, 0.0, 10, multiplier=2, cycles=3).minima(200) == (10, 30, 70, 110, 150, 190)
    tri = LRPolicy("TRI", k0=0.1, k1=1, l=10)
    assert warmup(tri, 5).minima(50) == (25, 45)
    assert compose([(30, tri), (None, LRPolicy("FIX", k0=0.1))]).minima(100) == (20,)
    assert compose([(40, tri), (None, LRPolicy("FIX", k0=0.1))]).minima(100) == (20,)
    assert compose([(40, tri), (None, LRPolicy("FIX", k0=0.5))]).minima(100) == (20, 40)


@pytest.mark.parametrize("policy", [one_cycle(1.0, 100), knee(1.0, 50, 100)])
def test_one_fall_is_no_cycle(policy: LRPolicy) -> None:
    assert not policy.is_cyclic
    assert policy.minima(1000) == ()
    assert policy.evaluation_points(100, limit=5) == (20, 40, 60, 80, 100)


def test_evaluation_points_of_cyclic_policies() -> None:
    policy = LRPolicy("TRI", k0=0.1, k1=1, l=500)
    assert policy.evaluation_points(3000) == (1000, 2000, 3000)
    assert policy.evaluation_points(3500) == (1000, 2000, 3000, 3500)
    assert policy.evaluation_points(20_000, limit=5) == (4000, 9000, 14_000, 19_000, 20_000)
    assert policy.evaluation_points(20_000, limit=1) == (20_000,)
    # Not one minimum in the budget: only its end is comparable.
    assert policy.evaluation_points(900) == (900,)


@pytest.mark.parametrize(("name", "half"), [("COS", 100), ("COS", 300), ("TRI", 100), ("SIN", 200)])
def test_half_a_wave_is_no_cycle_of_the_budget(name: str, half: int) -> None:
    policy = LRPolicy(name, k0=0.1, k1=1, l=half)
    assert policy.is_cyclic
    assert policy.evaluation_points(100, limit=5) == (20, 40, 60, 80, 100)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.sampled_from(["COS", "TRI", "COSRSW", "FIX"]),
    st.floats(1, 500),
    st.integers(1, 2000),
    st.integers(1, 20),
)
def test_points_are_sorted_unique_and_within_the_budget(
    name: str, half: float, budget: int, limit: int
) -> None:
    policy = LRPolicy(name, k0=0.1, **({} if name == "FIX" else {"k1": 1.0, "l": half}))
    points = policy.evaluation_points(budget, limit)
    assert points[-1] == budget
    assert len(points) <= limit
    assert list(points) == sorted(set(points))
    assert points[0] >= 1
    minima = policy.minima(budget)
    turns = len({*np.sign(np.diff(policy(np.arange(budget)))).tolist()} - {0.0}) > 1
    assert set(points[:-1]) <= set(minima) or not policy.is_cyclic or not turns
    assert all(0 < m <= budget for m in minima)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "10", None])
def test_bad_budgets(bad: object) -> None:
    policy = LRPolicy("FIX", k0=0.1)
    with pytest.raises(PolicyError, match=r"^max_iterations=.*: expected a whole number"):
        policy.minima(bad)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"^max_iterations=.*: expected a whole number"):
        policy.evaluation_points(bad)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"^limit=.*: expected a whole number"):
        policy.evaluation_points(100, limit=bad)  # type: ignore[arg-type]


# Eighths: their sums are exact, so that a cycle and a part end together or not, without rounding.
LENGTHS = st.integers(8, 400).map(lambda eighths: eighths / 8)
WAVY = st.builds(
    lambda name, half, scale: LRPolicy(
        name, k0=0.1, k1=scale, l=half, **({"gamma": 0.99} if name.endswith("EXP") else {})
    ),
    st.sampled_from([name for name, row in FUNCTIONS.items() if row.is_cyclic]),
    LENGTHS,
    st.sampled_from([0.0, 1.0]),
)
ENDS = st.lists(LENGTHS, min_size=1, max_size=3)


def listed(policy: LRPolicy, budget: int) -> list[int]:
    """All minima, one cycle after the other, as the definition has them."""
    found = set()
    for index, (start, end, part) in enumerate(policy.spans):
        wave = FUNCTIONS[part.function].wave
        if wave is None:
            continue
        rest = [following for _, _, following in policy.spans[index + 1 :]]
        rests = bool(rest) and rest[0](0) <= part.bounds[0]
        times = (wave.period * k - wave.shift for k in range(1, 2 * budget + 2))
        for time in (time * part.l for time in times):  # type: ignore[operator]
            if time <= min(end, budget) - start and not (rests and start + time >= end):
                found.add(int(np.ceil(start + time)))
    return sorted(found)


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(WAVY, min_size=1, max_size=3), ENDS, st.integers(1, 300), st.integers(1, 12))
def test_points_are_those_of_a_plain_list(
    waves: list[LRPolicy], ends: list[float], budget: int, limit: int
) -> None:
    if len(waves) > 1:
        stops = np.cumsum(ends + ends)[: len(waves) - 1].tolist()
        policy = compose([*zip(stops, waves, strict=False), (None, waves[-1])][: len(waves)])
    else:
        policy = waves[0]
    everything = listed(policy, budget)
    assert list(policy.minima(budget)) == everything
    before = [minimum for minimum in everything if minimum < budget]
    if before:
        room = min(limit - 1, len(before))
        picked = [before[(i + 1) * len(before) // room - 1] for i in range(room)]
        assert policy.evaluation_points(budget, limit) == (*picked, budget)


def test_many_cycles_take_no_memory() -> None:
    policy = LRPolicy("COSRSW", k0=0.1, k1=1, l=1)
    tracemalloc.start()
    points = policy.evaluation_points(10**12, limit=5)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert points == (*((10**12 - 1) * i // 4 for i in (1, 2, 3, 4)), 10**12)
    assert most < 10**6  # bytes
