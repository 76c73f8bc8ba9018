"""Early stopping: trials are compared at LR minima, and only the hopeless are stopped."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo.errors import RecordError, StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.study.stopping import Observed, StoppingRule, comparable, rung
from lrbench_hpo.study.stopping.chance import MEASURED, MEASURED_AT_EQUAL_STEPS
from lrbench_hpo.study.stopping.signs import NAMES, signs

BUDGET = 100
TENTHS = tuple(range(10, BUDGET + 1, 10))
FIX = LRPolicy("FIX", k0=0.1)
TRIANGLE = LRPolicy("TRI", k0=0.01, k1=0.1, l=20)  # minima at 40 and 80


def curve(end, speed=3.0, steps=10, policy=FIX):
    """A trial that rises from 0.1 towards a value."""
    values = tuple(end - (end - 0.1) * math.exp(-speed * t / BUDGET) for t in TENTHS[:steps])
    return Observed(policy, BUDGET, TENTHS[:steps], values, finished=steps == 10)


def cut(trial, steps):
    return dataclasses.replace(
        trial, iterations=trial.iterations[:steps], values=trial.values[:steps], finished=False
    )


GOOD = [curve(0.80 + i / 100) for i in range(8)]
HOPELESS = curve(0.12, steps=3)
ends = st.floats(0.1, 1.0)
rivals = st.lists(st.builds(curve, ends, st.floats(0.5, 8.0)), min_size=1, max_size=12)


def test_a_hopeless_trial_is_stopped_and_a_good_one_is_not():
    assert StoppingRule().should_stop(HOPELESS, GOOD)
    assert not StoppingRule().should_stop(curve(0.86, steps=3), GOOD)


@given(rivals, st.integers(1, 9))
def test_a_trial_that_leads_everywhere_is_never_stopped(others, steps):
    leader = curve(1.0, speed=9.0, steps=steps)
    others = [cut(other, steps) for other in others]
    assert not StoppingRule(level=100.0, margin=0.0).should_stop(leader, others)


@given(ends, st.integers(1, 9), st.integers(1, 20))
def test_equal_trials_are_not_stopped(end, steps, count):
    equal = curve(end, steps=steps)
    assert not StoppingRule(level=100.0).should_stop(equal, [equal] * count)


@settings(max_examples=300)
@given(rivals, ends, st.integers(1, 9), st.floats(0.0, 0.3), st.floats(0.1, 10.0))
def test_what_is_stopped_would_be_stopped_with_less(others, end, steps, less, level):
    # The last value alone: what was gained before it is a sign too.
    trial = curve(end, steps=1)
    worse = dataclasses.replace(trial, values=tuple(v - less for v in trial.values))
    low = dataclasses.replace(GOOD[0], values=(-1.0,) * 10)
    rule = StoppingRule(level=level, margin=0.0)
    if rule.should_stop(trial, [*others, low]):
        assert rule.should_stop(worse, [*others, low])


@given(rivals, ends, st.integers(1, 9), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_noise_stops_fewer(others, end, steps, noise, more):
    trial, rule = curve(end, steps=steps), StoppingRule(level=3.0)
    if rule.should_stop(trial, others, noise=noise + more):
        assert rule.should_stop(trial, others, noise=noise)


@given(rivals, ends, st.integers(1, 9), st.floats(0.1, 5.0), st.floats(1.0, 3.0))
def test_a_higher_level_stops_more(others, end, steps, level, factor):
    trial = curve(end, steps=steps)
    if StoppingRule(level=level).should_stop(trial, others):
        assert StoppingRule(level=level * factor).should_stop(trial, others)


@given(rivals, ends, st.integers(1, 9), st.floats(0.01, 100.0), st.floats(-10, 10))
def test_the_scale_of_the_values_does_not_matter(others, end, steps, factor, shift):
    def scaled(trial):
        return dataclasses.replace(trial, values=tuple(factor * v + shift for v in trial.values))

    trial = curve(end, steps=steps)
    seen, again = signs(trial, others), signs(scaled(trial), [scaled(o) for o in others])
    if seen is not None and again is not None and max(o.best for o in others) > 0.2:
        np.testing.assert_allclose(seen, again, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("iteration", "stopped"), [(30, False), (40, True), (60, False)])
def test_a_cyclic_policy_is_judged_at_its_minima_only(iteration, stopped):
    trial = Observed(TRIANGLE, BUDGET, (iteration,), (0.1,), finished=False)
    assert StoppingRule().should_stop(trial, GOOD) == stopped


@pytest.mark.parametrize("iteration", [10, 30, 40, 90])
def test_equal_steps_judge_a_cyclic_policy_anywhere(iteration):
    trial = Observed(TRIANGLE, BUDGET, (iteration,), (0.1,), finished=False)
    assert StoppingRule(minima_only=False).should_stop(trial, GOOD)
    good = dataclasses.replace(trial, values=(0.9,))
    assert not StoppingRule(minima_only=False).should_stop(good, GOOD)


def test_each_way_of_looking_has_weights_of_its_own():
    seen = signs(HOPELESS, GOOD)
    own = tuple(MEASURED_AT_EQUAL_STEPS.values())
    assert StoppingRule(minima_only=False).chance(seen) == StoppingRule(weights=own).chance(seen)
    assert StoppingRule().chance(seen) != StoppingRule(minima_only=False).chance(seen)
    assert tuple(MEASURED) == tuple(MEASURED_AT_EQUAL_STEPS) == NAMES


def test_nobody_is_judged_before_enough_is_known():
    rule = StoppingRule(known=3)
    assert not rule.should_stop(HOPELESS, GOOD[:2])
    assert not rule.should_stop(HOPELESS, [*GOOD[:2], *(cut(o, 2) for o in GOOD[2:])])
    assert rule.should_stop(HOPELESS, GOOD[:3])
    assert not rule.should_stop(HOPELESS, [])


def test_a_finished_a_silent_and_a_diverged_trial_are_left_alone():
    rule = StoppingRule()
    assert not rule.should_stop(curve(0.1), GOOD)
    assert not rule.should_stop(Observed(FIX, BUDGET, (), (), finished=False), GOOD)
    lost = dataclasses.replace(HOPELESS, values=(0.1, 0.1, math.nan))
    assert not rule.should_stop(lost, GOOD)
    assert rule.should_stop(HOPELESS, [*GOOD, lost, Observed(FIX, BUDGET, (), (), False)])


def test_patience_gives_every_trial_its_share():
    assert not StoppingRule(patience=0.5).should_stop(HOPELESS, GOOD)
    assert StoppingRule(patience=0.3).should_stop(HOPELESS, GOOD)


def test_rungs_count_tenths_of_the_budget():
    assert [rung(FIX, t, BUDGET) for t in (5, 10, 55, 100)] == [0, 1, 5, 10]
    assert [rung(TRIANGLE, t, BUDGET) for t in (20, 40, 80, 100)] == [None, 4, 8, 10]


@pytest.mark.parametrize(
    "policy",
    [
        LRPolicy("COS", k0=0.001, k1=0.1, l=BUDGET),
        LRPolicy("TRI", k0=0.001, k1=0.1, l=BUDGET),
        LRPolicy("POLY", k0=0.1, p=1.0, l=BUDGET),
        LRPolicy("SINEXP", k0=0.001, k1=0.1, gamma=0.99, l=7),
        LRPolicy("TRI", k0=0.001, k1=0.1, l=50),
        TRIANGLE,
    ],
)
def test_every_evaluation_is_comparable(policy):
    for limit in (3, 10):
        for iteration in policy.evaluation_points(BUDGET, limit=limit):
            assert comparable(policy, iteration, BUDGET)


def test_one_cycle_is_comparable_at_its_end_only():
    one = LRPolicy("TRI", k0=0.001, k1=0.1, l=50)
    assert [t for t in range(1, BUDGET + 1) if comparable(one, t, BUDGET)] == [BUDGET]


def test_bad_input_is_refused():
    with pytest.raises(RecordError, match="1 iterations and 2 values"):
        Observed(FIX, BUDGET, (10,), (0.1, 0.2), finished=False)
    with pytest.raises(RecordError, match="increasing"):
        Observed(FIX, BUDGET, (20, 10), (0.1, 0.2), finished=False)
    with pytest.raises(RecordError, match="max_iterations=100"):
        Observed(FIX, BUDGET, (110,), (0.1,), finished=False)
    with pytest.raises(StudyError, match="level=-1"):
        StoppingRule(level=-1)
    with pytest.raises(StudyError, match="patience='x'"):
        StoppingRule(patience="x")
    with pytest.raises(StudyError, match="minima_only=1"):
        StoppingRule(minima_only=1)
    with pytest.raises(StudyError, match="weights"):
        StoppingRule(weights=(1.0,))
