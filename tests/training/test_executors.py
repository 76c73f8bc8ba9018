"""What holds for every executor: each network is the one that its seed and LRs give alone."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import ImageData, Trainer
from lrbench_hpo.training.population.choice import EXECUTORS, make_executor, timed_turns
from lrbench_hpo.training.population.stacked_executor import StackedExecutor
from lrbench_hpo.training.population.stream_executor import StreamExecutor

BOTH = {"stream": StreamExecutor, "stacked": StackedExecutor}

# model, changes to its recipe, a usual LR
CASES = {
    "lenet, momentum": ("lenet", {"weight_decay": 0.0}, 0.01),
    "cnn3, weight decay": ("cnn3", {}, 0.001),
    "resnet20, nesterov, crops": ("resnet20", {"augment": "crop_flip"}, 0.05),
    "mlp, plain": ("mlp", {"momentum": 0.0}, 0.1),
    "mlp, nesterov": ("mlp", {"optimizer": "nesterov", "weight_decay": 0.01}, 0.05),
    "mlp, adam": ("mlp", {"optimizer": "adam", "weight_decay": 0.01}, 0.002),
    "mlp, adamw": ("mlp", {"optimizer": "adamw", "weight_decay": 0.1}, 0.002),
}
CONVOLUTIONS = ["lenet, momentum", "cnn3, weight decay", "resnet20, nesterov, crops"]


def make(data: ImageData, case: str) -> tuple[Trainer, float]:
    model, changes, rate = CASES[case]
    recipe = dataclasses.replace(recipe_for("digits", model, batch_size=6), **changes)
    return Trainer(data, model, recipe, device="cpu"), rate


@pytest.fixture
def float64() -> Iterator[None]:
    """Networks and pixels in float64, where the order of sums hardly shows."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def waves(networks: int, updates: int, rate: float) -> list[list[float]]:
    """An LR curve of its own for each network."""
    moments = np.arange(updates) / 4
    return [(rate * (1 + np.sin(moments + index) / 2)).tolist() for index in range(networks)]


def alone(trainer: Trainer, seed: int, rates: list[float]) -> dict[str, torch.Tensor]:
    """The weights that a run by itself ends with."""
    loop = trainer.start(seed=seed)
    loop.follow(rates)
    return loop.model.state_dict()


def assert_close(found, wanted, exact: bool) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        tolerance = 0.0 if exact else 1e-9 * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=tolerance, msg=name)


def all_bits(executor, index: int) -> dict[str, torch.Tensor]:
    """Every tensor of a network: weights, statistics, the optimizer's state."""
    loop = executor.state_dict(index)["loop"]
    kept = {
        f"{index} {name}": value
        for index, state in loop["optimizer"]["state"].items()
        for name, value in state.items()
    }
    return {**loop["model"], **kept}


def assert_same_bits(found, wanted) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", CASES)
def test_networks_are_those_that_train_alone(few, name, case):
    trainer, rate = make(few, case)
    executor = BOTH[name](trainer)
    curves = waves(4, 7, rate)
    executor.add(0)
    executor.add(5)  # its own weights and its own batches
    assert executor.advance([curve[:3] for curve in curves[:2]]) == [None, None]
    executor.add(0)  # late: weights and batches from the first
    executor.fork(0)
    fork = curves[0][:3] + curves[3][3:]
    rates = [curves[0][3:], curves[1][3:], curves[2][:4], curves[3][3:]]
    assert executor.advance(rates) == [None] * 4
    exact = name == "stream"
    lives = [(0, curves[0]), (5, curves[1]), (0, curves[2][:4]), (0, fork)]
    for index, (seed, life) in enumerate(lives):
        assert_close(executor.weights(index), alone(trainer, seed, life), exact)


@pytest.mark.parametrize("name", BOTH)
def test_networks_are_evaluated_as_the_trainer_does(few, name):
    trainer, rate = make(few, "resnet20, nesterov, crops")
    executor = BOTH[name](trainer)
    executor.add(0)
    executor.add(1)
    executor.advance(waves(2, 3, rate))
    for index, found in zip([1, 0], executor.evaluate([1, 0]), strict=True):
        network = trainer.network(0)
        network.load_state_dict(executor.weights(index))
        assert found == trainer.evaluator(network)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", [*CONVOLUTIONS, "mlp, adamw"])
@pytest.mark.parametrize("rate", [1e6, float("inf")])
def test_a_network_that_diverges_changes_no_bit_of_the_others(few, name, case, rate):
    trainer, usual = make(few, case)
    good, bad = waves(3, 6, usual), waves(3, 6, usual)
    bad[1][2:] = [rate] * 4
    ends = []
    for rates in (good, bad):
        executor = BOTH[name](trainer)
        for _ in range(3):
            executor.add(0)
        failed = executor.advance(rates)
        ends.append([all_bits(executor, index) for index in (0, 2)])
    assert failed[0] is None
    assert failed[2] is None
    loop = trainer.start(seed=0)
    assert loop.follow(bad[1]) == (failed[1] is None)
    assert failed[1] is None or failed[1] == loop.iteration
    assert failed[1] is not None or rate < float("inf")
    for found, wanted in zip(*ends, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", ["cnn3, weight decay", "resnet20, nesterov, crops", "mlp, adam"])
def test_those_who_stay_keep_every_bit(few, name, case):
    trainer, rate = make(few, case)
    executor = BOTH[name](trainer)
    for seed in (0, 0, 3):
        executor.add(seed)
    executor.advance(waves(3, 2, rate))
    before = [all_bits(executor, index) for index in range(3)]
    executor.fork(1)
    executor.compact([2, 3, 0])
    assert len(executor) == 3
    for index, old in enumerate((2, 1, 0)):
        assert_same_bits(all_bits(executor, index), before[old])
    executor.advance([[0.0]] * 3)  # puts them together again
    if case == "mlp, adam":
        return
    # At LR 0 no weight moves: those who stayed are still those who stayed.
    for index, old in enumerate((2, 1, 0)):
        names = [key for key in executor.weights(index) if key.endswith("weight")]
        assert all(torch.equal(executor.weights(index)[key], before[old][key]) for key in names)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BOTH)
