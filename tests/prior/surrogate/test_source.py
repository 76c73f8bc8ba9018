"""What one task's runs say of all policies."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lrbench_hpo.policies.features import BLOCKS
from lrbench_hpo.prior.surrogate import Source, Surface

NAN = float("nan")


def surface(features, scores):
    return Surface(features, np.array(scores, float))


def risk(known, features):
    return known.predict(features, np.zeros(1))[1][0]


def test_it_ranks_policies_that_it_has_not_seen(world):
    known = world.source().surface
    new = world.drawn(200, seed=5).features
    truth = world.score(new)
    ended = np.isfinite(truth)
    ranks = [np.argsort(np.argsort(values[ended])) for values in (known.mean(new), truth)]
    assert np.corrcoef(ranks)[0, 1] > 0.8


def test_the_best_is_above_the_worst_and_diverged_runs_below_all(constant):
    known = surface(constant(-3, -2, -1, 0, 1), [0.3, 0.7, 0.9, 0.5, NAN])
    said = known.mean(constant(-3, -2, -1, 0, 1))
    assert said.argmax() == 2
    assert known.values.argmin() == 4
    assert known.values[4] == pytest.approx(known.values[:4].min() - 1)
    assert known.diverged.tolist() == [0, 0, 0, 0, 1]
    assert said[4] < said[2] - 1


def test_where_nobody_has_been_little_is_expected(constant):
    known = surface(constant(-1, -1.1), [0.9, 0.89])
    assert known.mean(constant(-6))[0] == pytest.approx(-3, abs=0.1)
    assert known.mean(constant(-1))[0] > -1.5


@settings(max_examples=20)
@given(st.floats(-3, 3))
def test_it_moves_with_all_its_lrs(shift):
    random = np.random.default_rng(0)
    features, scores = random.uniform(-4, 0, (12, BLOCKS)), random.uniform(0, 1, 12)
    scores[3] = NAN
    new = random.uniform(-4, 0, (5, BLOCKS))
    here, there = surface(features, scores), surface(features + shift, scores)
    np.testing.assert_allclose(there.mean(new + shift), here.mean(new), atol=1e-6)
    np.testing.assert_allclose(risk(there, new + shift), risk(here, new), atol=1e-6)


def test_read_with_all_lrs_shifted_it_says_the_same_that_much_higher(world):
    known, curves = world.source().surface, world.drawn(20).features
    shifts = np.array([-0.6, 0.0, 0.3])
    means, risks = known.predict(curves, shifts)
    assert means.shape == risks.shape == (3, 20)
    for row, shift in enumerate(shifts):
        [mean], [share] = known.predict(curves - shift, np.zeros(1))
        np.testing.assert_allclose(means[row], mean, atol=1e-6)
        np.testing.assert_allclose(risks[row], share, atol=1e-6)
    np.testing.assert_allclose(known.mean(curves), means[1])


def test_risk_is_where_runs_diverged(constant):
    known = surface(constant(-3, -2, -1, 1, 1.1, 1.2), [0.3, 0.7, 0.9, NAN, NAN, NAN])
    low, high, between = risk(known, constant(-2, 1.1, 0))
    assert low < 0.01
    assert high > 0.8
    assert low < between < high
    assert ((risk(known, constant(*np.linspace(-7, 4, 50))) * 2 - 1) ** 2 <= 1).all()
    assert risk(surface(constant(-3, -2), [0.3, 0.7]), constant(1.0)).tolist() == [0]


def test_risk_is_more_local_than_regret(constant):
    """Half a decade lower may be fine; a decade lower mostly is."""
    known = surface(constant(-1, 0), [0.9, NAN])
    fine, half, lost = risk(known, constant(-1, -0.5, 0))
    assert fine < 0.01
    assert 0.05 < half < lost


def test_one_diverged_run_is_no_certainty(constant):
    assert 0.3 < risk(surface(constant(1), [NAN]), constant(1))[0] < 0.8


@pytest.mark.parametrize(
    ("scores", "unit"),
    [
        ([0.9], 2e-3),
        ([NAN, NAN], 2e-3),
        ([0.5, 0.5, 0.5], 2e-3),
        ([0.1, 0.1, 0.1, 0.5, 0.9], 0.025 * 0.8),
        ([NAN, 0.1, 0.1, 0.1, 0.5, 0.9], 0.025 * 0.8),
    ],
)
def test_the_unit_is_a_share_of_what_the_policy_decides(scores, unit, constant):
    known = surface(constant(*range(len(scores))), scores)
    assert known.unit == pytest.approx(unit)


@pytest.mark.parametrize(
    "scores", [[0.9], [NAN], [NAN, NAN, NAN], [0.5, 0.5, 0.5], [-1.0, 1.0, -1.0]]
)
def test_poor_sources_still_say_something(scores, constant):
    known = surface(constant(*range(len(scores))), scores)
    new = constant(-9, 0, 9)
    assert np.isfinite(known.mean(new)).all()
    assert ((risk(known, new) >= 0) & (risk(known, new) <= 1)).all()
    assert np.isfinite(known.best_constant)
    assert 0 < Source("a", 1.0, known).weight < np.inf


def test_runs_that_contradict_each_other_mean_their_middle(constant):
    known = surface(constant(-1, -1, -3, -3), [0.9, 0.1, 0.9, 0.9])
    twice, once = known.mean(constant(-1, -3))
    assert known.values[1] < twice < once


def test_the_best_constant_lr(world, constant):
    known = world.source().surface
    assert known.best_constant == pytest.approx(-1, abs=0.3)
    decades = np.arange(-4, 1.1, 0.5)
    fine = surface(constant(*decades), np.exp(-((decades + 2) ** 2)))
    assert fine.best_constant == pytest.approx(-2, abs=0.1)
    assert surface(constant(-1.02), [0.9]).best_constant == pytest.approx(-1.02)
    low = surface(constant(-9, -8.5), [0.9, 0.8]).best_constant  # below all that is looked at
    assert -9 <= low <= -8.5
    rising = surface(constant(-3, -2, -1), [0.1, 0.2, 0.9]).best_constant
    assert rising <= -1  # never beyond what was tried


@given(st.floats(0.05, 0.95), st.floats(0.01, 0.05), st.integers(1, 50))
def test_likeness_trust_and_runs_add_weight(alike, more, runs):
    def weight(similarity, runs, trust=1.0):
        known = surface(np.zeros((runs, BLOCKS)), np.zeros(runs))
        return Source("a", similarity, known, trust=trust).weight

    assert weight(alike + more, runs) > weight(alike, runs) > 0
    assert weight(alike, runs + 1) > weight(alike, runs)
    assert weight(alike, runs, 0.5) == pytest.approx(weight(alike, runs) / 2)
    assert weight(1.0, runs) > 2 * weight(0.6, runs)
