"""What a trial is expected to gain."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lrbench_hpo.prior.surrogate.acquisition import chance_above, expected_improvement

MEANS = st.floats(-10, 5)
SPREADS = st.floats(0.05, 3)


def gain(mean, spread, best):
    return float(expected_improvement(np.array([mean]), np.array([spread]), best)[0])


@given(MEANS, SPREADS, MEANS)
def test_it_is_never_negative_nor_less_than_that_of_the_mean(mean, spread, best):
    assert gain(mean, spread, best) >= max(0, mean - best) - 1e-12
    assert gain(mean, spread, best) >= 0


@given(MEANS, SPREADS, MEANS, st.floats(0.01, 2))
def test_more_hope_and_more_doubt_gain_more(mean, spread, best, more):
    slack = 1e-12
    assert gain(mean + more, spread, best) >= gain(mean, spread, best) - slack
    assert gain(mean, spread + more, best) >= gain(mean, spread, best) - slack
    assert gain(mean, spread, best + more) <= gain(mean, spread, best) + slack


@pytest.mark.parametrize(("mean", "spread", "best"), [(0, 1, 0.5), (-2, 0.7, -1), (1, 2, -1)])
def test_it_is_the_mean_of_draws(mean, spread, best):
    draws = np.random.default_rng(0).normal(mean, spread, 400_000)
    assert gain(mean, spread, best) == pytest.approx(np.maximum(draws - best, 0).mean(), abs=0.01)
    assert chance_above(mean, spread, best) == pytest.approx((draws > best).mean(), abs=0.005)


@given(MEANS, SPREADS, MEANS)
def test_chances_of_above_and_below_are_one(mean, spread, best):
    assert chance_above(mean, spread, best) + chance_above(-mean, spread, -best) == pytest.approx(1)
    assert 0 <= chance_above(mean, spread, best) <= 1


@pytest.mark.parametrize("distance", [5, 7, 8, 8.2, 9, 12])
def test_hopeless_policies_still_have_an_order(distance):
    nearer, farther = gain(-distance, 1, 0), gain(-distance - 0.01, 1, 0)
    assert nearer > farther > 0
