"""How far similar tasks are believed, before results and after."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from lrbench_hpo.policies.features import BLOCKS
from lrbench_hpo.prior.surrogate import Experts
from lrbench_hpo.prior.surrogate.scale import log_regret

SHIFTS = ((-0.6, 0.1), (-0.3, 0.2), (0.0, 0.4), (0.3, 0.2), (0.6, 0.1))


def believed(world, sources, count, seed=3):
    """The experts, and their weights after each of so many results from bad to good."""
    experts = Experts(sources)
    pool = world.drawn(200, seed).features
    scores = world.score(pool)
    ended = np.flatnonzero(np.isfinite(scores))
    order = ended[np.argsort(scores[ended])]
    chosen = np.random.default_rng(seed).permutation(order[:: len(order) // count][:count])
    said, _ = experts.predict(pool[chosen])
    weights = []
    for n in range(1, count + 1):
        results = scores[chosen[:n]]
        weights.append(experts.weights(said[:, :n], log_regret(results, results.max(), 0.02)))
    return experts, weights


def test_priors_are_shares_and_leave_room_for_none(world):
    sources = [world.source(shifts=SHIFTS), world.source(runs=5, name="few", shifts=SHIFTS)]
    experts = Experts(sources)
    assert len(experts.experts) == 10
    assert experts.priors.sum() == pytest.approx(0.85)
    assert (experts.priors > 0).all()
    assert experts.priors[:5].sum() > experts.priors[5:].sum()
    assert experts.priors[:5] / experts.priors[:5].sum() == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.1])
    assert experts.weights(np.zeros((10, 0)), np.zeros(0)).tolist() == experts.priors.tolist()


def test_a_shift_says_what_the_source_says_that_much_lower(world):
    [plain], [moved] = (
        Experts([world.source(shifts=[(shift, 1.0)])]).experts for shift in (0.0, 0.5)
    )
    curves = world.drawn(10).features
    here, there = Experts([plain.source]), Experts([moved.source])
    for moved, plain in zip(there.predict(curves + 0.5), here.predict(curves), strict=True):
        np.testing.assert_allclose(moved, plain, atol=1e-6)


def test_who_agrees_gains_and_who_says_the_opposite_is_dropped(world):
    right, wrong = world.source(name="right"), world.source(name="wrong", upside_down=True)
    experts, weights = believed(world, [right, wrong], 8)
    assert experts.priors[0] == pytest.approx(experts.priors[1])
    assert weights[7][0] > 0.8
    assert weights[7][1] < 0.1


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 1, 3]])
def test_who_says_the_opposite_is_dropped_within_five_results(order):
    values = np.array([0.0, -1.5, -3.0, -4.5, -6.0])[order]
    experts = Experts([])
    experts.priors = np.array([0.85])
    alone = [experts.weights((-6.0 - values)[None, :n], values[:n])[0] for n in range(1, 6)]
    assert alone[4] < 0.02
    assert experts.weights(values[None], values)[0] > 0.9


def test_an_upside_down_task_is_believed_less_even_alone(world):
    """Most policies are poor on both, so that results from all over the space say little."""
    for seed in range(3):
        experts, weights = believed(world, [world.source(upside_down=True)], 12, seed)
        assert weights[11].sum() < experts.priors.sum() - 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_good_source_alone_is_believed_more(world, seed):
    _, weights = believed(world, [world.source()], 8, seed)
    assert weights[7].sum() > 0.9


@pytest.mark.parametrize(("wrong_by", "row"), [(0.3, 1), (-0.3, 3)])
def test_a_scale_that_is_off_is_found_out(world, wrong_by, row):
    """Where a task's LRs lie 0.3 decades too high, they have to go down by that much."""
    for seed in range(3):
        experts, weights = believed(world, [world.source(wrong_by, shifts=SHIFTS)], 15, seed)
        assert experts.experts[row].shift == pytest.approx(-wrong_by)
        assert weights[14][row] > 1.5 * experts.priors[row]
        assert weights[14][4 - row] < 0.8 * experts.priors[4 - row]
        down, up = weights[14][[0, 1]].sum(), weights[14][[3, 4]].sum()
        assert max(down, up) > 2 * min(down, up)
        assert (down > up) == (row == 1)


