"""A climb in somebody else's loop leaves no trace."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrbench_hpo import range_test_on
from lrbench_hpo.errors import LRBenchError, TrainingError
from lrbench_hpo.lr_range.climb import climb, rungs


class Net(nn.Module):
    """Layers with random numbers, statistics, a buffer that is no state, and one put again."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, inputs):
        self.seen = self.seen + 1
        return self.layers(inputs)


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 8, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def make(optimizer: str = "sgd"):
    torch.manual_seed(1)
    model = Net()
    groups = [
        {"params": model.layers[0].parameters(), "lr": 0.01},
        {"params": [*model.layers[1].parameters(), *model.layers[4].parameters()], "lr": 0.1},
    ]
    made = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups, lr=0.1),
    }[optimizer]()
    return model, made


def trained(model, optimizer, loader, steps: int = 6) -> list[float]:
    """A few more steps of one's own: they depend on every part of the state."""
    losses = []
    for batch in [batch for _ in range(2) for batch in loader][:steps]:
        optimizer.zero_grad()
        value = loss(model, batch) * (1 + random.random() + float(np.random.rand()))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def seed_everything() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("fails_at", [None, 1, 20])
def test_ones_own_training_goes_on_as_if_nothing_had_been(
    optimizer, own_generator, fails_at
) -> None:
    results = []
    for tested in (False, True):
        model, made = make(optimizer)
        generator = torch.Generator().manual_seed(9) if own_generator else None
        loader = DataLoader(samples(), batch_size=20, shuffle=True, generator=generator)
        seed_everything()
        before = trained(model, made, loader)  # state in the optimizer, statistics, gradients
        model.layers[1].eval()
        gradient = model.layers[0].weight.grad.clone()
        if tested:

            def interrupted(done, planned):
                if fails_at == done:
                    raise KeyboardInterrupt

            if fails_at is None:
                found = range_test_on(model, made, loader, loss, steps=40, runs=2)
                assert found.low < found.reference_lr <= found.high
            else:
                with pytest.raises(KeyboardInterrupt):
                    range_test_on(model, made, loader, loss, on_progress=interrupted)
        assert torch.equal(model.layers[0].weight.grad, gradient)
        assert not model.layers[1].training
        assert [group["lr"] for group in made.param_groups] == [0.01, 0.1]
        results.append((before, trained(model, made, loader), float(model.seen)))
    assert results[0] == results[1]


def test_parameter_groups_keep_their_ratio() -> None:
    model, made = make()
    seen = []

    def watching(model, batch):
        seen.append(tuple(group["lr"] for group in made.param_groups))
        return loss(model, batch)

    found = range_test_on(model, made, list(DataLoader(samples(), 20)), watching, steps=20)
    assert all(high / low == pytest.approx(10) for low, high in seen)
    # Each LR is set for the update, after the loss before it.
    assert [low for low, _ in seen[1:]] == pytest.approx(found.lrs[0][: len(seen) - 1], rel=1e-5)


def test_runs_see_other_orders_and_the_same_seed_the_same() -> None:
    model, made = make()
    loader = DataLoader(samples(), batch_size=20, shuffle=True)
    first = range_test_on(model, made, loader, loss, steps=30, runs=2, seed=3)
    assert first.losses[0] != first.losses[1]
    assert first.seeds == (3, 4)
    again = range_test_on(model, made, loader, loss, steps=30, runs=2, seed=3)
    assert again.losses == first.losses
    assert first.iterations == sum(map(len, first.lrs))


def test_a_tensor_lr_is_changed_in_place() -> None:
    model = Net()
    lr = torch.tensor(0.1)
    made = torch.optim.Adam(model.parameters(), lr=lr, capturable=False, foreach=False)
    range_test_on(model, made, list(DataLoader(samples(), 20)), loss, steps=20)
    assert float(made.param_groups[0]["lr"]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"low": 0.0}, "low=0"),
        ({"low": 1.0, "high": 0.1}, "low=1, high=0.1"),
        ({"steps": 7}, "steps=7"),
        ({"steps": 20.0}, "steps=20.0"),
        ({"runs": 0}, "runs=0"),
        ({"seed": -1}, "seed=-1"),
        ({"batches": []}, "at least one batch"),
        ({"batches": iter([1])}, "iterator"),
        ({"batches": 3}, "batches=int"),
        ({"loss": lambda model, batch: 3.0}, "loss gave float"),
        ({"loss": lambda model, batch: model(batch[0])}, "scalar"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_trace(changes, part) -> None:
    model, made = make()
    before = copy.deepcopy(model.state_dict())
    settings = {"batches": list(DataLoader(samples(), 20)), "loss": loss, **changes}
    with pytest.raises(LRBenchError) as caught:
        range_test_on(model, made, settings.pop("batches"), settings.pop("loss"), **settings)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_climb_stops_where_the_loss_has_exploded() -> None:
    calm, learnt = [2.0, 2.1] * 5, [1.0, 1.1] * 5
    for losses, at_most in (
        ([*calm, *learnt] + [9.0] * 80, 24),
        ([*calm, *learnt] + [math.nan] * 80, 21),
        ([*calm, *learnt] + [math.inf] * 80, 21),
        ([*calm, *learnt] + [3.1] * 80, 26),
    ):
        given = iter(losses)
        found = climb(lambda lr, given=given: torch.tensor(next(given)), rungs(1e-4, 10, 100))
        assert 20 < len(found) <= at_most
        assert all(value is None or math.isfinite(value) for value in found)
        assert (found[-1] is None) == (not math.isfinite(losses[-1]))


def test_a_climb_goes_on_through_noise() -> None:
    random = np.random.default_rng(0)
    for losses in (
        2 + 0.5 * random.standard_normal(100),
        2 + random.exponential(1.0, 100),
        np.linspace(0, -5, 100) + random.standard_normal(100),
        np.full(100, 2.0),
    ):
        given = iter(losses.tolist())
        found = climb(lambda lr, given=given: torch.tensor(next(given)), rungs(1e-4, 10, 100))
        assert len(found) == 100


def test_an_error_of_ones_own_comes_through() -> None:
    def broken(model, batch):
        raise TrainingError("mine")

    with pytest.raises(TrainingError, match="mine"):
        range_test_on(*make(), list(DataLoader(samples(), 20)), broken)
