"""Which networks can be stacked, how, and what is said of those that cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import MODEL_FACTORIES, Trainer
from lrbench_hpo.training.models.build import ColourInput
from lrbench_hpo.training.population.choice import make_executor
from lrbench_hpo.training.population.stacked_executor import StackedExecutor
from lrbench_hpo.training.population.stacked_layers import NotStackableError, converted, stack
from lrbench_hpo.training.population.stacked_model import stack_network
from lrbench_hpo.training.population.stacked_optimizer import StackedOptimizer
from lrbench_hpo.training.population.stream_executor import StreamExecutor

SMALL = Recipe(batch_size=8)


class Dense(nn.Module):
    """Its forward puts channels of two layers together, which mixes stacked members."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 10)

    def forward(self, images):
        hidden = self.first(images)
        hidden = self.norm(torch.cat([hidden, self.second(hidden)], 1))
        return self.last(hidden.relu().mean((2, 3)))


class OwnWeights(nn.Module):
    """A layer of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 256) / 16)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


class Branching(nn.Module):
    """What it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10)

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return 2 * logits if logits.mean() > 0 else logits


class Tied(nn.Module):
    """Two layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(256, 256), nn.Linear(256, 256)
        self.second.weight = self.first.weight
        self.last = nn.Linear(256, 10)

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1))))


class Everything(nn.Module):
    """Every kind of layer that has a stacked counterpart, and some that work as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding="valid", bias=False),
            nn.GroupNorm(2, 4),
            nn.SiLU(),
            nn.Conv2d(4, 8, 3, padding=1, dilation=2, groups=2),
            nn.BatchNorm2d(8, affine=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 12, bias=False),
            nn.BatchNorm1d(12, track_running_stats=False),
        )
        self.last = nn.Linear(12, 10)

    def forward(self, images):
        return self.last(torch.relu(self.features(images)))


def grey() -> ColourInput:
    return ColourInput(
        nn.Sequential(nn.Conv2d(3, 4, 5, groups=1), nn.Flatten(), nn.Linear(576, 10))
    )


def grouped_input() -> nn.Module:
    return ColourInput(
        nn.Sequential(nn.Conv2d(3, 6, 5, groups=3), nn.Flatten(), nn.Linear(864, 10))
    )


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.Softmax(1))


def reflecting() -> nn.Module:
    convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(512, 10))


def cumulative() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256, momentum=None), nn.Linear(256, 10))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 10))
    model[1].requires_grad_(False)
    return model


BY_LAYERS = ["lenet", "cnn3", "mlp", "resnet20", Everything, grey, grouped_input, frozen]
BY_VMAP = {Dense: "loss", OwnWeights: "OwnWeights", softmax: "loss", reflecting: "padding_mode"}
REFUSED = {Branching: "control flow", Tied: "share parameters"}


@pytest.mark.parametrize("model", BY_LAYERS)
def test_usual_layers_are_stacked(digits, model):
    network, reason = stack_network(Trainer(digits, model, SMALL, device="cpu"))
    assert network.how == "stacked layers"
    assert reason == ""


@pytest.mark.parametrize("model", BY_VMAP)
def test_what_cannot_be_converted_is_vmapped_and_why_is_told(digits, model):
    trainer = Trainer(digits, model, SMALL, device="cpu")
    executor, notes = make_executor("stacked", trainer, capacity=2)
    assert executor.how == "vmap"
    assert notes[0] == "executor stacked (vmap): as asked"
    assert notes[1].startswith("stacked layers do not do: ")
    assert BY_VMAP[model] in notes[1]


def test_networks_that_all_start_alike_are_told_apart(digits):
    network, reason = stack_network(Trainer(digits, Dense(), SMALL, device="cpu"))
    assert network.how == "vmap"
    assert "loss" in reason


@pytest.mark.parametrize("model", REFUSED)
def test_what_no_way_serves_is_refused(digits, model):
    with pytest.raises(NotStackableError, match=REFUSED[model]):
        StackedExecutor(Trainer(digits, model, SMALL, device="cpu"))


def test_a_momentum_of_none_is_left_to_vmap_which_cannot_either(digits):
    with pytest.raises(NotStackableError, match="momentum=None"):
        StackedExecutor(Trainer(digits, cumulative, SMALL, device="cpu"))


@pytest.mark.parametrize("model", [Dense, OwnWeights, Everything, grey, frozen])
def test_users_networks_train_as_they_do_alone(digits, model):
    trainer = Trainer(digits, model, SMALL, device="cpu")
    executors = [StackedExecutor(trainer), StreamExecutor(trainer)]
    rates = [[0.05, 0.02, 0.05], [0.01, 0.03, 0.02]]
    for executor in executors:
        executor.add(0)
        executor.add(1)
        assert executor.advance(rates) == [None, None]
    for index in (0, 1):
        wanted = executors[1].weights(index)
        found = executors[0].weights(index)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_names_of_parameters_stay():
    for name in ("lenet", "cnn3", "mlp", "resnet20"):
        ordinary = MODEL_FACTORIES[name](num_classes=10, image_shape=(1, 16, 16))
        names = list(ordinary.state_dict())
        assert list(converted(ordinary).state_dict()) == names


def test_tensors_are_stacked_in_their_own_memory_format():
    weights = [torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last) for _ in range(3)]
    stacked = stack(weights)
    assert stacked.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(one, other) for one, other in zip(stacked, weights, strict=True))


def test_options_that_the_formulas_do_not_know_are_refused():
    class Damped(nn.Linear):
        def parameter_groups(self, weight_decay):
            common = {"lr_scale": 1.0, "weight_decay": weight_decay, "dampening": 0.5}
            return [{"params": list(self.parameters()), **common}]

    with pytest.raises(NotStackableError, match="dampening"):
        StackedOptimizer(Damped(2, 2), SMALL)
