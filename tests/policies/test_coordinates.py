"""Scale-free coordinates: what a policy becomes on another task."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lrbench_hpo import LRPolicy
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import ALL_FUNCTIONS, compose
from lrbench_hpo.policies.coordinates import (
    KINDS,
    Scale,
    coordinate_names,
    to_coordinates,
    to_policy,
)

RANGES = {
    "peak": st.floats(0.1, 30),
    "floor": st.floats(1e-4, 0.5),
    "half_cycles": st.integers(1, 64),
    "steps": st.floats(1, 80),
    "end": st.floats(1e-4, 0.9),
    "drops": st.integers(1, 5),
    "gap": st.floats(0.1, 0.9),
    "power": st.floats(0.3, 4),
    "midpoint": st.floats(0.1, 0.9),
    "steepness": st.floats(3, 100),
}


@st.composite
def points(draw, function):
    point = {}
    for name in coordinate_names(function):
        if name == "gap":
            point |= {f"gap{n + 1}": draw(RANGES["gap"]) for n in range(point["drops"])}
        else:
            point[name] = draw(RANGES[name])
    return point


@pytest.mark.parametrize("function", ALL_FUNCTIONS)
@given(data=st.data(), budget=st.integers(20_000, 200_000), eta=st.floats(1e-4, 1))
def test_round_trip_through_absolute_units(function, data, budget, eta):
    scale = Scale(budget, eta)
    point = data.draw(points(function))
    policy = to_policy(function, point, scale)
    again = to_policy(function, to_coordinates(policy, scale), scale)
    times = np.linspace(0, budget - 1, 200).astype(int)
    # Intervals are whole numbers of iterations: going round again must not move them further.
    np.testing.assert_allclose(again(times), policy(times), rtol=2e-2, atol=1e-6 * eta)


@pytest.mark.parametrize("function", ALL_FUNCTIONS)
@given(data=st.data(), budget=st.integers(12, 500), eta=st.floats(1e-4, 1))
def test_what_was_written_for_a_short_budget_can_be_read_back(function, data, budget, eta):
    scale = Scale(budget, eta)
    policy = to_policy(function, data.draw(points(function)), scale)
    point = to_coordinates(policy, scale)
    assert set(point) >= set(coordinate_names(function)) - {"gap"}
    # What was read is a fixed point: budgets and drops that had to give way do so once.
    again = to_policy(function, point, scale)
    times = np.arange(budget)
    np.testing.assert_allclose(again(times), policy(times), rtol=2e-2, atol=1e-6 * eta)


@given(
    budget=st.integers(2, 40),
    gaps=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=9),
    end=st.floats(1e-4, 0.9),
)
def test_all_drops_of_nstep_lie_inside_the_budget(budget, gaps, end):
    point = {"peak": 2.0, "drops": len(gaps), "end": end}
    point |= {f"gap{number}": gap for number, gap in enumerate(gaps, start=1)}
    policy = to_policy("NSTEP", point, Scale(budget, 0.1))
    assert list(policy.l) == sorted(set(policy.l))
    assert policy.l[0] >= 1
    assert policy.l[-1] <= budget - 1
    # As many as there is room for, and all of the decay.
    assert len(policy.l) == min(len(gaps), budget - 1)
    assert policy(budget - 1) == pytest.approx(0.2 * end)
    assert to_coordinates(policy, Scale(budget, 0.1))["end"] == pytest.approx(end)


def test_drops_that_have_room_stay_where_they_are():
    point = {"peak": 1.0, "drops": 2, "end": 0.01, "gap1": 0.5, "gap2": 0.5}
    assert to_policy("NSTEP", point, Scale(64_000, 0.1)).l == (32_000, 48_000)
    crowded = {**point, "drops": 5, "gap2": 0.9, "gap3": 0.9, "gap4": 0.9, "gap5": 0.9}
    assert to_policy("NSTEP", crowded, Scale(80, 0.1)).l == (40, 76, 77, 78, 79)
    assert to_policy("NSTEP", point, Scale(1, 0.1)).l == (1,)  # never, for there is no room


@pytest.mark.parametrize("run", paper_runs(), ids=lambda run: str(run.policy))
def test_published_policies_survive_exactly(run):
    scale = Scale(run.max_iterations, run.task.reference_lr)
    point = to_coordinates(run.policy, scale)
    assert to_policy(run.policy.function, point, scale) == run.policy


@pytest.mark.parametrize("run", paper_runs(), ids=lambda run: str(run.policy))
@pytest.mark.parametrize(("shrink", "factor"), [(10, 1.0), (10, 0.25), (1, 3.0)])
def test_rescaling_keeps_the_shape(run, shrink, factor):
    scale = Scale(run.max_iterations, run.task.reference_lr)
    new = Scale(run.max_iterations // shrink, run.task.reference_lr * factor)
    policy = to_policy(run.policy.function, to_coordinates(run.policy, scale), new)
    share = (np.arange(500) + 0.5) / 500
    old_lrs = run.policy(share * scale.max_iterations)
    lrs = policy(share * new.max_iterations)
    # Step positions are rounded to whole iterations: a few points may lie beside a step.
    close = np.isclose(lrs, factor * old_lrs, rtol=0.02)
    assert close.mean() > 0.9


def test_the_papers_peaks_are_those_of_the_design():
    best = {"lenet": ("SIN2", 6), "cnn3": ("SINEXP", 6), "resnet-32": ("SINEXP", 9)}
    for run in paper_runs():
        function, peak = best[run.task.model.lower()]
        if run.policy.function == function and run.notes["table"] in {"VII", "VIII", "IX"}:
            point = to_coordinates(run.policy, Scale(run.max_iterations, run.task.reference_lr))
            assert point["peak"] == pytest.approx(peak)


@pytest.mark.parametrize("budget", [1, 2, 7, 40])
@pytest.mark.parametrize("function", ALL_FUNCTIONS)
def test_tiny_budgets_still_give_policies(function, budget):
    point = {"peak": 1, "floor": 0.1, "half_cycles": 30, "steps": 50, "end": 0.01, "drops": 5}
    point |= {f"gap{n}": 0.9 for n in range(1, 6)} | {"power": 1, "midpoint": 0.5, "steepness": 20}
    policy = to_policy(function, point, Scale(budget, 0.1))
    assert np.isfinite(policy(np.arange(budget))).all()


@pytest.mark.parametrize(
    ("policy", "budget", "says"),
    [
        (LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[50, 200]), 100, "drop at 200"),
        (LRPolicy("POLY", k0=0.1, p=1, l=50), 100, "l = 100"),
        (compose([(10, LRPolicy("FIX", k0=0.1)), (None, LRPolicy("FIX", k0=1))]), 100, "COMPOSED"),
    ],
)
def test_what_cannot_be_expressed_is_refused(policy, budget, says):
    with pytest.raises(PolicyError, match=says):
        to_coordinates(policy, Scale(budget, 0.1))


def test_a_missing_coordinate_is_named():
    with pytest.raises(PolicyError, match="SINEXP lacks the coordinate end"):
        to_policy("SINEXP", {"peak": 1, "floor": 0.1, "half_cycles": 2}, Scale(100, 0.1))


@pytest.mark.parametrize(
    ("budget", "eta"),
    [(0, 0.1), (-5, 0.1), (1.5, 0.1), (True, 0.1), (10, 0), (10, float("nan")), (10, 1e4)],
)
def test_impossible_scales_are_refused(budget, eta):
    with pytest.raises(PolicyError, match=r"max_iterations|reference_lr"):
        Scale(budget, eta)


def test_every_coordinate_has_a_kind():
    names = {name for function in ALL_FUNCTIONS for name in coordinate_names(function)}
    assert names == set(KINDS)
