"""Which LR function made a logged curve: exact ones are found exactly, bad ones are told."""

import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as schedulers

from lrbench_hpo.errors import RecordError, UnknownNameError
from lrbench_hpo.policies import ALL_FUNCTIONS, DEFAULT_FUNCTIONS, LRPolicy
from lrbench_hpo.policies.fitting import LIMIT, fit_policy

BUDGETS = st.integers(100, 60_000)
FLOATS = {"allow_nan": False, "allow_infinity": False}


@st.composite
def policies(draw, function):
    budget = draw(BUDGETS)
    high = 10 ** draw(st.floats(-4, 0.5, **FLOATS))
    low = high * 10 ** draw(st.floats(-4, -0.3, **FLOATS))
    half = max(2, int(budget / draw(st.floats(1, 40, **FLOATS))))
    left = 10 ** draw(st.floats(-4, -0.2, **FLOATS))
    match function:
        case "FIX":
            fields = {}
        case "STEP":
            length = max(1, int(budget / draw(st.floats(1.5, 30, **FLOATS))))
            fields = {"gamma": draw(st.floats(0.1, 0.95)), "l": length}
        case "NSTEP":
            drops = draw(st.sets(st.integers(1, budget - 1), min_size=1, max_size=6))
            fields = {"gamma": draw(st.floats(0.1, 0.8)), "l": sorted(drops)}
        case "EXP":
            fields = {"gamma": left ** (1 / budget)}
        case "INV":
            rate = min(1.0, 10 ** draw(st.floats(0, 4)) / budget)
            fields = {"gamma": rate, "p": draw(st.floats(0.3, 2))}
        case "POLY":
            length = int(budget * draw(st.sampled_from([1, 1, 0.7, 1.6])))
            power = draw(st.sampled_from([0.5, 1, 2]) | st.floats(0.4, 4))
            fields = {"p": power, "l": length, "k1": draw(st.sampled_from([None, low]))}
        case "TRIEXP" | "SINEXP":
            fields = {
                "k1": low,
                "gamma": (10 * left) ** (1 / budget) if left < 0.05 else 0.5 ** (1 / budget),
                "l": half,
            }
        case "COS":
            fields = {"k1": low, "l": draw(st.sampled_from([budget, half]))}
        case _:
            fields = {"k1": low, "l": half}
    return budget, LRPolicy(function, k0=high, **fields)


