"""What a study's own results add to what similar tasks say."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lrbench_hpo.prior.surrogate.own import OwnResults

FAR = np.arange(6.0)[:, None] * 9  # points that teach each other nothing
NOTHING = np.zeros(6)


def fitted(points, values, prior=None, noise=0.0):
    prior = np.zeros(len(points)) if prior is None else np.asarray(prior, float)
    noise = np.broadcast_to(np.asarray(noise, float), len(points))
    return OwnResults.fitted(points, np.asarray(values, float), noise, prior)


def test_without_a_prior_results_count_where_they_are():
    own = fitted(FAR, [0, -4, -4, -4, -4, -4])
    mean, spread = own.predict(FAR, NOTHING)
    assert mean.argmax() == 0
    there, away = own.predict(np.array([[0.0], [4.5]]), np.zeros(2))[1]
    assert there < 0.6 * away
    assert spread.max() < away


def test_a_prior_that_is_right_is_hardly_changed():
    prior = np.array([0, -1, -2, -3, -4, -5.0])
    mean, _ = fitted(FAR, prior, prior).predict(FAR, prior)
    np.testing.assert_allclose(mean, prior, atol=0.1)


def test_an_offset_is_learnt_and_holds_everywhere():
    prior = np.full(6, -2.0)
    mean, _ = fitted(FAR, prior + 1, prior).predict(np.array([[500.0]]), np.array([-2.0]))
    assert mean[0] == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_how_much_the_policy_matters_here_is_learnt(factor):
    prior = np.array([0, -1, -2, -3, -4, -5.0])
    own = fitted(FAR, factor * prior, prior)
    low, high = own.predict(np.array([[500.0], [600.0]]), np.array([-5.0, 0.0]))[0]
    assert abs((high - low) / 5 - factor) < 0.7 * abs(1 - factor)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_more_results_never_make_it_less_sure(seed):
    random = np.random.default_rng(seed)
    points, values = random.normal(size=(6, 3)), random.normal(size=6)
    new = random.normal(size=(4, 3))
    more, fewer = (fitted(points[:n], values[:n]) for n in (6, 5))
    if more.process.amplitude == fewer.process.amplitude:
        spreads = [own.predict(new, np.zeros(4))[1] for own in (more, fewer)]
        assert (spreads[0] <= spreads[1] + 1e-9).all()


def test_a_trial_that_was_stopped_says_less():
    for noise, least, most in [(0.0, 0.6, 1.5), (3.0, 0.0, 0.3)]:
        own = fitted(FAR[:1], [1.5], noise=noise)
        mean, _ = own.predict(FAR[:1], np.zeros(1))
        assert least < mean[0] < most


def test_one_lucky_seed_is_no_incumbent():
    points = np.zeros((6, 1))
    own = fitted(points, [1, -1, -1, -1, -1, -1])
    assert -1 < own.incumbent < 0
    assert fitted(FAR[:1], [0.0]).incumbent == pytest.approx(0, abs=0.01)


def test_a_prior_that_is_off_from_policy_to_policy_is_taken_less_literally():
    prior = np.array([0, -1, -2, -3, -4, -5.0])
    right, wrong = fitted(FAR, prior, prior), fitted(FAR, prior[::-1], prior)
    assert right.process.amplitude < wrong.process.amplitude


def test_a_single_result_is_enough():
    mean, spread = fitted(FAR[:1], [-1.0]).predict(FAR, NOTHING)
    assert np.isfinite(mean).all()
    assert (spread > 0).all()
