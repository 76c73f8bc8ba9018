"""Candidates lie in the space, wherever they come from."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lrbench_hpo.policies import ALL_FUNCTIONS
from lrbench_hpo.policies.coordinates import Scale, to_policy
from lrbench_hpo.policies.features import BLOCKS, curve_features
from lrbench_hpo.policies.space import Range, SearchSpace
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.surrogate.candidates import Pool, drawn, near

SPACE = load_space("default")
SCALE = Scale(1_000, 0.1)
SEEDS = st.integers(0, 10**6)


def check(candidates, space, scale):
    for entry in candidates:
        inside, moved = space.clip(entry.function, entry.point)
        assert moved == []
        assert inside == pytest.approx(dict(entry.point))
        assert entry.policy == to_policy(entry.function, entry.point, scale)
        gaps = {name for name in entry.point if name.startswith("gap")}
        assert gaps == {f"gap{n + 1}" for n in range(int(entry.point.get("drops", 0)))}


@settings(max_examples=50)
@given(SEEDS, st.sampled_from([1, 2, 7, 50, 1_000, 10**6]), st.floats(1e-6, 1))
def test_all_candidates_lie_in_the_space(seed, budget, eta):
    space, scale = SPACE.within(budget), Scale(budget, eta)
    random = np.random.default_rng(seed)
    parents = drawn(space, scale, 20, random)
    check(parents, space, scale)
    children = near([(p.function, p.point) for p in parents], space, scale, 40, random)
    assert [c.function for c in children] == 2 * [p.function for p in parents]
    check(children, space, scale)


@given(SEEDS)
def test_parents_outside_the_space_have_children_within(seed):
    random = np.random.default_rng(seed)
    small = SPACE.restricted(["NSTEP", "SINEXP"])
    parents = [
        ("NSTEP", {"peak": 1e4, "drops": 9, "end": 1e-9, "gap1": 0.999, "gap9": 1e-4}),
        ("SINEXP", {"peak": 1e-7, "floor": 1.0, "half_cycles": 5_000, "end": 1.0}),
        ("SINEXP", {}),
    ]
    check(near(parents, small, SCALE, 12, random), small, SCALE)


@pytest.mark.parametrize("function", ALL_FUNCTIONS)
def test_children_are_near_their_parents(function):
    space = SPACE.restricted([function])
    random = np.random.default_rng(1)
    [parent] = drawn(space, SCALE, 1, random)
    home = curve_features(parent.policy, SCALE.max_iterations)

    def distance(candidates):
        features = Pool.of(candidates, SCALE.max_iterations).features
        return float(np.median(np.sqrt(((features - home) ** 2).mean(axis=1))))

    children = near([(function, parent.point)], space, SCALE, 60, random)
    assert 0 < distance(children) < 0.7 * distance(drawn(space, SCALE, 60, random))
    assert len({entry.policy for entry in children}) > 50


@pytest.mark.parametrize("edge", [0.03, 10])
def test_children_of_a_parent_at_the_edge_do_not_pile_up_there(edge):
    fix = SPACE.restricted(["FIX"])
    children = near([("FIX", {"peak": edge})], fix, SCALE, 50, np.random.default_rng(0))
    peaks = np.array([entry.point["peak"] for entry in children])
    assert (peaks == edge).sum() <= 1
    assert np.abs(np.log10(peaks / edge)).max() < 1.5  # and none comes out at the other end


def test_no_parents_no_children():
    assert near([], SPACE, SCALE, 5, np.random.default_rng(0)) == []


def test_parents_of_functions_that_the_space_has_not_have_no_children():
    """A study may hold results that were given by hand, or were made before its space changed."""
    small, parents = SPACE.restricted(["FIX"]), [("COS", {"peak": 1.0}), ("FIX", {"peak": 1.0})]
    found = near(parents, small, SCALE, 4, np.random.default_rng(0))
    assert [entry.function for entry in found] == ["FIX"] * 4
    assert near(parents[:1], small, SCALE, 4, np.random.default_rng(0)) == []


def test_every_function_is_drawn_as_often():
    names = [entry.function for entry in drawn(SPACE, SCALE, 3_000, np.random.default_rng(0))]
    counts = [names.count(function) for function in SPACE.functions]
    expected = 3_000 / len(SPACE.functions)
    assert min(counts) > 0.6 * expected
    assert max(counts) < 1.5 * expected


def test_equal_ratios_are_equally_likely_where_the_range_is_logarithmic():
    random = np.random.default_rng(0)
    peaks = [e.point["peak"] for e in drawn(SPACE.restricted(["FIX"]), SCALE, 2_000, random)]
    assert np.quantile(np.log10(peaks), [0.25, 0.5, 0.75]) == pytest.approx(
        np.log10(0.03) + np.log10(10 / 0.03) * np.array([0.25, 0.5, 0.75]), abs=0.1
    )
    middles = [e.point["midpoint"] for e in drawn(SPACE.restricted(["SIG"]), SCALE, 500, random)]
    assert np.mean(middles) == pytest.approx(0.5, abs=0.04)


def test_a_range_of_one_value_has_that_value():
    fixed = SearchSpace(
        {"COS": {n: Range(v, v) for n, v in [("peak", 2.0), ("floor", 0.01), ("half_cycles", 3)]}}
    )
    random = np.random.default_rng(0)
    found = drawn(fixed, SCALE, 5, random)
    found += near([("COS", found[0].point)], fixed, SCALE, 5, random)
    assert {tuple(sorted(entry.point.items())) for entry in found} == {
        (("floor", 0.01), ("half_cycles", 3), ("peak", 2.0))
    }


def test_the_same_random_numbers_give_the_same_candidates():
    first, again, other = (drawn(SPACE, SCALE, 20, np.random.default_rng(n)) for n in (3, 3, 4))
    assert first == again
    assert first != other


def test_pools_are_joined_row_by_row():
    random = np.random.default_rng(0)
    left, right = (Pool.of(drawn(SPACE, SCALE, n, random), 1_000) for n in (3, 2))
    both = left + right
    assert both.candidates == [*left.candidates, *right.candidates]
    for entry, row in zip(both.candidates, both.features, strict=True):
        np.testing.assert_array_equal(row, curve_features(entry.policy, 1_000))
    empty = Pool([], np.zeros((0, BLOCKS)))
    assert (left + empty) is left
    assert (empty + left) is left
    assert len(Pool.of([], 1_000).candidates) == 0