def samples(budget, kind):
    rng = np.random.default_rng(budget)
    match kind:
        case "every iteration":
            return np.arange(min(budget, 5_000))
        case "an epoch":
            return np.arange(0, budget, max(1, budget // 200))
        case "irregular":
            return np.unique(rng.integers(0, budget, 400))


@pytest.mark.slow
@pytest.mark.parametrize("function", DEFAULT_FUNCTIONS)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_function_is_recovered(function, data):
    budget, policy = data.draw(policies(function))
    kind = data.draw(st.sampled_from(["every iteration", "an epoch", "irregular"]))
    t = samples(budget, kind)
    hint = data.draw(st.sampled_from([None, budget]))
    fit = fit_policy(t, policy(t), max_iterations=hint)
    assert fit.error < 1e-6, (policy, fit.policy)
    assert fit.policy.num_parameters <= policy.num_parameters


def torch_curve(make, n, lr=0.1):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    lrs = []
    for _ in range(n):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.arange(n), np.float32(lrs).astype(float)  # as TensorBoard keeps them


TORCH = {
    "CosineAnnealingLR": (
        lambda o: schedulers.CosineAnnealingLR(o, 1000, eta_min=1e-5),
        1001,
        "COS(k0=1e-05, k1=0.1, l=1000)",
    ),
    "cosine to 0": (
        lambda o: schedulers.CosineAnnealingLR(o, 1000),
        1001,
        "COS(k0=0.1, k1=0, l=1000)",
    ),
    "StepLR": (lambda o: schedulers.StepLR(o, 30, 0.1), 90, "STEP(k0=0.1, gamma=0.1, l=30)"),
    "MultiStepLR": (
        lambda o: schedulers.MultiStepLR(o, [150, 225, 280], 0.2),
        300,
        "NSTEP(k0=0.1, gamma=0.2, l=[150, 225, 280])",
    ),
    "ExponentialLR": (lambda o: schedulers.ExponentialLR(o, 0.97), 200, "EXP(k0=0.1, gamma=0.97)"),
    "PolynomialLR": (
        lambda o: schedulers.PolynomialLR(o, 500, 0.9),
        600,
        "POLY(k0=0.1, p=0.9, l=500)",
    ),
    "triangular": (
        lambda o: schedulers.CyclicLR(o, 1e-3, 0.1, step_size_up=200),
        2000,
        "TRI(k0=0.001, k1=0.1, l=200)",
    ),
    "triangular2": (
        lambda o: schedulers.CyclicLR(o, 1e-3, 0.1, step_size_up=200, mode="triangular2"),
        2000,
        "TRI2(k0=0.001, k1=0.1, l=200)",
    ),
    "exp_range": (
        lambda o: schedulers.CyclicLR(
            o, 1e-3, 0.1, step_size_up=200, mode="exp_range", gamma=0.999
        ),
        2000,
        "TRIEXP(k0=0.001, k1=0.1, gamma=0.999, l=200)",
    ),
    "warm-up, cosine": (
        lambda o: schedulers.SequentialLR(
            o,
            [
                schedulers.LinearLR(o, 0.01, 1.0, total_iters=100),
                schedulers.CosineAnnealingLR(o, 900),
            ],
            [100],
        ),
        1000,
        "COMPOSED(TRI(k0=0.001, k1=0.1, l=100) until 100, COS(k0=0.1, k1=0, l=900))",
    ),
    "warm-up from 0, linear": (
        lambda o: schedulers.LambdaLR(o, lambda t: t / 100 if t < 100 else (1000 - t) / 900),
        1000,
        "COMPOSED(TRI(k0=0.1, k1=0, l=100) until 100, POLY(k0=0.1, p=1, l=900))",
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TORCH)
def test_torch_schedulers_are_recognised(name):
    make, n, expected = TORCH[name]
    fit = fit_policy(*torch_curve(make, n))
    assert str(fit.policy) == expected
    assert fit.error < 1e-6


PAPER = LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)


@pytest.mark.parametrize("decimals", [5, 6, 8])
def test_rounded_samples_give_the_round_parameters(decimals):
    t = np.arange(0, 64_000, 391)
    fit = fit_policy(t, np.round(PAPER(t), decimals))
    assert fit.policy == PAPER
    assert 0 < fit.error < 1e-3


@pytest.mark.parametrize(
    "policy",
    [
        PAPER,
        LRPolicy("FIX", k0=0.01),
        LRPolicy("STEP", k0=0.1, gamma=0.5, l=10_000),
        LRPolicy("POLY", k0=0.1, p=1.2, l=64_000),
        LRPolicy("EXP", k0=0.1, gamma=0.99995),
        LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[32_000, 48_000]),
        LRPolicy("COS", k0=1e-4, k1=0.1, l=64_000),
    ],
    ids=lambda policy: policy.function,
)
def test_noise_changes_the_error_not_the_function(policy):
    t = np.arange(0, 64_000, 391)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, len(t)))
    fit = fit_policy(t, policy(t) * noise, max_iterations=64_000)
    assert fit.policy.function == policy.function
    assert fit.error < 0.006
    assert fit.good
    assert fit.worst >= fit.error


def test_the_simplest_of_equals_is_chosen():
    assert fit_policy([0, 10, 20], [0.1, 0.1, 0.1]).policy == LRPolicy("FIX", k0=0.1)
    # Two points of a cosine, a step, an exponential ... all pass through three samples.
    assert fit_policy([0, 1, 2], [0.4, 0.2, 0.1]).policy == LRPolicy("EXP", k0=0.4, gamma=0.5)


def test_a_scheduler_stepped_once_an_epoch_is_seen_through():
    cosine = LRPolicy("COS", k0=1e-3, k1=0.1, l=39_100)
    t = np.arange(0, 39_100, 17)
    fit = fit_policy(t, cosine(t // 391 * 391))
    assert fit.policy.function == "COS"
    assert fit.held == pytest.approx(391, abs=17)
    assert fit.good


def test_what_no_function_made_is_far_off():
    lrs = np.random.default_rng(1).uniform(0.001, 0.1, 200)
    fit = fit_policy(range(200), lrs)
    assert not fit.good
    assert fit.error > 10 * LIMIT
    one_cycle = torch_curve(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000), 1000)
    assert not fit_policy(*one_cycle).good


def test_other_functions_are_fitted_when_asked_for():
    restarts = torch_curve(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 100), 1000)
    assert not fit_policy(*restarts).good
    fit = fit_policy(*restarts, functions=ALL_FUNCTIONS)
    assert str(fit.policy) == "COSRSW(k0=0.1, k1=0, l=100)"
    assert fit_policy([0, 1, 2], [0.3, 0.2, 0.1], functions=["FIX"]).policy.function == "FIX"


def test_alternatives_come_with_their_errors():
    t = np.arange(0, 1000, 10)
    fit = fit_policy(t, LRPolicy("COS", k0=1e-3, k1=0.1, l=1000)(t))
    errors = [error for _, error in fit.alternatives]
    assert errors == sorted(errors)
    assert all(error > fit.error for error in errors)


