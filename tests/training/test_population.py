"""Trained together, every policy ends with the numbers that it has alone."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrbench_hpo import LRPolicy, compose, warmup
from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.training import Member, Population, TrainedRun, Trainer, train_all

FIX = LRPolicy("FIX", k0=0.1)


def step_down(*drops: int, k0: float = 0.1) -> LRPolicy:
    return LRPolicy("NSTEP", k0=k0, gamma=0.1, l=list(drops))


POLICIES = [
    FIX,
    step_down(10),
    step_down(10, 25),
    step_down(17),
    LRPolicy("SIN", k0=1e-3, k1=0.2, l=8),
    LRPolicy("TRIEXP", k0=1e-3, k1=0.2, gamma=0.97, l=7),
    LRPolicy("FIX", k0=1000.0),  # diverges
    warmup(FIX, 5),
    warmup(step_down(10), 5),
    compose([(12, FIX), (None, LRPolicy("EXP", k0=0.1, gamma=0.9))]),
]


class Dropping(nn.Sequential):
    """A network with random numbers and statistics of its own."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(784, 10)
        )


def same(alone: TrainedRun, member: Member) -> bool:
    mine, theirs = alone.run, member.run()
    same_weights = alone.state.keys() == member.state.keys() and all(
        torch.equal(alone.state[name], member.state[name]) for name in alone.state
    )
    told = ("policy", "status", "curve", "metrics", "seed", "max_iterations", "task", "notes")
    return same_weights and all(getattr(mine, name) == getattr(theirs, name) for name in told)


def run_to_end(population: Population) -> list[Member]:
    ended: list[Member] = []
    while population.members:
        ended += [member for member in population.step() if member.finished]
    return ended


@pytest.fixture(scope="module", params=["mlp", Dropping])
def trained_alone(digits, request) -> tuple[Trainer, dict[LRPolicy, TrainedRun]]:
    """A trainer, and what it makes of each policy by itself."""
    trainer = Trainer(digits, request.param, Recipe(pixels="unit"), device="cpu")
    return trainer, {policy: trainer.train(policy, 40) for policy in POLICIES}


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [1, 3, 16])
def test_together_is_alone_bit_for_bit(trained_alone, capacity):
    trainer, alone = trained_alone
    members = train_all(trainer, POLICIES, 40, capacity=capacity, executor="stream")
    for policy, member in zip(POLICIES, members, strict=True):
        assert same(alone[policy], member), policy


def test_together_is_alone_with_augmentation_batchnorm_and_adam(digits):
    recipe = recipe_for("digits", "resnet20", batch_size=16, optimizer="adam")
    trainer = Trainer(digits, "resnet20", recipe, device="cpu", evaluations=2)
    policies = [LRPolicy("FIX", k0=0.001), step_down(4, k0=0.001)]
    members = train_all(trainer, policies, 6, executor="stream")
    assert all(same(trainer.train(p, 6), m) for p, m in zip(policies, members, strict=True))