def test_a_constant_offset_is_no_disagreement():
    """The best so far is not the best there is, so all results may seem too good alike."""
    said = np.array([[0.0, -1.0, -2.0, -3.0]])
    experts = Experts([])
    experts.priors = np.array([0.5])
    same = experts.weights(said, said[0])
    offset = experts.weights(said, said[0] + 1.0)
    shuffled = experts.weights(said, said[0][::-1])
    assert offset[0] > 0.75 * same[0]
    assert shuffled[0] < 0.5 * offset[0]


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            arrays(float, (3, n), elements=st.floats(-8, 1)),
            arrays(float, n, elements=st.floats(-8, 0)),
        )
    )
)
def test_weights_are_shares_whatever_the_results(drawn):
    said, values = drawn
    experts = Experts([])
    experts.priors = np.array([0.3, 0.3, 0.25])
    weights = experts.weights(said, values)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights.sum() < 1
    order = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_allclose(experts.weights(said[:, order], values[order]), weights)


def test_the_likelihood_is_that_of_the_model():
    """Errors of an expert: N(0, misfit^2 I + offset^2 1 1^T), tempered by a quarter."""
    random = np.random.default_rng(0)
    said, values = random.normal(-2, 1, (2, 4)), random.normal(-2, 1, 4)
    experts = Experts([])
    experts.priors = np.array([0.5, 0.35])
    densities = []
    for row, misfit in [*((row, 1.0) for row in said), (np.zeros(4), 1.6)]:
        covariance = misfit**2 * np.eye(4) + 1.5**2
        error = values - row
        log = -0.5 * error @ np.linalg.solve(covariance, error)
        densities.append(log - 0.5 * np.linalg.slogdet(covariance)[1])
    expected = np.array([0.5, 0.35, 0.15]) * np.exp(0.25 * np.array(densities))
    expected /= expected.sum()
    np.testing.assert_allclose(experts.weights(said, values), expected[:2], rtol=1e-9)


def test_the_opinion_is_the_weighted_mean_and_their_disagreement(world):
    experts = Experts([world.source()])
    said, risks = np.array([[0.0, -2.0], [-2.0, -2.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    opinion = experts.mixture(said, risks, np.array([0.5, 0.5]))
    assert opinion.mean.tolist() == [-1, -2]
    assert opinion.spread.tolist() == [1, 0]
    assert opinion.risk.tolist() == [0.5, 1]


def test_each_expert_speaks_in_its_own_row(world):
    sources = [world.source(shifts=SHIFTS, name="a"), world.source(0.4, runs=20, name="b")]
    experts, curves = Experts(sources), world.drawn(10).features
    said, risks = experts.predict(curves)
    for row, expert in enumerate(experts.experts):
        means, shares = expert.source.surface.predict(curves, np.array([expert.shift]))
        np.testing.assert_allclose(said[row], means[0], atol=1e-9)
        np.testing.assert_allclose(risks[row], shares[0], atol=1e-9)


def test_leaving_out_who_is_hardly_believed_changes_little(world):
    """What is said of new candidates is compared with what all experts say of the others."""
    sources = [world.source(0.1 * n, runs=30, shifts=SHIFTS, name=f"{n}") for n in range(8)]
    experts, curves = Experts(sources), world.drawn(40, seed=1).features
    everything = experts.predict(curves)
    for heeded in (2, 4, 8, 20, 40):
        weights = np.where(np.arange(40) < heeded, 0.85, 0.002)
        weights[:heeded] /= heeded
        few = experts.predict(curves, weights)
        whole, part = (experts.mixture(*told, weights) for told in (everything, few))
        np.testing.assert_allclose(part.mean, whole.mean, atol=0.2)
        np.testing.assert_allclose(part.risk, whole.risk, atol=0.2)


def test_no_experts_no_opinion():
    experts, curves = Experts([]), np.zeros((4, BLOCKS))
    said, risks = experts.predict(curves)
    assert said.shape == risks.shape == (0, 4)
    weights = experts.weights(said, np.array([0.0, -1, -2, -3]))
    assert weights.shape == (0,)
    opinion = experts.mixture(said, risks, weights)
    assert opinion.mean.tolist() == opinion.spread.tolist() == opinion.risk.tolist() == [0] * 4
