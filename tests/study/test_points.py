"""Points that people bring along, in any of the forms they have them in."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.policies import LRPolicy, compose
from lrbench_hpo.policies.coordinates import Scale, to_policy
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.study.points import POLICY, read_point
from lrbench_hpo.study.suggest import suggest_in, trial_params

SPACE = load_space("default").restricted(None)
SCALE = Scale(1000, 0.1)
OWN = {
    "weight_decay": FloatDistribution(1e-5, 1e-1, log=True),
    "data/crop": IntDistribution(0, 4),
    "data/kind": CategoricalDistribution(("a", "b")),
}
FIX = LRPolicy("FIX", k0=0.2)


def read(given, own=None):
    return read_point("here", given, SPACE, SCALE, own)


@pytest.mark.parametrize(
    "given",
    [
        FIX,
        FIX.to_dict(),
        {POLICY: FIX},
        {POLICY: FIX.to_dict()},
        trial_params("FIX", {"peak": 2.0}),
    ],
    ids=["policy", "dict", "config of a policy", "config", "parameters"],
)
def test_every_form_is_the_same_point(given):
    point = read(given)
    assert point.policy == FIX
    assert point.params == {"lr_function": "FIX", "FIX.peak": pytest.approx(2.0)}
    assert set(point.distributions) == set(point.params)


@pytest.mark.parametrize("function", SPACE.functions)
def test_every_function_has_its_point(function):
    """A suggestion given back as a point is that suggestion."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial({"lr_function": function})
    trial = study.ask()
    policy = suggest_in(trial, SPACE, SCALE)
    for given in (policy, {POLICY: policy.to_dict()}, trial.params):
        point = read(given)
        assert point.policy == policy
        assert set(point.params) == set(trial.params)
        assert dict(point.distributions) == trial.distributions


def test_the_point_of_a_policy_outside_the_space_is_its_nearest():
    low, high = SPACE.functions["FIX"]["peak"].low, SPACE.functions["FIX"]["peak"].high
    assert read(LRPolicy("FIX", k0=1e-7)).params["FIX.peak"] == low
    point = read(LRPolicy("FIX", k0=900.0))
    assert point.params["FIX.peak"] == high
    assert point.policy == LRPolicy("FIX", k0=900.0)


def test_more_drops_than_the_space_has_are_left_out_of_the_point():
    space = SPACE.restricted(["NSTEP"])
    most = int(space.functions["NSTEP"]["drops"].high)
    drops = list(range(100, 1000, 100))
    policy = LRPolicy("NSTEP", k0=0.1, gamma=0.5, l=drops)
    point = read_point("here", policy, space, SCALE)
    assert point.params["NSTEP.drops"] == min(most, len(drops))
    for name, value in point.params.items():
        entry = point.distributions[name]
        assert entry._contains(entry.to_internal_repr(value))


# One's own parameters beside the policy


@pytest.mark.parametrize(
    "values",
    [
        {"weight_decay": 0.01, "data": {"crop": 2, "kind": "b"}},
        {"weight_decay": 0.01, "data/crop": 2, "data/kind": "b"},
    ],
    ids=["by levels", "flat"],
)
@pytest.mark.parametrize("policy", [{POLICY: FIX}, trial_params("FIX", {"peak": 2.0})])
def test_ones_own_values_nested_or_flat(values, policy):
    point = read({**policy, **values}, OWN)
    mine = {name: point.params[name] for name in OWN}
    assert mine == {"weight_decay": 0.01, "data/crop": 2, "data/kind": "b"}
    assert {name: point.distributions[name] for name in OWN} == OWN


def test_ones_own_values_may_be_missing():
    point = read({POLICY: FIX, "data": {"crop": 1}, "seed": 3}, OWN)
    assert set(point.params) == {"lr_function", "FIX.peak", "data/crop"}


def test_without_ranges_other_values_are_taken_as_they_are():
    point = read({POLICY: FIX, "weight_decay": 5.0})
    assert point.params["weight_decay"] == 5.0
    assert "weight_decay" not in point.distributions


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weight_decay": 5.0}, "here.weight_decay=5.0: outside its range"),
        ({"weight_decay": "much"}, "here.weight_decay='much'"),
        ({"weight_decay": None}, "here.weight_decay=None"),
        ({"data": {"kind": "c"}}, "here.data/kind='c'"),
        ({"data/crop": 9}, "here.data/crop=9"),
    ],
)
def test_a_value_outside_ones_own_range_is_refused(values, says):
    with pytest.raises(StudyError) as caught:
        read({POLICY: FIX, **values}, OWN)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


# What is no point


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (5, "here=5"),
        (None, "here=None"),
        ("FIX", "here='FIX'"),
        ({}, "expected an LRPolicy"),
        ({"lr": 0.1}, "expected an LRPolicy"),
        ({POLICY: None}, "expected an LRPolicy"),
        ({POLICY: [1]}, "expected an LRPolicy"),
        ({POLICY: {"function": "SINNEXP"}}, "did you mean SINEXP"),
        ({POLICY: {"function": "FIX", "k0": "x"}}, "here: "),
        ({"lr_function": "SINNEXP"}, "SINNEXP is not in the search space"),
        ({"lr_function": None}, "None is not in the search space"),
        ({"lr_function": ["FIX"]}, "['FIX'] is not in the search space"),
        ({"lr_function": "FIX"}, "lacks the coordinate peak"),
        ({"lr_function": "FIX", "FIX.peak": "high"}, "here: "),
        ({"lr_function": "FIX", "FIX.peak": None}, "here: "),
        ({"lr_function": "FIX", "FIX.peak": float("nan")}, "nan"),
        ({"lr_function": "FIX", "FIX.peak": 2.0, "FIX.floor": 0.1}, "floor"),
        ({"lr_function": "COS", "COS.peak": 2.0}, "lacks the coordinate"),
        (LRPolicy("POLY", k0=0.1, p=1.0, l=77), "POLY has coordinates only"),
        (LRPolicy("SIG", k0=0.1, gamma=0.1, l=77), "SIG is not in the search space"),
        (compose([(100, FIX), (1000, FIX)]), "scale-free coordinates"),
    ],
)
def test_what_is_no_point_is_one_line(given, says):
    with pytest.raises(LRBenchError) as caught:
        read(given)
    assert says in str(caught.value)
    assert str(caught.value).startswith("here")
    assert "\n" not in str(caught.value)


def test_the_same_point_in_another_task_is_another_policy():
    point = trial_params("FIX", {"peak": 2.0})
    there = read_point("here", point, SPACE, Scale(500, 0.01))
    assert there.policy == to_policy("FIX", {"peak": 2.0}, Scale(500, 0.01))