class InPlace(nn.Module):
    """A network that changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10)

    def forward(self, images):
        images -= 0.5
        return self.layer(images.flatten(1))


def test_what_a_network_does_to_its_input_is_nobody_elses_business(digits):
    trainer = Trainer(digits, InPlace, Recipe(pixels="unit"), device="cpu")
    policies = [LRPolicy("FIX", k0=rate) for rate in (0.1, 0.05, 0.01)]
    members = train_all(trainer, policies, 20, executor="stream")
    assert all(same(trainer.train(p, 20), m) for p, m in zip(policies, members, strict=True))


def test_members_have_seeds_of_their_own(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    members = [population.add(policy, 20, seed=seed) for seed in (0, 1) for policy in POLICIES[:3]]
    run_to_end(population)
    for member in members:
        run = member.run()
        assert same(digits_trainer.train(run.policy, 20, seed=run.seed), member)
    assert len({member.run().metrics["eval_loss"] for member in members}) == 4


def prefixes(policies: list[LRPolicy], budget: int) -> int:
    """How many different beginnings there are: the updates that are needed at least."""
    tables = [policy(np.arange(budget)).tobytes() for policy in policies]
    return len({table[: 8 * t] for table in tables for t in range(1, budget + 1)})


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(1, 19), min_size=1, max_size=3, unique=True).map(sorted),
        min_size=1,
        max_size=6,
    )
)
def test_what_begins_alike_is_trained_once(digits_trainer, drops):
    policies = [step_down(*at) for at in drops]
    population = Population(digits_trainer, executor="stream")
    members = [population.add(policy, 20) for policy in policies]
    run_to_end(population)
    assert population.trained_iterations == prefixes(policies, 20)
    assert population.trained_iterations + population.saved_iterations == 20 * len(policies)
    assert all(member.iteration == 20 for member in members)


def test_an_extended_budget_is_one_training(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    members = [population.add(FIX, budget) for budget in (20, 35)]
    run_to_end(population)
    assert (population.trained_iterations, population.saved_iterations) == (35, 20)
    assert all(same(digits_trainer.train(FIX, m.run().max_iterations), m) for m in members)


def test_a_late_member_goes_on_where_an_earlier_one_with_its_lrs_was(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    population.add(step_down(30), 40)
    run_to_end(population)
    late = population.add(step_down(25), 40)
    assert late.iteration == 24  # of the ten evaluations, the last before the policies part
    run_to_end(population)
    assert same(digits_trainer.train(step_down(25), 40), late)
    assert (population.trained_iterations, population.saved_iterations) == (56, 24)
    other_seed = population.add(step_down(25), 40, seed=1)
    assert other_seed.iteration == 0
    population.add(LRPolicy("FIX", k0=0.3), 40)  # a young one beside it changes nothing
    beside = population.add(step_down(21), 40)
    assert beside.iteration == 20
    run_to_end(population)
    assert beside.share == 20  # it pays for what it trained itself


def test_dropped_members_stay_as_they_are_and_harm_nobody(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    members = [population.add(policy, 40) for policy in POLICIES[:6]]
    population.step()
    population.remove(members[1:4])
    run_to_end(population)
    assert [member.run().status for member in members[1:4]] == ["pruned"] * 3
    for member in (members[0], *members[4:]):
        assert same(digits_trainer.train(member.run().policy, 40), member)


def test_saved_and_restored_is_uninterrupted(trained_alone):
    trainer, alone = trained_alone
    population = Population(trainer, executor="stream")
    for policy in POLICIES:
        population.add(policy, 40)
    for _ in range(4):
        population.step()
    file = io.BytesIO()
    torch.save(population.state_dict(), file)
    file.seek(0)
    again = Population(trainer, executor="stream")
    again.add(FIX, 99)  # which is forgotten
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.trained_iterations == population.trained_iterations
    numbers = {member.number for member in again.members}
    assert numbers == {member.number for member in population.members}
    ended = run_to_end(again)
    assert {member.number for member in ended} == numbers
    assert all(same(alone[member.run().policy], member) for member in ended)
    fresh = again.add(FIX, 40)
    assert fresh.number == len(POLICIES)


def test_a_population_goes_on_with_another_executor(digits_trainer):
    for names in (("stream", "stacked"), ("stacked", "stream")):
        first, then = (Population(digits_trainer, executor=name) for name in names)
        for policy in POLICIES[:5]:
            first.add(policy, 40)
        first.step()
        then.load_state_dict(first.state_dict())
        for member in run_to_end(then):
            alone = digits_trainer.train(member.run().policy, 40).run
            ended = member.run()
            assert ended.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], rel=1e-2)
            assert ended.status == alone.status == "complete"


def test_a_state_of_something_else_is_refused(digits, digits_trainer):
    population = Population(digits_trainer, executor="stream")
    population.add(FIX, 40)
    state = population.state_dict()
    other = Population(Trainer(digits, "mlp", device="cpu", seed=1), executor="stream")
    other.load_state_dict(state)  # members carry their own seeds
    elsewhere = Population(Trainer(digits, "lenet", device="cpu"), executor="stream")
    with pytest.raises(TrainingError, match="the state is of a run with "):
        elsewhere.load_state_dict(state)
    with pytest.raises(TrainingError, match="no state of a population"):
        population.load_state_dict({"format": 0})


def test_bad_input_is_one_line(digits_trainer):
    for capacity in (0, -1, 2.5, True, "4"):
        with pytest.raises(TrainingError, match=f"capacity={capacity!r}: expected a whole number"):
            Population(digits_trainer, capacity=capacity)
    with pytest.raises(UnknownNameError, match="executor 'steam'"):
        Population(digits_trainer, executor="steam")
    population = Population(digits_trainer, capacity=1, executor="stream")
    with pytest.raises(TrainingError, match="without members"):
        population.step()
    with pytest.raises(TrainingError, match="max_iterations=0"):
        population.add(FIX, 0)
    population.add(FIX, 20)
    with pytest.raises(TrainingError, match="capacity=1: as many members are under way"):
        population.add(FIX, 20)


def test_a_step_ends_early_where_somebody_wants_it_to(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    member = population.add(FIX, 10**6)
    assert population.step(lambda members: members[0].iteration >= 50) == []
    assert member.iteration == 50
    population.remove([member])
    assert member.run().status == "pruned"


def test_the_cost_of_a_step_is_shared(digits_trainer):
    started = time.perf_counter()
    population = Population(digits_trainer, executor="stream")
    members = [population.add(POLICIES[index], 20, seed=index // 2) for index in range(4)]
    run_to_end(population)
    elapsed = time.perf_counter() - started
    costs = [member.run().cost for member in members]
    assert all(0 < cost["eval_seconds"] < cost["seconds"] for cost in costs)
    assert sum(cost["seconds"] for cost in costs) < elapsed


def test_in_turn_everybody_is_seen_once_and_then_the_best_goes_first(digits_trainer):
    population = Population(digits_trainer, executor="stream")
    rates = (1e-5, 0.1, 1e-4, 1e-3)
    for seed, rate in enumerate(rates):
        population.add(LRPolicy("FIX", k0=rate), 40, seed=seed)
    order = []
    while population.members:
        order += [(m.run().policy.k0, m.iteration) for m in population.step()]
    assert {rate for rate, _ in order[:4]} == set(rates)
    assert {iteration for _, iteration in order[:4]} == {4}
    assert order[4:13] == [(0.1, iteration) for iteration in range(8, 41, 4)]
