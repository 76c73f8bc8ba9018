from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo import RangeTest, read_range_test
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.lr_range.reading import CALIBRATION, optimizer_kind

numbers = st.floats(1e-6, 1e3)


def ladder(low: float = 1e-4, high: float = 10.0, steps: int = 100) -> list[float]:
    return np.geomspace(low, high, steps).tolist()


def losses_of(lrs, at: float = 0.1, noise: float = 0.05, seed: int = 0) -> list[float]:
    x = np.log10(np.array(lrs) / at)
    fall = 1.5 / (1 + np.exp(-6 * (x + 1)))
    rise = np.expm1(np.clip(8 * (x - 0.3), 0, 20))
    scatter = noise * np.random.default_rng(seed).standard_normal(len(x))
    return (2.3 - fall + rise + scatter).tolist()


@st.composite
def results(draw: st.DrawFn) -> RangeTest:
    low, reference, high = sorted(draw(st.lists(numbers, min_size=3, max_size=3, unique=True)))
    runs = draw(st.integers(0, 3))
    points = draw(st.integers(1, 5))
    losses = st.none() | st.floats(-1e6, 1e6)
    return RangeTest(
        reference_lr=reference,
        spread=draw(st.floats(1, 1e6)),
        low=low,
        high=high,
        iterations=draw(st.integers(0, 10**6)),
        lrs=tuple(tuple(draw(numbers) for _ in range(points)) for _ in range(runs)),
        losses=tuple(tuple(draw(losses) for _ in range(points)) for _ in range(runs)),
        seeds=tuple(range(runs)),
        max_iterations=draw(st.none() | st.integers(1, 10**9)),
        notes=tuple(draw(st.lists(st.sampled_from(["odd", "λ × 2"]), max_size=2))),
    )


@given(results())
@settings(max_examples=50)
def test_a_result_comes_back_from_json_and_reads_as_one_line(result) -> None:
    assert RangeTest.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert "\n" not in str(result)
    assert f"{result.reference_lr:.3g}" in str(result)
    assert hash(result) == hash(RangeTest.from_dict(result.to_dict()))


@given(st.floats(-2, 0.3), st.integers(0, 100), st.sampled_from([*CALIBRATION, None]))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_reference_lr(at, seed, kind) -> None:
    optimizer = {"adam": "adam", "momentum": "sgd", "plain": "sgd", None: None}[kind]
    found = read_range_test(
        ladder(),
        losses_of(ladder(), 10**at, seed=seed),
        optimizer=optimizer,
        momentum=0.0 if kind == "plain" else None,
    )
    assert found.low < found.reference_lr <= found.high
    assert 1.5 < found.spread < 4
    factor = CALIBRATION.get(str(kind), -0.45)
    assert math.log10(found.reference_lr) == pytest.approx(at + factor, abs=0.7)


@given(st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_task_with_another_lr_scale_gets_the_same_answer_in_its_scale(unit) -> None:
    losses = losses_of(ladder())
    here = read_range_test(ladder(), losses, optimizer="sgd")
    there = read_range_test([unit * lr for lr in ladder()], losses, optimizer="sgd")
    for name in ("reference_lr", "low", "high"):
        assert getattr(there, name) / unit == pytest.approx(getattr(here, name), rel=0.06)
    assert there.spread == pytest.approx(here.spread, rel=0.02)


def test_smoothing_is_done_in_log_lr() -> None:
    # A gradient against the raw LR is largest at the noise of the lowest LRs: six decades off.
    lrs = ladder(1e-8, 10, 100)
    found = [
        read_range_test(lrs, losses_of(lrs, noise=0.1, seed=seed), optimizer="sgd")
        for seed in range(20)
    ]
    decades = [math.log10(result.reference_lr) for result in found]
    assert max(decades) - min(decades) < 0.5


def test_a_linear_ladder_is_read_like_an_exponential_one() -> None:
    lrs = np.linspace(1e-4, 1, 400).tolist()
    linear = read_range_test(lrs, losses_of(lrs), optimizer="sgd")
    usual = read_range_test(ladder(), losses_of(ladder()), optimizer="sgd")
    assert linear.reference_lr == pytest.approx(usual.reference_lr, rel=1.5)


def test_more_runs_are_known_better_and_cost_more() -> None:
    lrs = ladder(steps=50)
    runs = [losses_of(lrs, noise=0.1, seed=seed) for seed in range(5)]
    one = read_range_test(lrs, runs[0], optimizer="sgd")
    five = read_range_test(lrs, runs, optimizer="sgd")
    assert five.spread < one.spread
    assert (one.iterations, five.iterations) == (50, 250)


def test_runs_that_contradict_each_other_are_known_less() -> None:
    lrs = ladder()
    agree = read_range_test(lrs, [losses_of(lrs, 0.1)] * 2, optimizer="sgd")
    differ = read_range_test(lrs, [losses_of(lrs, 0.01), losses_of(lrs, 1.0)], optimizer="sgd")
    assert differ.spread > 1.5 * agree.spread


def test_a_longer_budget_asks_for_a_lower_lr() -> None:
    found = [
        read_range_test(ladder(), losses_of(ladder()), optimizer="sgd", max_iterations=budget)
        for budget in (100, 1_000, 10_000)
    ]
    assert found[0].reference_lr > found[1].reference_lr > found[2].reference_lr
    assert [result.max_iterations for result in found] == [100, 1_000, 10_000]


@pytest.mark.parametrize(
    ("losses", "note"),
    [
        (lambda x: 2.3 - 0.3 * (x + 4), "very end"),
        (lambda x: 2.3 + 0 * x, "neither fell nor exploded"),
        (lambda x: 2.3 + 30 * (x > -3), "never fell"),
        (lambda x: np.where(x > -3, np.nan, 2.3), "never fell"),
        (lambda x: 2.3 + 2 * (x + 4), "from the start"),
    ],
)
def test_what_shows_nothing_gives_a_wide_answer_that_says_so(losses, note) -> None:
    x = np.log10(np.array(ladder()))
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(x))
    found = read_range_test(ladder(), losses(x) + noise, optimizer="sgd")
    assert any(note in said for said in found.notes)
    usual = read_range_test(ladder(), losses_of(ladder()), optimizer="sgd")
    assert found.spread > 1.5 * usual.spread
    assert found.low < found.reference_lr <= found.high


@pytest.mark.parametrize("losses", [[float("nan")] * 100, [1.0] * 5])
def test_what_cannot_be_read_is_an_error(losses) -> None:
    with pytest.raises(LRBenchError):
        read_range_test(ladder()[: len(losses)], losses)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "kind"),
    [
        ("sgd", 0.9, "momentum"),
        ("SGD", None, "momentum"),
        ("sgd", 0, "plain"),
        ("nesterov", 0.9, "momentum"),
        ("adamw", 0.0, "adam"),
        ("lion", 0.9, None),
        (None, None, None),
    ],
)
def test_each_optimizer_has_its_row(optimizer, momentum, kind) -> None:
    assert optimizer_kind(optimizer, momentum) == kind


@given(st.integers(50, 10_000), st.integers(50, 10_000))
@settings(max_examples=30)
def test_a_test_for_one_budget_says_what_holds_for_another(budget, other) -> None:
    one = read_range_test(ladder(), losses_of(ladder()), optimizer="sgd", max_iterations=budget)
    two = read_range_test(ladder(), losses_of(ladder()), optimizer="sgd", max_iterations=other)
    assert one.at_budget(other) == pytest.approx(two.reference_lr, rel=1e-6)
    assert (one.at_budget(other) < one.reference_lr) == (other > budget)
