from __future__ import annotations

import pytest
import torch
from torch import nn

from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import Trainer
from lrbench_hpo.training.population import memory
from lrbench_hpo.training.population.memory import (
    Footprint,
    footprint,
    free_bytes,
    members_that_fit,
)

WEIGHTS = (256 * 8 + 8 + 8 * 10 + 10) * 4  # bytes of the network below


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Sigmoid(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("optimizer", "momentum", "copies"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adam", 0.9, 2)]
)
def test_weights_and_what_the_optimizer_keeps_are_counted(digits, optimizer, momentum, copies):
    recipe = Recipe(optimizer=optimizer, momentum=momentum, batch_size=8)
    found = footprint(Trainer(digits, two_layers, recipe, device="cpu"))
    assert found.weights == WEIGHTS
    assert copies * WEIGHTS <= found.optimizer <= copies * (WEIGHTS + 64)


def test_activations_grow_with_the_batch_and_hold_every_layers_input(digits):
    sizes = {}
    for batch in (8, 64):
        trainer = Trainer(digits, two_layers, Recipe(batch_size=batch), device="cpu")
        sizes[batch] = footprint(trainer).activations
    assert sizes[64] == 8 * sizes[8]
    images, hidden, log_softmax = 256, 8, 10
    assert sizes[8] >= 1.5 * 8 * 4 * (images + hidden + log_softmax)


def test_measuring_leaves_torchs_random_numbers_alone(digits):
    before = torch.get_rng_state()
    footprint(Trainer(digits, "mlp", device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_stacked_networks_need_their_activations_at_the_same_time():
    one = Footprint(weights=10, optimizer=10, activations=1_000)
    assert one.needed(4, stacked=False) < 2 * one.needed(1, stacked=False)
    assert one.needed(4, stacked=True) == 4 * one.needed(1, stacked=True)


def test_members_are_cut_to_the_memory_that_is_there(digits_trainer, monkeypatch):
    one = footprint(digits_trainer)
    for fitting in (1, 3, 8):
        free = int(1.01 * one.needed(fitting, stacked=True) / 0.8)
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert members_that_fit(digits_trainer, 8, stacked=True) == fitting
        assert members_that_fit(digits_trainer, 8, stacked=False) >= fitting
    assert members_that_fit(digits_trainer, 8, stacked=True, processes=4) == 2
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert members_that_fit(digits_trainer, 8, stacked=True) == 1


def test_free_memory_is_less_than_the_machines():
    import psutil

    assert 0 < free_bytes(torch.device("cpu")) < psutil.virtual_memory().total
