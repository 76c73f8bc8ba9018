from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import build_model
from lrbench_hpo.training.optimizers import OPTIMIZERS, make_optimizer, set_learning_rate


def stepped(optimizer, parameter, rates, set_rate):
    for rate in rates:
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        set_rate(rate)
        optimizer.step()
    return parameter.detach().clone()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_torchs_own(name):
    plain = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01),
        "nesterov": lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True
        ),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.999), weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.999), weight_decay=0.01),
    }[name]
    rates = [0.1, 0.3, 0.02]
    results = []
    for ours in (True, False):
        layer = nn.Linear(3, 1, bias=False)
        nn.init.constant_(layer.weight, 1.5)
        if ours:
            recipe = Recipe(optimizer=name, momentum=0.8, weight_decay=0.01)
            optimizer = make_optimizer(layer, recipe)
            set_rate = lambda rate, o=optimizer: set_learning_rate(o, rate)  # noqa: E731
        else:
            optimizer = plain(layer.parameters())
            set_rate = lambda rate, o=optimizer: o.param_groups[0].update(lr=rate)  # noqa: E731
        results.append(stepped(optimizer, layer.weight, rates, set_rate))
    assert torch.allclose(*results, atol=1e-6)


@pytest.mark.parametrize("model", ["lenet", "cnn3", "resnet20", "mlp"])
def test_groups_keep_their_ratio_and_hold_every_parameter_once(model):
    network = build_model(model, 10, (3, 32, 32))
    optimizer = make_optimizer(network, Recipe(weight_decay=0.004))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    for rate in (0.5, 0.001):
        set_learning_rate(optimizer, rate)
        rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        for name, parameter in network.named_parameters():
            caffe_bias = model in {"lenet", "cnn3"} and name.endswith("bias")
            doubled = caffe_bias and name != "conv3.bias"
            assert rates[id(parameter)] == (2 * rate if doubled else rate)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"optimizer": "sdg"}, UnknownNameError, "did you mean sgd"),
        ({"momentum": 1.0}, TrainingError, "momentum=1.0"),
        ({"momentum": -0.1}, TrainingError, "momentum=-0.1"),
        ({"momentum": 0.0, "optimizer": "nesterov"}, TrainingError, "nesterov"),
        ({"momentum": float("nan")}, TrainingError, "momentum=nan"),
        ({"weight_decay": -1e-4}, TrainingError, "weight_decay=-0.0001"),
        ({"weight_decay": float("nan")}, TrainingError, "weight_decay=nan"),
    ],
)
def test_bad_settings_are_one_line(changes, error, words):
    with pytest.raises(error, match=words):
        make_optimizer(nn.Linear(2, 2), dataclasses.replace(Recipe(), **changes))


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_without_a_trainable_parameter_is_one_line(model):
    with pytest.raises(TrainingError, match="none of them trainable") as caught:
        make_optimizer(model, Recipe())
    assert "\n" not in str(caught.value)


def test_one_trainable_parameter_is_enough():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    frozen = layer.weight.clone()
    optimizer = make_optimizer(layer, Recipe())
    layer(torch.ones(1, 2)).sum().backward()
    set_learning_rate(optimizer, 0.1)
    before = layer.bias.detach().clone()
    optimizer.step()
    assert torch.equal(layer.weight, frozen)
    assert not torch.equal(layer.bias, before)
