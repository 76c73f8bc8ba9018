"""Range tests with the package's own trainer, on real images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.lr_range.measure import coarse, planned, smith
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import Trainer


class Scaled(nn.Module):
    """A linear classifier; with its input times a factor and its weights divided by it, it is the
    same function, but the LR for the same updates is the factor squared lower."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10, bias=False)
        self.factor = factor
        with torch.no_grad():
            self.layer.weight /= factor

    def forward(self, images):
        return self.layer(self.factor * images.flatten(1))


class Deaf(nn.Module):
    """A network that learns nothing and never explodes."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self.unused.weight.sum() * 0 + torch.zeros(len(images), 10)


def trainer(digits, model="mlp", optimizer="sgd", **changes) -> Trainer:
    recipe = recipe_for("digits", "mlp", optimizer=optimizer, batch_size=32, **changes)
    return Trainer(digits, model, recipe, device="cpu", evaluations=2)


@pytest.fixture(scope="module")
def found(digits):
    made = trainer(digits)
    return smith(made, 200, planned("sgd", 200), seed=0)


def test_the_answer_is_near_the_best_constant_lr(digits, found) -> None:
    made = trainer(digits)
    top1 = {
        lr: made.train(LRPolicy("FIX", k0=lr), 200, seed=5).run.metrics["top1"]
        for lr in (found.reference_lr / 30, found.reference_lr, found.reference_lr * 30)
    }
    low, at, high = top1.values()
    assert at > 0.85
    assert at > max(low, high) + 0.05
    assert found.low < found.reference_lr <= found.high


def test_it_costs_at_most_half_of_a_trial(digits, found) -> None:
    assert found.iterations <= 100
    assert found.iterations == sum(map(len, found.lrs)) == sum(map(len, found.losses))
    for budget in (50, 100, 150, 300, 1_000, 60_000):
        plan = planned("sgd", budget)
        assert plan.steps * plan.runs <= max(25, budget / 2)
        assert 25 <= plan.steps <= 100


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(digits, found) -> None:
    made = trainer(digits)
    assert smith(made, 200, planned("sgd", 200), seed=0).losses == found.losses
    assert smith(made, 200, planned("sgd", 200), seed=7).losses[0] != found.losses[0]
    assert found.losses[0] != found.losses[1]
    assert found.seeds == (0, 1)


def test_trainings_and_random_numbers_are_left_alone(digits) -> None:
    made = trainer(digits)
    policy = LRPolicy("FIX", k0=0.05)
    before = made.train(policy, 20).run.curve
    numbers = torch.get_rng_state()
    smith(made, 100, planned("sgd", 100))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert made.train(policy, 20).run.curve == before


def test_ones_own_network_is_copied_not_trained(digits) -> None:
    network = Scaled()
    before = network.layer.weight.clone()
    smith(trainer(digits, network), 100, planned("sgd", 100))
    assert torch.equal(network.layer.weight, before)


@pytest.mark.parametrize(("factor", "way"), [(1e3, "down"), (0.03, "up")])
def test_a_ladder_that_misses_the_minimum_is_moved(digits, factor, way) -> None:
    plain = smith(trainer(digits, Scaled), 200, planned("sgd", 200))
    assert not plain.notes
    moved = smith(trainer(digits, lambda: Scaled(factor)), 200, planned("sgd", 200))
    assert f"the ladder was moved {way}" in moved.notes
    assert moved.iterations > sum(map(len, moved.lrs))  # the runs before count too
    decades = math.log10(moved.reference_lr / plain.reference_lr)
    assert decades == pytest.approx(-2 * math.log10(factor), abs=0.3)


def test_a_network_that_learns_nothing_gets_a_wide_answer(digits) -> None:
    plan = planned("sgd", 200)
    deaf = smith(trainer(digits, Deaf), 200, plan)
    assert "neither fell nor exploded" in deaf.notes[0]
    assert deaf.spread >= 10
    assert deaf.iterations <= 2 * plan.steps + plan.steps * plan.runs


def test_a_ladder_of_ones_own_is_never_moved(digits) -> None:
    plan = planned("sgd", 200, low=1e-8, high=1e-6)
    result = smith(trainer(digits), 200, plan)
    assert not any("moved" in note for note in result.notes)
    assert result.notes
    assert (result.lrs[0][0], result.lrs[0][-1]) == (1e-8, 1e-6)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"runs": 0}, "runs=0"),
        ({"runs": True}, "runs=True"),
        ({"runs": 101}, "runs=101"),
        ({"low": -1.0}, "low=-1"),
        ({"low": float("nan")}, "low=nan"),
        ({"low": 20.0}, "low=20, high=10"),
    ],
)
def test_settings_that_cannot_work_are_one_line(changes, part) -> None:
    with pytest.raises(LRBenchError) as caught:
        planned("sgd", 200, **changes)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_progress_reaches_its_end(digits) -> None:
    told = []
    result = smith(
        trainer(digits), 300, planned("sgd", 300), on_progress=lambda *now: told.append(now)
    )
    done = [now for now, _ in told]
    assert done == list(range(1, result.iterations + 1))
    assert all(now <= planned_updates for now, planned_updates in told)


def test_ctrl_c_stops_it_at_once(digits) -> None:
    def stop(done: int, planned_updates: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    numbers = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        smith(trainer(digits), 300, planned("sgd", 300), on_progress=stop)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_the_coarse_search_walks_down_until_it_is_persistently_worse(digits) -> None:
    told = []
    made = trainer(digits)
    result = coarse(made, 200, on_progress=lambda *now: told.append(now))
    [lrs], [losses] = result.lrs, result.losses
    assert result.method == "coarse"
    assert {0.1, 0.01} <= set(lrs)
    assert result.reference_lr in (0.1, 0.01) or 0.01 < result.reference_lr < 0.1
    best = min(range(len(lrs)), key=lambda place: losses[place] or math.inf)
    assert best > 1  # two LRs below the best one are worse, and one above
    assert result.iterations == told[-1][0]
    assert result.iterations <= 50 * len(lrs)
    with pytest.raises(LRBenchError, match="share=0"):
        coarse(made, 200, share=0)


def test_the_coarse_search_survives_divergence(digits) -> None:
    result = coarse(trainer(digits, lambda: Scaled(1e3)), 100, share=0.3)
    assert result.reference_lr < 0.01
    assert result.low < result.reference_lr <= result.high
