from __future__ import annotations

import dataclasses
import json
import tracemalloc

import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy, Run, Task, compose
from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.training import Trainer, find_device, load_data
from lrbench_hpo.training.metrics import prediction_metrics

FIX = LRPolicy("FIX", k0=0.05)
MEASURED = {"top1", "top5", "ac", "cd", "cdac", "classes_left_out"}
METRICS = MEASURED | {"eval_loss", "train_loss", "loss_difference", "iterations_to_best"}


class Dropping(nn.Sequential):
    """A network whose layers draw random numbers of their own."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10))


class Fragile(nn.Module):
    """A network whose logits become NaN at its 31st training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10)
        self.batches = 0

    def forward(self, images):
        self.batches += self.training
        return self.layer(images.flatten(1)) * (float("nan") if self.batches > 30 else 1)


class Wrong(nn.Module):
    """A network that is right in evaluation mode only."""

    def __init__(self, outcome) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 10)
        self.outcome = outcome

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return self.outcome(logits) if self.training else logits


class Normed(nn.Sequential):
    """A network with statistics and random numbers of its own."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(784, 10)
        )


def test_a_run_holds_all_that_was_measured(digits, digits_trainer):
    trained = digits_trainer.train(FIX, 60)
    run = trained.run
    assert (run.status, run.split, run.seed, run.max_iterations) == (
        "complete",
        "validation",
        0,
        60,
    )
    assert set(run.metrics) == METRICS | {"final_top1"}
    assert [point.iteration for point in run.curve] == list(FIX.evaluation_points(60, limit=10))
    assert {point.lr for point in run.curve} == {0.05}
    best = max(run.curve, key=lambda point: point.top1)
    near = {"rel": 1e-5}  # a curve keeps six digits
    assert run.metrics["top1"] == pytest.approx(best.top1, **near)
    assert run.metrics["iterations_to_best"] == best.iteration
    assert run.metrics["final_top1"] == pytest.approx(run.curve[-1].top1, **near)
    difference = run.metrics["eval_loss"] - run.metrics["train_loss"]
    assert run.metrics["loss_difference"] == difference
    assert run.metrics["eval_loss"] == pytest.approx(best.eval_loss, **near)
    assert run.cost["seconds"] > run.cost["eval_seconds"] > 0
    assert run.cost["samples_per_second"] > 0
    assert run.cost["rss_mib"] > 0
    assert run.cost["gpu_mib"] is None
    assert set(run.environment["versions"]) == {"python", "torch", "torchvision", "lrbench_hpo"}
    assert run.task == digits_trainer.task
    assert (run.task.num_train, run.task.num_classes, run.task.num_parameters) == (
        len(digits.train) + len(digits.validation),
        10,
        50_698,
    )
    assert dict(run.notes) == {"evaluation_samples": len(digits.validation)}
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_the_state_is_that_of_the_best_evaluation(digits, digits_trainer):
    # Half-way the LR jumps so high that training breaks down: the best evaluation is not the last.
    policy = compose([(50, FIX), (None, LRPolicy("FIX", k0=5.0))])
    trained = digits_trainer.train(policy, 100)
    assert trained.run.metrics["iterations_to_best"] < 100
    network = digits_trainer._network(0)
    network.load_state_dict(trained.state)
    again = digits_trainer.evaluator(network.eval())
    assert again["top1"] == trained.run.metrics["top1"]
    assert again["eval_loss"] == trained.run.metrics["eval_loss"]


def test_the_same_seed_gives_the_same_numbers_bit_for_bit(digits_trainer):
    first, second, other = (digits_trainer.train(FIX, 40, seed=s) for s in (1, 1, 2))
    assert first.run.curve == second.run.curve
    assert dict(first.run.metrics) == dict(second.run.metrics)
    assert all(torch.equal(first.state[key], second.state[key]) for key in first.state)
    assert first.run.curve != other.run.curve


def test_convolutions_and_augmentation_repeat_bit_for_bit(few):
    recipe = dataclasses.replace(recipe_for("digits", "resnet20"), augment="crop_flip")
    curves = [Trainer(few, "resnet20", recipe).train(FIX, 4).run.curve for _ in range(2)]
    assert curves[0] == curves[1]


def test_torchs_random_state_neither_matters_nor_changes(digits):
    trainer = Trainer(digits, Dropping, Recipe(pixels="unit"), device="cpu")
    torch.manual_seed(7)
    expected = torch.rand(4)
    curves = []
    for global_seed in (7, 8):
        torch.manual_seed(global_seed)
        curves.append(trainer.train(FIX, 20).run.curve)
        assert torch.equal(torch.rand(4), expected) == (global_seed == 7)
    assert curves[0] == curves[1]


def test_policies_are_compared_on_the_same_weights_and_batches(digits_trainer):
    loops = [digits_trainer.start(seed=3) for _ in range(2)]
    states = [loop.model.state_dict() for loop in loops]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    batches = [loop.batches.next() for loop in loops]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])


def test_each_update_is_plain_sgd_at_the_policys_rate(digits_trainer):
    policy = LRPolicy("SIN", k0=0.01, k1=0.2, l=4)
    loop = digits_trainer.start(seed=0)
    twin = digits_trainer.start(seed=0)
    optimizer = torch.optim.SGD(twin.model.parameters(), lr=1.0, momentum=0.9)
    for t in range(6):
        images, labels = twin.batches.next()
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin.model(images), labels).backward()
        optimizer.param_groups[0]["lr"] = policy(t)
        optimizer.step()
    assert loop.advance(policy, 6)
    pairs = zip(loop.model.parameters(), twin.model.parameters(), strict=True)
    assert all(torch.allclose(ours, plain, atol=1e-6) for ours, plain in pairs)


def test_a_cyclic_policy_is_evaluated_at_its_lr_minima(digits_trainer):
    policy = LRPolicy("TRI", k0=0.001, k1=0.1, l=10)
    run = digits_trainer.train(policy, 60).run
    assert [point.iteration for point in run.curve] == [20, 40, 60]


def test_a_rate_far_too_high_diverges_at_once_and_raises_nothing(digits):
    trained = Trainer(digits, "lenet").train(LRPolicy("FIX", k0=1000.0), 100_000)
    assert trained.run.status == "diverged"
    assert trained.run.curve[-1].iteration <= 25
    assert set(trained.run.metrics) == METRICS | {"final_top1"}
    assert set(trained.run.metrics.values()) == {None}
    assert trained.state == {}


def test_a_late_divergence_keeps_what_was_measured_before(digits):
    trainer = Trainer(digits, Fragile, Recipe(pixels="unit"), device="cpu")
    seen = []
    trained = trainer.train(FIX, 100, on_evaluation=lambda point, run: seen.append(point))
    assert trained.run.status == "diverged"
    assert [point.iteration for point in trained.run.curve] == [10, 20, 30, 31]
    assert [point.iteration for point in seen] == [10, 20, 30]
    assert trained.run.curve[-1].eval_loss is None
    assert trained.run.metrics["final_top1"] is None
    assert trained.run.metrics["top1"] == pytest.approx(max(p.top1 for p in seen), rel=1e-5)


def test_a_callback_that_returns_true_prunes(digits_trainer):
    runs = []

    def stop_at_30(point, run):
        runs.append(run)
        return point.iteration >= 30

    run = digits_trainer.train(FIX, 100, on_evaluation=stop_at_30).run
    assert run.status == "pruned"
    assert [point.iteration for point in run.curve] == [10, 20, 30]
    assert [len(seen.curve) for seen in runs] == [1, 2, 3]
    assert run.metrics["top1"] is not None
    full = digits_trainer.train(FIX, 100, on_evaluation=lambda point, run: point.iteration == 100)
    assert full.run.status == "complete"


def test_an_interrupt_passes_through_and_restores_torchs_state(digits_trainer):
    def interrupt(point, run):
        raise KeyboardInterrupt

    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        digits_trainer.train(FIX, 20, on_evaluation=interrupt)
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_difference_is_evaluation_minus_training_loss(digits):
    few = dataclasses.replace(digits, train=digits.train.take(torch.arange(100)))
    metrics = Trainer(few, "mlp", Recipe(pixels="unit"), device="cpu").train(FIX, 150).run.metrics
    assert metrics["loss_difference"] == metrics["eval_loss"] - metrics["train_loss"]
    assert metrics["loss_difference"] > 0.05  # 100 images are learnt by heart


def test_the_test_split_is_measured_with_the_given_weights(digits, digits_trainer):
    trained = digits_trainer.train(FIX, 60)
    measured = digits_trainer.test(trained.state)
    network = digits_trainer._network(0)
    network.load_state_dict(trained.state)
    logits = network.eval()(digits.test.images.float() / 255)
    expected = prediction_metrics(
        logits.detach().double().softmax(1).numpy(), digits.test.labels.numpy()
    )
    assert {k: measured[k] for k in MEASURED} == pytest.approx(expected, abs=1e-6)
    loss = nn.functional.cross_entropy(logits, digits.test.labels).item()
    assert measured["eval_loss"] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(TrainingError, match="not weights of 'mlp'"):
        digits_trainer.test({})


def test_evaluation_uses_evaluation_mode_and_leaves_training_mode(digits):
    trainer = Trainer(digits, Dropping, Recipe(pixels="unit"), device="cpu")
    loop = trainer.start()
    assert trainer.evaluator(loop.model) == trainer.evaluator(loop.model)
    assert loop.model.training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "rate", "budget"),
    [("lenet", 0.02, 100), ("cnn3", 0.003, 200), ("mlp", 0.1, 100), ("resnet20", 0.1, 40)],
)
def test_every_family_of_models_learns_digits(digits, model, rate, budget):
    run = Trainer(digits, model, evaluations=2).train(LRPolicy("FIX", k0=rate), budget).run
    assert run.metrics["top1"] > 0.5


@pytest.mark.parametrize("optimizer", ["nesterov", "adam", "adamw"])
def test_every_optimizer_learns_digits(digits, optimizer):
    recipe = recipe_for("digits", "mlp", optimizer=optimizer)
    rate = 0.1 if optimizer == "nesterov" else 0.003
    run = Trainer(digits, "mlp", recipe).train(LRPolicy("FIX", k0=rate), 100).run
    assert run.metrics["top1"] > 0.8


def test_autocast_learns_and_is_recorded(digits):
    run = Trainer(digits, "mlp", device="cpu", amp=True).train(FIX, 100).run
    assert run.environment["precision"] == "bfloat16 autocast"
    assert run.metrics["top1"] > 0.7


def test_a_given_task_keeps_its_names_and_gets_the_facts(digits):
    task = Task("digits", "my-mlp", reference_lr=0.1, batch_size=7)
    found = Trainer(digits, "mlp", task=task).task
    assert (found.model, found.reference_lr, found.batch_size) == ("my-mlp", 0.1, 100)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"recipe": Recipe(batch_size=5_000)}, TrainingError, "batch_size=5000"),
        ({"recipe": Recipe(augment="flip")}, UnknownNameError, "crop_flip"),
        ({"recipe": Recipe(pixels="raw")}, UnknownNameError, "unit"),
        ({"recipe": Recipe(optimizer="lion")}, UnknownNameError, "sgd"),
        ({"device": "gpu"}, UnknownNameError, "cuda"),
        ({"seed": -1}, TrainingError, "seed=-1"),
        ({"evaluations": 0}, TrainingError, "evaluations=0"),
    ],
)
def test_settings_that_cannot_work_are_one_line_before_training(digits, options, error, words):
    with pytest.raises(error, match=words) as caught:
        Trainer(digits, "mlp", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("budget", [0, -5, 2.5, True, 10**9 + 1, 10**12])
def test_a_budget_out_of_range_is_one_line(digits_trainer, budget):
    with pytest.raises(TrainingError, match=f"max_iterations={budget}: expected a whole number"):
        digits_trainer.session(FIX, budget)


def test_the_largest_budget_needs_no_more_memory_than_another(digits_trainer):
    tracemalloc.start()
    loop = digits_trainer.start()
    assert loop.advance(LRPolicy("POLY", k0=0.1, p=2.0, l=10**9), 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (lambda logits: logits.nothing, r"fails on 1x16x16 images \(AttributeError: "),
        (lambda logits: (logits, logits), r"gives tuple .* expected logits of shape \(2, 10\)"),
        (lambda logits: logits[:1], r"gives \(1, 10\) .* expected logits of shape \(2, 10\)"),
    ],
)
def test_a_network_that_fails_in_training_mode_is_refused_before_training(digits, outcome, words):
    with pytest.raises(TrainingError, match=words) as caught:
        Trainer(digits, Wrong(outcome), Recipe(pixels="unit"), device="cpu")
    assert "Wrong" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layer", [nn.AdaptiveAvgPool1d(10), nn.Linear(256, 10).requires_grad_(False)]
)
def test_a_network_with_nothing_to_train_is_refused(digits, layer):
    model = nn.Sequential(nn.Flatten(), layer)
    with pytest.raises(TrainingError, match="none of them trainable"):
        Trainer(digits, model, Recipe(pixels="unit"), device="cpu")


def test_making_a_trainer_changes_neither_the_network_nor_torchs_random_state(digits):
    model = Normed()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    trainer = Trainer(digits, model, Recipe(pixels="unit"), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    started = trainer.start().model.state_dict()
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value)
        assert torch.equal(started[key], value)


def test_a_device_that_is_not_there_is_one_line():
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(TrainingError, match="not on this machine"):
        find_device(absent)
    assert find_device("cpu").type == "cpu"


def test_grey_data_trains_a_torchvision_model(digits):
    small = dataclasses.replace(digits, train=digits.train.take(torch.arange(64)))
    recipe = Recipe(batch_size=16)
    run = Trainer(small, "torchvision:resnet18", recipe).train(FIX, 1).run
    assert run.task.model == "torchvision:resnet18"
    assert load_data(small) is small


def test_progress_is_told_between_evaluations(digits_trainer):
    told: list[int] = []
    policy = LRPolicy("TRI", k0=0.01, k1=0.05, l=100)  # its only minimum comes after 200
    digits_trainer.train(policy, 200, on_progress=told.append)
    assert told == sorted(set(told))
    assert told[-1] == 200
    assert len(told) >= 5
