from __future__ import annotations

from pathlib import Path

import pytest

from lrbench_hpo import LRPolicy, ScoreWeights
from lrbench_hpo.errors import LRBenchError, RecordError, UnknownNameError
from lrbench_hpo.ray_tune.trial_config import TRIAL_INDEX, TrialConfig

POLICY = LRPolicy("SIN", k0=0.001, k1=0.1, l=10)
LEAST = {"dataset": "digits", "model": "mlp", "lr_policy": POLICY.to_dict()}


def test_three_keys_are_enough_and_none_is_the_same_as_absent():
    config = TrialConfig.of({**LEAST, "seed": None, "batch_size": None, "task": None})
    assert config.lr_policy == POLICY
    assert (config.seed, config.evaluations, config.device) == (0, 10, "auto")
    assert config.recipe_changes == dict.fromkeys(
        ("max_iterations", "batch_size", "optimizer", "momentum", "weight_decay")
    )
    assert config.score_weights == ScoreWeights()


def test_every_key_is_read():
    config = TrialConfig.of(
        {
            **LEAST,
            "max_iterations": 50,
            "batch_size": 20,
            "optimizer": "Adam",
            "momentum": 0.8,
            "weight_decay": 0,
            "data": Path("somewhere"),
            "download": True,
            "seed": 3,
            "amp": True,
            "evaluations": 4,
            "score_weights": {"iterations": 0.0},
            "checkpoint_seconds": 0,
            "resources": {"cpu": 2, "GPU": 0.5, "fast_disk": 1},
            "task": {"reference_lr": 0.1},
            "log_sys_usage": True,
        }
    )
    assert config.recipe_changes == {
        "max_iterations": 50,
        "batch_size": 20,
        "optimizer": "adam",
        "momentum": 0.8,
        "weight_decay": 0.0,
    }
    assert (config.data, config.download, config.seed, config.amp) == ("somewhere", True, 3, True)
    assert config.score_weights.iterations == 0.0
    assert config.resources == {"cpu": 2.0, "gpu": 0.5, "fast_disk": 1.0}
    assert config.task == {"reference_lr": 0.1}


def test_the_trials_of_one_policy_have_seeds_of_their_own():
    seeds = [TrialConfig.of({**LEAST, "seed": 10, TRIAL_INDEX: i}).seed for i in range(3)]
    assert seeds == [10, 11, 12]


@pytest.mark.parametrize("value", ["torchvision:resnet18", "mine.models:make", "ResNet-20", dict])
def test_models_that_may_exist_pass(value):
    assert TrialConfig.of({**LEAST, "model": value}).model == value


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"lr": 0.1}, UnknownNameError, "unknown config key 'lr' .*Known: dataset, model"),
        ({"batchsize": 1}, UnknownNameError, "'batchsize' .*did you mean batch_size"),
        ({"lr_policy": None}, RecordError, "no 'lr_policy': give search_alg=.*LRBenchSearcher"),
        ({"lr_policy": 0.1}, RecordError, "config.lr_policy=0.1: expected a mapping"),
        ({"lr_policy": {"function": "SINE", "k0": 1}}, UnknownNameError, "did you mean SIN"),
        ({"dataset": None}, RecordError, "no 'dataset'"),
        ({"model": None}, RecordError, "no 'model'"),
        ({"model": "lenett"}, UnknownNameError, "did you mean lenet"),
        ({"optimizer": "sdg"}, UnknownNameError, "did you mean sgd"),
        ({"max_iterations": 0}, RecordError, "config.max_iterations=0: expected a whole number"),
        ({"momentum": 1.0}, RecordError, "config.momentum=1.0"),
        ({"download": 1}, RecordError, "config.download=1: expected True or False"),
        ({"seed": -1}, RecordError, "config.seed=-1"),
        ({"score_weights": {"top1": 1}}, RecordError, "unknown score weight 'top1'"),
        ({"resources": {"cpu": 0}}, RecordError, "at least one CPU or GPU"),
        ({"resources": {"gpu": -1}}, RecordError, "config.resources.gpu=-1"),
        ({"task": {"classes": 10}}, RecordError, "'classes'"),
        ({"checkpoint_seconds": float("nan")}, RecordError, "config.checkpoint_seconds=nan"),
    ],
)
def test_a_config_that_cannot_work_is_one_line(change, error, words):
    with pytest.raises(error, match=words) as caught:
        TrialConfig.of({**LEAST, **change})
    assert isinstance(caught.value, LRBenchError)
    assert "\n" not in str(caught.value)


def test_a_population_is_a_list_of_policies():
    several = {**LEAST, "lr_policies": [POLICY.to_dict(), POLICY]}
    del several["lr_policy"]
    config = TrialConfig.of({**several, "executor": "stream", "early_stopping": False})
    assert (config.lr_policy, config.lr_policies) == (None, (POLICY, POLICY))
    assert (config.executor, config.early_stopping) == ("stream", False)
    assert (TrialConfig.of(several).executor, TrialConfig.of(several).early_stopping) == (
        *("auto", True),
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr_policies": [POLICY]}, "config has both 'lr_policy' and 'lr_policies'"),
        ({"lr_policy": None, "lr_policies": []}, "expected a list of at least one policy"),
        ({"lr_policy": None, "lr_policies": POLICY}, "expected a list of at least one policy"),
        ({"lr_policy": None, "lr_policies": [POLICY, 7]}, "config.lr_policies[1]=7"),
        ({"lr_policy": None, "lr_policies": [POLICY], "executor": "best"}, "executor 'best'"),
        ({"lr_policy": None, "lr_policies": [POLICY], "early_stopping": 1}, "True or False"),
        ({"executor": "stream"}, "only a population has it"),
        ({"early_stopping": True}, "only a population has it"),
    ],
)
def test_a_population_that_cannot_be_is_one_line(change, says):
    with pytest.raises(LRBenchError) as caught:
        TrialConfig.of({**LEAST, **change})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