@pytest.mark.parametrize(
    ("t", "lrs", "reason"),
    [
        ([0, 1], [0.1, 0.1], "expected 3 to 1000000 samples of the LR, got 2"),
        ([0, 1, 2], [0.1, 0.1], "3 iterations, 2 LRs"),
        ([0, 1, 2], [0.1, -0.1, 0.1], "LR=-0.1: expected an LR of 0 to 1000"),
        ([0, 1, 2], [0.1, float("nan"), 0.1], "LR=nan"),
        ([0, 1, 2], [0.1, float("inf"), 0.1], "LR=inf"),
        ([0, 1, 2], [0.0, 0.0, 0.0], "expected an LR above 0 somewhere"),
        ([0, 2, 1], [0.1, 0.1, 0.1], "iteration=1.0: expected iterations that increase"),
        ([0, 1, 1], [0.1, 0.1, 0.1], "iterations that increase"),
        ([-1, 0, 1], [0.1, 0.1, 0.1], "iteration=-1.0"),
        ([0, 1, 2], ["a", "b", "c"], "expected numbers"),
        ([[0, 1, 2]], [[0.1, 0.1, 0.1]], "expected a list of numbers"),
    ],
)
def test_bad_curves_are_refused_in_one_line(t, lrs, reason):
    with pytest.raises(RecordError) as caught:
        fit_policy(t, lrs)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_functions_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean COS"):
        fit_policy([0, 1, 2], [1, 1, 1], functions=["COSS"])


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1e3, **FLOATS), min_size=3, max_size=40))
def test_any_curve_gives_a_policy_or_one_line(lrs):
    if max(lrs) < 1e-30:
        with pytest.raises(RecordError, match="above 0 somewhere"):
            fit_policy(range(len(lrs)), lrs)
        return
    fit = fit_policy(range(len(lrs)), lrs)
    assert np.isfinite(fit.error)
    assert fit.error <= fit.worst * (1 + 1e-9)


def test_it_is_fast_whatever_the_curve():
    slow = 0.0
    rng = np.random.default_rng(2)
    for lrs in (PAPER(np.arange(64_000)), rng.uniform(0.01, 0.1, 20_000)):
        began = time.process_time()
        fit_policy(range(len(lrs)), lrs)
        slow = max(slow, time.process_time() - began)
    assert slow < 2.0  # 0.3 s on a quiet machine


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 10])
@pytest.mark.parametrize("made", ["falling", "unsorted"])
def test_random_samples_are_taken_for_no_policy(count, made):
    rng = np.random.default_rng(count)
    for _ in range(6):
        lrs = rng.uniform(0.001, 0.1, count)
        fit = fit_policy(
            range(0, 100 * count, 100), sorted(lrs)[::-1] if made == "falling" else lrs
        )
        assert not fit.good, fit.policy


def test_a_sawtooth_is_no_cosine():
    assert not fit_policy(range(0, 160, 10), [0.067, 0.05, 0.03, 0.01] * 4).good


@pytest.mark.parametrize("count", [3, 4, 6, 10])
def test_warm_up_stable_decay_is_not_told_from_few_samples(count):
    t = np.linspace(0, 9_999, count)
    rise, fall = np.maximum(t / 2_000, 0.001), np.maximum((10_000 - t) / 2_000, 0.1)
    lrs = 0.1 * np.minimum(np.minimum(rise, 1), fall)
    assert not fit_policy(t, lrs).good


def test_a_policy_far_off_at_its_start_is_not_good():
    t = np.arange(1_000)
    fit = fit_policy(t, 0.1 * np.exp(-3 * np.sqrt(t / 1_000)))
    assert fit.error < LIMIT
    assert fit.worst > 0.1
    assert "decades at iteration 0, more than 0.1" in fit.doubt


def test_drops_between_samples_far_apart_are_not_told():
    policy = LRPolicy("STEP", k0=0.1, gamma=0.2, l=2_700)
    for t in ([0, 2_000, 4_000, 6_000, 8_000, 10_000], [0, 500, 1_000, 1_500, 4_000, 4_500, 5_000]):
        fit = fit_policy(t, policy(np.asarray(t)))
        assert "too far apart to tell where" in fit.doubt


def test_functions_that_meet_the_same_samples_are_named():
    lrs = [0.01, 0.1] * 6
    fit = fit_policy(range(0, 1200, 100), lrs)
    assert "too few samples to tell" in fit.doubt
    assert all(name in fit.doubt for name in ("TRI(", "SIN("))
    assert "\n" not in fit.doubt


