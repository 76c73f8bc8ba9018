"""LR curves as points: what a distance between them means."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.features import BLOCKS, curve_features
from lrbench_hpo.prior.surrogate.embedding import embedded

CURVES = st.integers(1, 5).flatmap(
    lambda n: arrays(np.float64, (n, BLOCKS), elements=st.floats(-6, 2))
)


def apart(left, right):
    return float(np.linalg.norm(np.diff(embedded(np.array([left, right])), axis=0)))


@given(CURVES, st.floats(-4, 4))
def test_a_factor_on_all_lrs_moves_every_policy_by_the_same_vector(curves, shift):
    moved = embedded(curves + shift) - embedded(curves)
    np.testing.assert_allclose(moved, np.tile(moved[:1], (len(curves), 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 2 * abs(shift), atol=1e-9)


@given(CURVES)
def test_each_row_for_itself(curves):
    one_by_one = np.vstack([embedded(row[None]) for row in curves])
    np.testing.assert_allclose(embedded(curves), one_by_one)


def test_area_peak_and_end_weigh_more_than_a_block_in_between():
    flat = np.zeros(BLOCKS)
    middle, end = flat.copy(), flat.copy()
    middle[5], end[-1] = -1, -1
    assert apart(flat, end) > 2 * apart(flat, middle)
    peak = flat.copy()
    peak[5] = 1
    assert apart(flat, peak) > 2 * apart(flat, middle)


def test_the_area_is_that_of_the_lrs_not_of_their_decades():
    wave = np.tile([1.0, -1.0], BLOCKS // 2)
    assert embedded(wave[None])[0, BLOCKS] == pytest.approx(np.log10(5.05))
    assert apart(wave, -wave) > 1.9  # one starts high, the other ends high


def test_a_schedule_and_the_same_backwards_are_far_apart():
    down = np.linspace(0, -2, BLOCKS)
    assert apart(down, down[::-1]) > 2


def test_the_same_curve_of_two_functions_is_one_point():
    step = curve_features(LRPolicy("STEP", k0=0.1, gamma=0.1, l=500), 1_000)
    nstep = curve_features(LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[500]), 1_000)
    assert apart(step, nstep) == pytest.approx(0)
