"""The Gaussian process: laws of its kernel and of its posterior."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from lrbench_hpo.prior.surrogate.process import Process, kernel

COORDINATES = st.floats(-6, 2, width=32)
POINTS = st.integers(1, 8).flatmap(lambda n: arrays(np.float64, (n, 3), elements=COORDINATES))
WIDTHS = st.floats(0.5, 3)


def fitted(points, values, noise=0.1, amplitude=1.0, width=1.0, linear=None):
    noise = np.broadcast_to(np.asarray(noise, float), len(values))
    return Process.fitted(points, values, noise, width=width, amplitude=amplitude, linear=linear)


def values_at(points):
    return np.sin(points.sum(axis=1))


@given(POINTS, POINTS, WIDTHS)
def test_the_kernel_is_symmetric_a_share_and_one_at_home(left, right, width):
    between = kernel(left, right, width)
    assert between.shape == (len(left), len(right))
    assert (between > 0).all()
    assert (between <= 1).all()
    np.testing.assert_allclose(between, kernel(right, left, width).T, rtol=1e-9)
    np.testing.assert_allclose(np.diag(kernel(left, left, width)), 1, atol=1e-9)


@given(POINTS, WIDTHS)
def test_the_kernel_is_the_formula_and_a_covariance(points, width):
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    near = kernel(points, points, width)
    np.testing.assert_allclose(near, np.exp(-apart / (2 * width**2)), rtol=1e-9)
    assert np.linalg.eigvalsh(near).min() > -1e-9


@given(POINTS, COORDINATES, st.sampled_from([0.05, 0.5]))
def test_the_mean_misses_the_data_by_what_the_noise_explains(points, offset, noise):
    values = values_at(points) + offset
    process = fitted(points, values, noise)
    missed = values - process.mean(points)
    np.testing.assert_allclose(missed, (noise**2 + 1e-8) * process.weights, atol=1e-6)


def test_the_posterior_passes_near_its_data():
    points = np.arange(10.0)[:, None] * 2
    mean, spread = fitted(points, values_at(points), 0.05).predict(points)
    assert np.abs(mean - values_at(points)).max() < 0.02
    assert (spread < 0.051).all()


@given(POINTS, POINTS, st.floats(0.2, 2))
def test_data_never_make_it_less_sure(points, new, amplitude):
    linear, there = np.ones((len(points), 1)), np.ones((len(new), 1))
    _, spread = fitted(points, values_at(points), amplitude=amplitude).predict(new)
    assert (spread <= amplitude + 1e-9).all()
    process = fitted(points, values_at(points), amplitude=amplitude, linear=linear)
    _, both = process.predict(new, there)
    assert (both <= np.hypot(amplitude, 1) + 1e-9).all()
    fewer = fitted(points[1:], values_at(points)[1:], amplitude=amplitude).predict(new)[1]
    assert (spread <= fewer + 1e-6).all()


def test_far_away_it_knows_nothing():
    mean, spread = fitted(np.zeros((1, 2)), np.ones(1), amplitude=1.5).predict(np.full((1, 2), 9.0))
    assert mean == pytest.approx([0], abs=1e-9)
    assert spread == pytest.approx([1.5])


@given(POINTS, POINTS)
def test_the_mean_alone_is_that_of_the_prediction(points, new):
    linear, there = points[:, :1], new[:, :1]
    process = fitted(points, values_at(points), linear=linear)
    np.testing.assert_array_equal(process.mean(new, there), process.predict(new, there)[0])


def test_noisy_points_say_less():
    twice = np.zeros((2, 1))
    mean, _ = fitted(twice, np.array([1.0, -1.0]), [0.1, 1.0]).predict(np.zeros((1, 1)))
    assert mean[0] > 0.9
    same, _ = fitted(twice, np.array([1.0, -1.0]), [0.1, 0.1]).predict(np.zeros((1, 1)))
    assert same[0] == pytest.approx(0)


def test_the_factor_of_a_known_function_is_learnt():
    points = np.arange(8.0)[:, None] * 5
    process = fitted(points, 2 * points[:, 0], amplitude=0.1, linear=points)
    mean, _ = process.predict(np.array([[100.0]]), np.array([[100.0]]))
    assert mean[0] == pytest.approx(200, rel=0.01)


@given(st.integers(0, 100))
def test_the_evidence_follows_the_chain_rule(seed):
    """p(y1..yn) = p(y1..yn-1) p(yn | y1..yn-1)."""
    random = np.random.default_rng(seed)
    points, values = random.normal(size=(5, 2)), random.normal(size=5)
    noise = random.uniform(0.1, 1, 5)
    linear = random.normal(size=(5, 1))
    whole = fitted(points, values, noise, linear=linear)
    first = fitted(points[:4], values[:4], noise[:4], linear=linear[:4])
    mean, spread = first.predict(points[4:], linear[4:])
    variance = spread[0] ** 2 + noise[4] ** 2
    last = -0.5 * ((values[4] - mean[0]) ** 2 / variance + np.log(variance))
    assert whole.evidence == pytest.approx(first.evidence + last, rel=1e-4, abs=1e-4)


def test_the_same_point_twice_without_noise_can_be_computed():
    process = fitted(np.zeros((3, 2)), np.ones(3), 0.0)
    assert process.mean(np.zeros((1, 2))) == pytest.approx([1], abs=1e-3)
