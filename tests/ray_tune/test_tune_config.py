"""What a Ray Tune experiment says to a searcher."""

import optuna
import pytest
from ray import tune

from lrbench_hpo.errors import StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.experiment import (
    SHARED,
    agreed,
    criteria,
    flat,
    metric_name,
    mode_name,
    own_domains,
    with_levels,
)

NOTHING = dict.fromkeys(SHARED)
POLICY = LRPolicy("FIX", k0=0.1)


# Metric and mode


def test_one_metric_and_one_mode():
    assert (metric_name("acc"), metric_name(None)) == ("acc", None)
    assert [mode_name(mode) for mode in ("max", "min", None)] == ["max", "min", None]


@pytest.mark.parametrize("metric", [["a", "b"], ("a",), "", 5, True])
def test_any_other_metric_is_refused(metric):
    with pytest.raises(StudyError, match="objective='pareto'") as caught:
        metric_name(metric)
    assert repr(metric) in str(caught.value)


@pytest.mark.parametrize("mode", [["max", "min"], "maximum", "", 1])
def test_any_other_mode_is_refused(mode):
    with pytest.raises(StudyError, match="'max' or 'min'") as caught:
        mode_name(mode)
    assert repr(mode) in str(caught.value)


# What searcher and config say of the task


def test_either_may_say_it():
    mine = {**NOTHING, "dataset": "digits", "max_iterations": 300}
    config = {"model": "mlp", "dataset": None, "lr": 0.1}
    expected = {**NOTHING, "dataset": "digits", "max_iterations": 300, "model": "mlp"}
    assert agreed(mine, config) == expected


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"dataset": "CIFAR-10"}, {"dataset": "cifar10"}),
        ({"model": "ResNet-32"}, {"model": "resnet_32"}),
        ({"max_iterations": 300}, {"max_iterations": 300}),
        ({"score_weights": {"iterations": 0.1}}, {"score_weights": {"iterations": 0.1}}),
        (
            {"score_weights": {"iterations": 0.1, "loss_difference": 0.01}},
            {"score_weights": {"iterations": 0.1}},
        ),
    ],
)
def test_both_may_say_the_same(here, there):
    assert agreed({**NOTHING, **here}, there) == {**NOTHING, **there}


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        ("dataset", "digits", "mnist"),
        ("model", "mlp", "lenet"),
        ("max_iterations", 300, 400),
        ("batch_size", 32, 64),
        ("optimizer", "sgd", "adam"),
        ("score_weights", {"iterations": 0.1}, {"iterations": 0.2}),
        ("dataset", "digits", ("placeholder", 1)),
    ],
)
def test_a_contradiction_is_refused(name, here, there):
    with pytest.raises(StudyError, match="give it once") as caught:
        agreed({**NOTHING, name: here}, {name: there})
    assert str(caught.value).startswith(f"{name}={here!r} in LRBenchSearcher, {there!r} in config")


# Domains of one's own


def test_domains_nested_and_flat():
    own = own_domains(
        {
            "dataset": "digits",
            "decay": tune.loguniform(1e-5, 1e-1),
            "data": {"crop": tune.randint(0, 5), "kind": tune.choice(["a", "b"]), "fixed": 3},
            "momentum": tune.quniform(0.5, 0.9, 0.1),
        }
    )
    assert own == {
        "decay": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "data/crop": optuna.distributions.IntDistribution(0, 4),
        "data/kind": optuna.distributions.CategoricalDistribution(("a", "b")),
        "momentum": optuna.distributions.FloatDistribution(0.5, 0.9, step=0.1),
    }


@pytest.mark.parametrize("config", [{}, {"dataset": "digits"}, {"data": {"kind": "a"}}])
def test_plain_values_are_no_domains(config):
    assert own_domains(config) == {}


@pytest.mark.parametrize(
    "domain",
    [
        tune.grid_search([1, 2]),
        tune.sample_from(lambda spec: 1),
        tune.randn(0, 1),
    ],
    ids=["grid_search", "sample_from", "randn"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_cannot_be_searched_is_refused(domain, nested):
    with pytest.raises(StudyError, match=r"tune\.uniform") as caught:
        own_domains({"a": {"b": domain}} if nested else {"a": domain})
    assert str(caught.value).startswith("config: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*SHARED, "lr_function"])
def test_the_task_itself_is_not_searched(name):
    with pytest.raises(StudyError, match="give a value, not a domain"):
        own_domains({name: tune.choice([1, 2])})
    with pytest.raises(StudyError, match="give a value, not a domain"):
        own_domains({"score_weights": {"iterations": tune.uniform(0, 1)}})


@pytest.mark.parametrize("policy", [POLICY.to_dict(), None, {"k0": tune.uniform(0, 1)}])
def test_a_config_with_a_policy_is_refused(policy):
    with pytest.raises(StudyError, match="config has 'lr_policy' already"):
        own_domains({"lr_policy": policy})


# Points of one's own


def test_a_point_keeps_its_policy_and_what_is_searched():
    own = own_domains({"decay": tune.uniform(0, 1), "data": {"crop": tune.randint(0, 5)}})
    values = {"lr_policy": POLICY.to_dict(), "decay": 0.5, "dataset": "digits"}
    expected = {"lr_policy": POLICY.to_dict(), "decay": 0.5, "data/crop": 2}
    assert flat({**values, "data": {"crop": 2, "kind": "a"}}, own) == expected
    assert flat({**values, "data/crop": 2}, own) == expected
    parameters = {"lr_function": "FIX", "FIX.peak": 1.0, "decay": 0.5, "data": {"crop": 2}}
    assert flat(parameters, own) == {
        "lr_function": "FIX",
        "FIX.peak": 1.0,
        "decay": 0.5,
        "data/crop": 2,
    }


@pytest.mark.parametrize("point", [POLICY, POLICY.to_dict(), 5])
def test_a_point_without_more_stays_as_it_is(point):
    assert flat(point, {}) is point


def test_levels_come_back():
    assert with_levels({}) == {}
    assert with_levels({"a": 1, "b/c": 2, "b/d/e": 3}) == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}


# What one has to look for


def test_only_numbers_are_stopping_criteria():
    assert criteria({"training_iteration": 3}) == {"training_iteration": 3}
    assert criteria(None) == criteria(lambda *_: False) == {}