def test_training_goes_on_after_a_network_has_left(few, name):
    trainer, rate = make(few, "lenet, momentum")
    executor = BOTH[name](trainer)
    curves = waves(3, 6, rate)
    for _ in curves:
        executor.add(0)
    executor.advance([curve[:3] for curve in curves])
    executor.compact([2, 0])
    executor.advance([curves[2][3:], curves[0][3:]])
    for index, curve in enumerate((curves[2], curves[0])):
        assert_close(executor.weights(index), alone(trainer, 0, curve), name == "stream")


def on_disk(state):
    """What a checkpoint file gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", ["resnet20, nesterov, crops", "mlp, adam"])
def test_a_saved_network_goes_on_as_if_it_had_never_stopped(few, name, case):
    trainer, rate = make(few, case)
    curves = waves(2, 6, rate)
    executor, again = BOTH[name](trainer), BOTH[name](trainer)
    for seed in (0, 4):
        executor.add(seed)
    executor.advance([curve[:4] for curve in curves])
    for index in (0, 1):
        again.restore(on_disk(executor.state_dict(index)))
    for each in (executor, again):
        each.advance([curve[4:] for curve in curves])
    for index in (0, 1):
        assert_same_bits(all_bits(again, index), all_bits(executor, index))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["resnet20, nesterov, crops", "mlp, plain", "mlp, adamw"])
@pytest.mark.parametrize(("first", "second"), [("stream", "stacked"), ("stacked", "stream")])
def test_a_network_of_one_executor_goes_on_in_the_other(few, case, first, second):
    trainer, rate = make(few, case)
    (curve,) = waves(1, 6, rate)
    executor, again = BOTH[first](trainer), BOTH[second](trainer)
    executor.add(2)
    executor.advance([curve[:3]])
    again.restore(on_disk(executor.state_dict(0)))
    again.advance([curve[3:]])
    assert_close(again.weights(0), alone(trainer, 2, curve), exact=False)


@pytest.mark.parametrize("name", BOTH)
def test_bfloat16_keeps_networks_apart_too(few, name):
    trainer = Trainer(few, "mlp", device="cpu", amp=True)
    rates = [[0.05] * 3, [float("inf")] * 3]
    executor, by_itself = BOTH[name](trainer), BOTH[name](trainer)
    for seed in (0, 0):
        executor.add(seed)
        by_itself.add(seed)
    assert executor.advance(rates) == [None, 2]
    by_itself.advance([rates[0]] * 2)
    assert_same_bits(all_bits(executor, 0), all_bits(by_itself, 0))
    for key, value in alone(trainer, 0, rates[0]).items():
        torch.testing.assert_close(executor.weights(0)[key], value, rtol=0.0, atol=1e-3)


def test_an_executor_that_is_asked_for_is_given(digits_trainer):
    for name in ("stream", "stacked"):
        executor, (note,) = make_executor(name, digits_trainer, capacity=3)
        assert executor.name == name
        assert len(executor) == 0
        assert note.startswith(f"executor {name}")


def test_the_faster_executor_is_taken_and_the_rates_are_told(digits_trainer):
    executor, (note,) = make_executor("auto", digits_trainer, capacity=3)
    assert len(executor) == 0
    told = re.search(r"([\d.e+]+) updates/s of 3 networks stacked, ([\d.e+]+) in turn", note)
    stacked, stream = map(float, told.groups())
    assert (executor.name == "stacked") == (stacked > 1.1 * stream)
    executor.add(0)
    assert executor.advance([[0.1] * 2]) == [None]


def test_one_network_alone_needs_no_timing(digits_trainer):
    executor, notes = make_executor("auto", digits_trainer, capacity=1)
    assert executor.name == "stream"
    assert notes == ("executor stream: there is one network at a time",)


def test_timed_turns_give_a_rate_for_each(digits_trainer):
    executors = [BOTH[name](digits_trainer) for name in BOTH]
    rates = timed_turns(executors, seed=0, members=2)
    assert len(rates) == 2
    assert min(rates) > 0
    assert [len(executor) for executor in executors] == [2, 2]


def test_an_unknown_executor_gets_the_known_ones(digits_trainer):
    with pytest.raises(UnknownNameError, match="stacked") as caught:
        make_executor("stack", digits_trainer, capacity=2)
    assert all(name in str(caught.value) for name in EXECUTORS)


def test_a_network_that_cannot_be_stacked_is_refused_or_trained_in_turn(digits):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(256, 10))
    trainer = Trainer(digits, model, device="cpu")
    with pytest.raises(TrainingError, match=r"random numbers.*choose stream"):
        make_executor("stacked", trainer, capacity=2)
    executor, notes = make_executor("auto", trainer, capacity=2)
    assert executor.name == "stream"
    assert "random numbers" in notes[0]
