"""The usual training loop, and the LR schedules that are searched with it.

A Dataset of PIL images with torchvision's transforms, a shuffling DataLoader, torch's own SGD and
LRScheduler, `loss.item()` at every update, and an evaluation at equal parts of the budget. Network,
initial weights, optimizer settings and pixels are those of the package's trainer, so a policy
reaches the same accuracy in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from benchmarks.search_time.tasks import EVALUATIONS, SearchTask
from benchmarks.training import Pictures, plain_groups, plain_transform
from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import ImageData, build_model
from lrbench_hpo.training.randomness import Stream, stream_seed

EVALUATION_BATCH = 500

SchedulerFactory = Callable[[Optimizer], LRScheduler]


# --- the search space -----------------------------------------------------------------------------


def suggest(trial: optuna.Trial) -> None:
    """The usual space: a log-uniform LR, and one of torch's schedules with its parameters."""
    trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    match trial.suggest_categorical("schedule", list(SCHEDULES)):
        case "step":
            trial.suggest_float("step_share", 0.1, 0.5)
            trial.suggest_float("step_gamma", 0.1, 0.9)
        case "exponential":
            trial.suggest_float("end", 1e-3, 0.5, log=True)
        case "cosine":
            trial.suggest_float("floor", 1e-4, 1e-1, log=True)
        case "cyclic":
            trial.suggest_float("base", 1e-2, 0.5, log=True)
            trial.suggest_int("half_cycles", 2, 20)
        case "onecycle":
            trial.suggest_float("warmup", 0.1, 0.5)


def _constant(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _step(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    size = max(1, round(config["step_share"] * budget))
    return lr_scheduler.StepLR(optimizer, size, config["step_gamma"])


def _exponential(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    return lr_scheduler.ExponentialLR(optimizer, config["end"] ** (1 / budget))


def _cosine(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, budget, config["lr"] * config["floor"])


def _cyclic(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    peaks = [group["lr"] for group in optimizer.param_groups]
    bases = [peak * config["base"] for peak in peaks]
    half = max(1, round(budget / config["half_cycles"]))
    return lr_scheduler.CyclicLR(optimizer, bases, peaks, half, cycle_momentum=False)


def _onecycle(optimizer: Optimizer, config: Mapping[str, Any], budget: int) -> LRScheduler:
    peaks = [group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=budget + 1, pct_start=config["warmup"], cycle_momentum=False
    )


SCHEDULES: Mapping[str, Callable[[Optimizer, Mapping[str, Any], int], LRScheduler]] = {
    "constant": _constant,
    "step": _step,
    "exponential": _exponential,
    "cosine": _cosine,
    "cyclic": _cyclic,
    "onecycle": _onecycle,
}


# --- the loop -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainSetup:
    """What all trainings of a search share, in parts that other processes can be given."""

    model: str
    image_shape: tuple[int, int, int]
    num_classes: int
    recipe: Recipe
    iterations: int
    train: Pictures
    validation: Pictures

    @classmethod
    def of(cls, task: SearchTask, data: ImageData) -> PlainSetup:
        recipe = task.recipe
        transform = plain_transform(data, recipe)
        return cls(
            task.model,
            data.image_shape,
            data.num_classes,
            recipe,
            task.iterations,
            train=Pictures(data.train, transform),
            validation=Pictures(data.validation, transform),
        )

    def scheduled(self, config: Mapping[str, Any]) -> SchedulerFactory:
        """The schedule of a configuration that `suggest` drew."""
        return lambda optimizer: SCHEDULES[config["schedule"]](optimizer, config, self.iterations)

    @property
    def points(self) -> tuple[int, ...]:
        """Iterations to evaluate after: equal parts of the budget."""
        parts = range(1, EVALUATIONS + 1)
        return tuple(math.ceil(self.iterations * part / EVALUATIONS) for part in parts)


def train(
    setup: PlainSetup,
    lr: float,
    schedule: SchedulerFactory,
    points: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, float]]:
    """Train once; iteration and validation Top-1 at each evaluation, until the loss is not finite.

    Args:
        setup: data, network and recipe.
        lr: the LR that the schedule starts from or scales.
        schedule: makes the scheduler, which is stepped every iteration.
        points: iterations to evaluate after; the last ends the training.
        seed: of initial weights (as the package's trainer draws them) and data order.
    """
    init = stream_seed(seed, Stream.INIT)
    model = build_model(setup.model, setup.num_classes, setup.image_shape, init)
    torch.manual_seed(seed)
    recipe = setup.recipe
    groups = [{**group, "lr": lr * group["lr"]} for group in plain_groups(model, recipe)]
    optimizer = torch.optim.SGD(
        groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.optimizer == "nesterov"
    )
    scheduler = schedule(optimizer)
    loader = DataLoader(setup.train, recipe.batch_size, shuffle=True, drop_last=True)
    batches = _endless(loader)
    done, running_loss = 0, 0.0
    for point in points:
        for _ in range(point - done):
            images, labels = next(batches)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            running_loss += loss.item()
        done = point
        yield done, evaluate(model, setup.validation)
        if not math.isfinite(running_loss):
            return


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


@torch.no_grad()
def evaluate(model: torch.nn.Module, pictures: Pictures) -> float:
    """Top-1, a share."""
    model.eval()
    correct = 0
    for images, labels in DataLoader(pictures, EVALUATION_BATCH):
        correct += int((model(images).argmax(1) == labels).sum())
    model.train()
    return correct / len(pictures)
