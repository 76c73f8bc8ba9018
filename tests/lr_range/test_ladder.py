from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo.lr_range.ladder import BANDWIDTH, first_basin, smoothed


def ladder(low: float = 1e-4, high: float = 10.0, steps: int = 100) -> list[float]:
    return np.geomspace(low, high, steps).tolist()


def valley(lrs, at=0.1, depth=1.5, level=2.3, noise=0.0, seed=0):
    """A loss that falls from a decade below a point, and explodes half a decade above it."""
    x = np.log10(np.array(lrs)) - math.log10(at)
    fall = depth / (1 + np.exp(-6 * (x + 1)))
    rise = np.expm1(np.clip(8 * (x - 0.3), 0, 20))
    scatter = noise * np.random.default_rng(seed).standard_normal(len(x))
    return (level - fall + rise + scatter).tolist()


@given(
    st.floats(-2, 0.5),
    st.floats(0.3, 2.0),
    st.integers(0, 1000),
    st.integers(60, 300),
)
@settings(max_examples=60, deadline=None)
def test_a_noisy_minimum_is_found_wherever_it_is(at, depth, seed, steps) -> None:
    lrs = ladder(steps=steps)
    losses = valley(lrs, 10**at, depth, noise=0.03, seed=seed)
    quiet = first_basin(smoothed([lrs], [valley(lrs, 10**at, depth)]))
    noisy = first_basin(smoothed([lrs], [losses]))
    assert noisy.falls
    assert noisy.explodes
    assert noisy.minimum == pytest.approx(quiet.minimum, abs=BANDWIDTH)
    assert quiet.minimum == pytest.approx(at, abs=2 * BANDWIDTH)
    assert noisy.onset <= noisy.minimum <= noisy.lost


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_units_of_lr_and_loss_do_not_matter(lr_unit, loss_unit) -> None:
    lrs = ladder()
    losses = valley(lrs, noise=0.05)
    here = first_basin(smoothed([lrs], [losses]))
    there = first_basin(
        smoothed([[lr_unit * lr for lr in lrs]], [[loss_unit * loss for loss in losses]])
    )
    shift = math.log10(lr_unit)
    # The same to within a column of the grid, whose number of points is rounded.
    for name in ("onset", "steepest", "minimum", "lost"):
        assert getattr(there, name) - shift == pytest.approx(getattr(here, name), abs=0.02)
    assert there.fall == pytest.approx(loss_unit * here.fall, rel=0.01)
    assert (there.falls, there.explodes) == (here.falls, here.explodes)


def test_a_second_valley_behind_an_explosion_is_not_looked_at() -> None:
    lrs = ladder(steps=200)
    losses = np.array(valley(lrs, at=0.01, depth=0.6))
    after = np.array(lrs) > 0.3
    losses[after] = 0.5  # lower than all before
    basin = first_basin(smoothed([lrs], [losses.tolist()]))
    assert basin.minimum == pytest.approx(-2, abs=2 * BANDWIDTH)


@pytest.mark.parametrize("end", [None, float("nan"), float("inf"), 1e30])
def test_however_a_run_ends_it_has_exploded(end) -> None:
    lrs = ladder()
    losses = valley(lrs)
    stop = next(place for place, lr in enumerate(lrs) if lr > 0.3)
    basin = first_basin(smoothed([lrs[: stop + 1]], [[*losses[:stop], end]]))
    assert basin.explodes
    assert basin.falls
    assert basin.hidden is None
    assert basin.minimum == pytest.approx(-1, abs=2 * BANDWIDTH)


def test_one_missing_loss_in_the_middle_changes_nothing() -> None:
    lrs = ladder()
    losses: list[float | None] = list(valley(lrs))
    whole = first_basin(smoothed([lrs], [losses]))
    losses[30] = None
    assert first_basin(smoothed([lrs], [losses])).minimum == pytest.approx(whole.minimum, abs=0.02)


def test_a_run_that_ended_early_counts_as_high_beyond_its_end() -> None:
    lrs = ladder()
    high, low = valley(lrs, at=0.5), valley(lrs, at=0.02)
    stop = next(place for place, lr in enumerate(lrs) if lr > 0.06)
    curve = smoothed([lrs, lrs[:stop]], [high, low[:stop]])
    assert curve.runs[1][-1] > 3  # and not what a line through its last points would give
    assert not curve.complete


@pytest.mark.parametrize(
    ("losses", "hidden", "falls", "explodes"),
    [
        (lambda x: 2.3 - 0.4 * (x + 4), "up", True, False),  # falls to the very end
        (lambda x: 2.3 + 0 * x, "up", False, False),  # nothing at all
        (lambda x: 2.3 + 30 * (x > -3), "down", False, True),  # explodes at once
        (lambda x: 2.3 + 30 * (x > 0.3), None, False, True),  # learns nothing, then explodes
        (lambda x: 2.3 - 1.5 * (x > -2) + 30 * (x > 0.3), None, True, True),
    ],
)
def test_which_way_a_ladder_has_to_go_on(losses, hidden, falls, explodes) -> None:
    lrs = ladder()
    x = np.log10(np.array(lrs))
    noise = 0.02 * np.random.default_rng(1).standard_normal(len(x))
    basin = first_basin(smoothed([lrs], [(losses(x) + noise).tolist()]))
    assert (basin.hidden, basin.falls, basin.explodes) == (hidden, falls, explodes)