@pytest.mark.parametrize("count", [8, 10, 20])
@pytest.mark.parametrize("function", DEFAULT_FUNCTIONS)
def test_curves_logged_once_an_epoch_are_told(function, count):
    end = 100 * count
    rate = 0.1 ** (1 / end)
    policy = {
        "FIX": LRPolicy("FIX", k0=0.1),
        "STEP": LRPolicy("STEP", k0=0.1, gamma=0.1, l=count // 3 * 100),
        "NSTEP": LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[count // 2 * 100, 100 * (count - 2)]),
        "EXP": LRPolicy("EXP", k0=0.1, gamma=rate),
        "INV": LRPolicy("INV", k0=0.1, gamma=20 / end, p=0.75),
        "POLY": LRPolicy("POLY", k0=0.1, p=0.9, l=end),
        "COS": LRPolicy("COS", k0=1e-5, k1=0.1, l=end),
    }.get(function)
    if policy is None:
        more = {"gamma": rate} if function in ("TRIEXP", "SINEXP") else {}
        policy = LRPolicy(function, k0=1e-3, k1=0.1, l=end / 4, **more)
    t = np.arange(count) * 100
    fit = fit_policy(t, policy(t))
    assert fit.good, fit.doubt
    dense = np.arange(t[-1])
    assert fit.policy(dense) == pytest.approx(policy(dense), rel=1e-6)


@pytest.mark.parametrize(("epochs", "good"), [(8, False), (10, False), (20, True)])
def test_the_error_of_a_held_curve_is_over_all_samples(epochs, good):
    cosine = LRPolicy("COS", k0=1e-3, k1=0.1, l=100 * epochs)
    t = np.arange(100 * epochs)
    lrs = cosine(t // 100 * 100)
    fit = fit_policy(t, lrs)
    assert fit.held == 100
    misses = np.log10(lrs / fit.policy(t))
    assert fit.error == pytest.approx(np.sqrt(np.mean(misses**2)), rel=1e-3)
    assert fit.worst == pytest.approx(np.abs(misses).max(), rel=1e-3)
    assert fit.good == good
    assert good or "of the peak, more than 10%" in fit.doubt


@pytest.mark.parametrize("decimals", [4, 5, 6])
def test_a_decay_once_an_epoch_is_exponential_when_rounded(decimals):
    t = np.arange(0, 1_500, 100)
    fit = fit_policy(t, np.round(0.1 * 0.82 ** (t / 100), decimals))
    assert fit.policy.function == "EXP"
    assert fit.good, fit.doubt


ROUNDED = [
    LRPolicy("FIX", k0=0.1),
    LRPolicy("EXP", k0=0.1, gamma=0.995),
    LRPolicy("STEP", k0=0.1, gamma=0.5, l=200),
    LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[400, 700]),
    LRPolicy("INV", k0=0.1, gamma=0.01, p=0.75),
    LRPolicy("POLY", k0=0.1, p=2, l=1000),
    LRPolicy("TRI", k0=0.01, k1=0.1, l=100),
    LRPolicy("TRI2", k0=0.01, k1=0.1, l=100),
    LRPolicy("TRIEXP", k0=0.01, k1=0.1, gamma=0.998, l=100),
    LRPolicy("SIN", k0=0.01, k1=0.1, l=100),
    LRPolicy("SIN2", k0=0.01, k1=0.1, l=100),
    LRPolicy("SINEXP", k0=0.01, k1=0.1, gamma=0.998, l=100),
    LRPolicy("COS", k0=1e-4, k1=0.1, l=1000),
    LRPolicy("COS", k0=0.05, k1=0.0, l=1000),
]


@pytest.mark.parametrize("every", [1, 10, 20])
@pytest.mark.parametrize("policy", ROUNDED, ids=lambda policy: policy.function)
def test_four_decimals_are_enough(policy, every):
    t = np.arange(0, 1_000, every)
    fit = fit_policy(t, np.round(policy(t), 4), max_iterations=1_000)
    assert fit.good, fit.doubt
    assert fit.policy.function == policy.function
    assert fit.policy(t) == pytest.approx(policy(t), abs=3e-4)


@pytest.mark.parametrize("count", [12, 16, 20, 30])
@pytest.mark.parametrize("made", ["falling", "unsorted"])
def test_rounding_makes_no_policy_of_random_samples(count, made):
    rng = np.random.default_rng(count)
    for _ in range(6):
        lrs = rng.uniform(0.001, 0.1, count)
        lrs = np.sort(lrs)[::-1] if made == "falling" else lrs
        rounded = fit_policy(range(count), np.round(lrs, 4))
        # Sorted ones can come as near to a cosine as noise does: then rounding changes nothing.
        assert not rounded.good or fit_policy(range(count), lrs).good, rounded.policy


def test_one_cycle_of_four_decimals_is_no_policy():
    t, lrs = torch_curve(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=1000), 1000)
    assert not fit_policy(t, np.round(lrs, 4)).good
    assert not fit_policy(t[::20], np.round(lrs[::20], 4)).good
