from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import TrainingError
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.training import Trainer

FIX = LRPolicy("FIX", k0=0.05)
WAVE = LRPolicy("SIN2", k0=0.001, k1=0.08, l=4)  # its minima are no whole number of checks apart


class Dropping(nn.Sequential):
    """A network with random numbers and statistics of its own."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(784, 10)
        )


class Fragile(nn.Module):
    """A network whose logits become NaN at its 21st training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        self.batches += self.training
        return self.layer(images.flatten(1)) * (float("nan") if self.batches > 20 else 1)


SHOWN = dataclasses.replace(recipe_for("digits", "resnet20", batch_size=16), augment="crop_flip")
# Everything that a run may be made of: model, recipe, policy, iterations.
KINDS = {
    "sgd": ("lenet", recipe_for("digits", "lenet", batch_size=50), WAVE, 40),
    "adam": ("mlp", recipe_for("digits", "mlp", optimizer="adam"), FIX, 30),
    "adamw": ("mlp", recipe_for("digits", "mlp", optimizer="adamw"), WAVE, 30),
    "nesterov and crops": ("resnet20", SHOWN, FIX, 6),
    "dropout": (Dropping, Recipe(pixels="standard"), FIX, 30),
}


def on_disk(state):
    """What a checkpoint file gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


def comparable(session):
    run = session.run()
    return run.curve, dict(run.metrics), run.status


def finished(session):
    while not session.finished:
        session.step()
    return session


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_for_bit_from_every_evaluation(few, kind):
    model, recipe, policy, budget = KINDS[kind]
    trainer = Trainer(few, model, recipe, device="cpu", seed=3)
    expected = trainer.train(policy, budget)
    whole = trainer.session(policy, budget)
    states = [on_disk(whole.state_dict())]
    while not whole.finished:
        whole.step()
        states.append(on_disk(whole.state_dict()))
    assert comparable(whole) == (expected.run.curve, dict(expected.run.metrics), "complete")
    assert len(states) == len(expected.run.curve) + 1 > 3
    for state in states:
        # Another trainer, as on another machine, and torch's own random state somewhere else.
        torch.manual_seed(len(states))
        again = Trainer(few, model, recipe, device="cpu").session(policy, budget, seed=3)
        again.load_state_dict(state)
        finished(again)
        assert comparable(again) == comparable(whole)
        assert_same_weights(again.state, whole.state)
        assert_same_weights(again._loop.model.state_dict(), whole._loop.model.state_dict())


def test_a_run_may_be_put_away_after_every_evaluation(digits_trainer):
    expected = digits_trainer.train(FIX, 60)
    session = digits_trainer.session(FIX, 60)
    while not session.finished:
        session.step()
        state = on_disk(session.state_dict())
        session = digits_trainer.session(FIX, 60)
        session.load_state_dict(state)
    assert comparable(session)[:2] == (expected.run.curve, dict(expected.run.metrics))
    assert_same_weights(session.state, expected.state)


def test_a_state_is_a_copy_that_no_session_changes(digits_trainer):
    session = digits_trainer.session(FIX, 40)
    session.step()
    state = session.state_dict()
    before = on_disk(state)
    others = [digits_trainer.session(FIX, 40) for _ in range(2)]
    for other in others:
        other.load_state_dict(state)
    for each in (session, *others):
        finished(each)
    assert comparable(others[0]) == comparable(others[1]) == comparable(session)
    assert str(on_disk(state)) == str(before)
    momenta = [entry["momentum_buffer"] for entry in state["loop"]["optimizer"]["state"].values()]
    kept = before["loop"]["optimizer"]["state"].values()
    pairs = zip(momenta, (entry["momentum_buffer"] for entry in kept), strict=True)
    assert all(torch.equal(ours, saved) for ours, saved in pairs)


def test_sessions_that_take_turns_do_not_disturb_each_other(digits):
    trainer = Trainer(digits, Dropping, Recipe(pixels="unit"), device="cpu")
    expected = [trainer.train(FIX, 30, seed=seed).run.curve for seed in (1, 2)]
    first, second = (trainer.session(FIX, 30, seed=seed) for seed in (1, 2))
    while not second.finished:
        first.step()
        second.step()
    assert [first.run().curve, second.run().curve] == expected


def test_the_record_tells_the_run_so_far(digits_trainer):
    session = digits_trainer.session(FIX, 60)
    empty = session.run()
    assert (empty.status, empty.curve, session.state, session.finished) == ("pruned", (), {}, False)
    point = session.step()
    begun = session.run()
    assert (begun.status, begun.curve) == ("pruned", (point,))
    assert begun.metrics["top1"] == pytest.approx(point.top1, rel=1e-5)  # a curve keeps six digits
    assert begun.metrics["final_top1"] is None
    finished(session)
    assert session.run().status == "complete"
    assert session.run().cost["seconds"] > begun.cost["seconds"] > begun.cost["eval_seconds"] > 0
    with pytest.raises(TrainingError, match="ended complete after 60 iterations"):
        session.step()


def test_the_cost_goes_on_with_the_run(digits_trainer):
    session = digits_trainer.session(FIX, 60)
    for _ in range(3):
        session.step()
    before = session.run().cost
    again = digits_trainer.session(FIX, 60)
    again.load_state_dict(on_disk(session.state_dict()))
    assert again.run().cost == before
    again.step()
    assert again.run().cost["seconds"] > before["seconds"]
    assert again.run().cost["eval_seconds"] > before["eval_seconds"]


def test_a_diverged_run_is_finished_also_after_a_restore(digits):
    trainer = Trainer(digits, Fragile, Recipe(pixels="unit"), device="cpu")
    session = trainer.session(FIX, 100)
    session.step()
    session.step()
    state = session.state_dict()
    again = trainer.session(FIX, 100)
    again.load_state_dict(on_disk(state))
    point = again.step()
    assert (point.iteration, point.eval_loss, again.finished) == (21, None, True)
    assert again.run().status == "diverged"
    assert again.run().metrics["top1"] == session.run().metrics["top1"]
    last = trainer.session(FIX, 100)
    last.load_state_dict(on_disk(again.state_dict()))
    assert (last.finished, comparable(last)) == (True, comparable(again))


def test_progress_is_told(digits_trainer):
    told: list[int] = []
    finished_at = digits_trainer.session(FIX, 60).step(told.append)
    assert told[-1] == finished_at.iteration


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": LRPolicy("FIX", k0=0.06)}, "policy="),
        ({"max_iterations": 50}, "max_iterations=40, not 50"),
        ({"seed": 5}, "seed=0, not 5"),
    ],
)
def test_the_state_of_another_run_is_one_line(digits_trainer, change, words):
    state = digits_trainer.session(FIX, 40).state_dict()
    other = {"policy": FIX, "max_iterations": 40, "seed": 0} | change
    with pytest.raises(TrainingError, match=words) as caught:
        digits_trainer.session(**other).load_state_dict(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"format": 99}, None, [1]])
def test_something_else_is_no_state(digits_trainer, state):
    with pytest.raises(TrainingError, match="no state of a training run"):
        digits_trainer.session(FIX, 40).load_state_dict(state)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_for_bit_on_every_device_there_is(few, kind, device):
    model, recipe, policy, budget = KINDS[kind]
    trainer = Trainer(few, model, recipe, device=device)
    whole = trainer.session(policy, budget)
    whole.step()
    state = on_disk(whole.state_dict())
    again = Trainer(few, model, recipe, device=device).session(policy, budget)
    again.load_state_dict(state)
    assert comparable(finished(again)) == comparable(finished(whole))
