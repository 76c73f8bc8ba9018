"""LR curves as features, whatever the function."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lrbench_hpo import LRPolicy
from lrbench_hpo.policies.features import BLOCKS, curve_features


@given(st.floats(1e-6, 1), st.floats(1e-3, 1e3), st.integers(1, 10**6))
def test_a_factor_on_all_lrs_is_added_to_all_features(lr, factor, budget):
    here = curve_features(LRPolicy("COS", k0=lr / 100, k1=lr, l=budget), budget)
    there = curve_features(LRPolicy("COS", k0=lr * factor / 100, k1=lr * factor, l=budget), budget)
    np.testing.assert_allclose(there - here, np.log10(factor), atol=1e-6)


@pytest.mark.parametrize("budget", [320, 3_200, 64_000])
def test_a_longer_budget_with_the_same_shape_is_the_same_point(budget):
    features = curve_features(LRPolicy("STEP", k0=0.1, gamma=0.1, l=budget // 2), budget)
    assert features == pytest.approx([-1] * 8 + [-2] * 8)


def test_the_mean_of_a_part_counts_not_its_first_lr():
    wave = curve_features(LRPolicy("TRI", k0=1e-6, k1=0.2, l=10), 1_600)
    assert wave == pytest.approx(np.log10(0.1), abs=0.01)


def test_lrs_that_train_nothing_any_more_are_all_one():
    deep = curve_features(LRPolicy("STEP", k0=1.0, gamma=1e-6, l=800), 1_600)
    assert deep[-1] == pytest.approx(-3)
    assert deep.max() == pytest.approx(0)


def test_one_iteration_is_a_constant():
    features = curve_features(LRPolicy("COS", k0=0.001, k1=0.1, l=1), 1)
    assert features.shape == (BLOCKS,)
    assert np.isfinite(features).all()
