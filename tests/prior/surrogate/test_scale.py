"""Log regret: results of any task on one scale."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lrbench_hpo.prior.surrogate.scale import log_regret

SCORES = st.lists(st.floats(-1, 1), min_size=1, max_size=20).map(np.array)
UNITS = st.floats(1e-3, 0.1)


@given(SCORES, UNITS)
def test_it_is_monotone_and_zero_at_the_best(scores, unit):
    regret = log_regret(scores, scores.max(), unit)
    order = np.argsort(scores)
    assert (np.diff(regret[order]) >= 0).all()
    assert regret.max() == 0
    assert regret[scores < scores.max() - unit].max(initial=-1) <= -np.log(2) + 1e-9


@given(SCORES, UNITS, st.floats(-5, 5), st.floats(0.1, 100))
def test_neither_the_zero_nor_the_unit_of_scores_matters(scores, unit, zero, factor):
    here = log_regret(scores, scores.max(), unit)
    there = log_regret(factor * scores + zero, factor * scores.max() + zero, factor * unit)
    np.testing.assert_allclose(there, here, atol=1e-6)


@given(SCORES, UNITS)
@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_counts_as_the_worst(lost, scores, unit):
    regret = log_regret(np.append(scores, lost), scores.max(), unit)
    assert np.isfinite(regret).all()
    assert regret[-1] == regret[:-1].min()


def test_it_is_linear_near_the_best_and_flat_far_from_it():
    near, twice = log_regret(np.array([0.8999, 0.8998]), 0.9, 0.01)
    assert twice == pytest.approx(2 * near, rel=0.01)
    a, b, c = log_regret(np.array([0.9, 0.5, 0.1]), 0.9, 0.01)
    assert b - c < (a - b) / 4


def test_nothing_known_and_above_the_best():
    assert log_regret(np.array([np.nan, np.nan]), 0.0, 0.01).tolist() == [0, 0]
    assert log_regret(np.array([0.95]), 0.9, 0.01).tolist() == [0]
    assert log_regret(np.zeros(0), 0.0, 0.01).size == 0
