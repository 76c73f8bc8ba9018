"""Iterations per second of the trainer against the usual training loop.

What is measured, per network, with the same weights, batch size and optimizer settings on the same
images:

- *plain loop*: a Dataset of PIL images with torchvision's per-image transforms, a shuffling
  DataLoader (with 0 or 2 workers, whichever is faster here; workers persist and their start is not
  counted), tensors in the default memory format, `torch.optim.SGD` as it comes, an LRScheduler
  stepped every iteration and `loss.item()` for the running loss.
- *trainer*: the loop inside `lrbench_hpo.training.Trainer`, as `Trainer.start` gives it.

Both take turns, chunk by chunk; the figures are medians over the chunks. Evaluation is in neither.
"share of matmul" is the networks' floating-point operations per second (convolutions and matrix
products, forward and backward, as counted by `torch.utils.flop_counter`) over those of a large
float32 matrix product, measured in turn with the rest.

    python -m benchmarks.training --data DIR    # MNIST/raw and cifar10_jpeg.npz below DIR
    python -m benchmarks.training               # random images of the same shapes
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.training import ImageData, Samples, Trainer, build_model, load_data
from lrbench_hpo.training.optimizers import make_optimizer

# network, its data set, the file below --data, shape of random images in its place
TASKS = (
    ("lenet", "mnist", "mnist", (1, 28, 28)),
    ("cnn3", "cifar10", "cifar10_jpeg", (3, 32, 32)),
    ("resnet20", "cifar10", "cifar10_jpeg", (3, 32, 32)),
)
POLICY = LRPolicy("SIN", k0=1e-4, k1=1e-3, l=100)
RANDOM_IMAGES = 10_000
MATMUL_SIDE = 1024


class Pictures(Dataset[tuple[Any, int]]):
    """PIL images with transforms, as torchvision's own data sets give them."""

    def __init__(self, samples: Samples, transform: Callable[[Any], Any]) -> None:
        array = samples.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.images = array[..., 0] if array.shape[3] == 1 else array
        self.labels = samples.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class PlainLoop:
    """The usual training loop."""

    def __init__(self, data: ImageData, model: str, recipe: Recipe, workers: int) -> None:
        self.model = build_model(model, data.num_classes, data.image_shape)
        self.optimizer = torch.optim.SGD(
            plain_groups(self.model, recipe),
            lr=1.0,
            momentum=recipe.momentum,
            nesterov=recipe.optimizer == "nesterov",
        )
        self.scheduler = POLICY.torch_scheduler(self.optimizer)
        self.loader = DataLoader(
            Pictures(data.train, plain_transform(data, recipe)),
            recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.batches = self.endless()
        self.running_loss = 0.0

    def endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.loader

    def run(self, iterations: int) -> None:
        for _ in range(iterations):
            images, labels = next(self.batches)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.running_loss += loss.item()


def plain_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's parameter groups, with the LR ratio where torch's schedulers look for it."""
    groups = make_optimizer(model, recipe).param_groups
    keys = ("params", "weight_decay")
    return [{**{key: group[key] for key in keys}, "lr": group["lr_scale"]} for group in groups]


def plain_transform(data: ImageData, recipe: Recipe) -> Any:
    pixels = data.train.images[:5_000].float() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    steps: list[Any] = [transforms.ToTensor()]
    if recipe.augment == "crop_flip":
        side = data.image_shape[1]
        steps = [transforms.RandomCrop(side, padding=4), transforms.RandomHorizontalFlip(), *steps]
    if recipe.pixels == "caffe":
        steps.append(transforms.Normalize(mean, [1 / 255] * len(mean)))
    if recipe.pixels == "standard":
        steps.append(transforms.Normalize(mean, std))
    return transforms.Compose(steps)


def load(file: str, root: str | None, shape: tuple[int, int, int]) -> ImageData:
    try:
        if root is not None:
            return load_data(file, root)
    except LRBenchError as error:
        print(f"{error}; random images in its place")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (RANDOM_IMAGES, *shape), dtype=np.uint8)
    labels = np.arange(RANDOM_IMAGES) % 10
    return dataclasses.replace(
        load_data((images, labels)), name=f"random {'x'.join(map(str, shape))}"
    )


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def matmul_rate(repeats: int = 5) -> float:
    """FLOP/s of a float32 matrix product."""
    left, right = torch.randn(2, MATMUL_SIDE, MATMUL_SIDE)
    return 2 * MATMUL_SIDE**3 / min(seconds(lambda: left @ right) for _ in range(repeats))


def flops_per_iteration(data: ImageData, model: str, batch_size: int) -> int:
    network = build_model(model, data.num_classes, data.image_shape)
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(batch_size, *data.image_shape))
        F.cross_entropy(logits, torch.zeros(batch_size, dtype=torch.long)).backward()
    return int(counter.get_total_flops())


def compare(data: ImageData, dataset: str, model: str, iterations: int, repeats: int) -> None:
    recipe = recipe_for(dataset, model)
    loops = {workers: PlainLoop(data, model, recipe, workers) for workers in (0, 2)}
    trainer_loop = Trainer(data, model, recipe, device="cpu").start()

    def advance() -> None:
        if not trainer_loop.advance(POLICY, trainer_loop.iteration + iterations):
            raise SystemExit(f"{model} diverged: the figures would mean nothing")

    trials = {}
    for workers, loop in loops.items():
        loop.run(iterations)
        trials[workers] = seconds(lambda loop=loop: loop.run(iterations))  # type: ignore[misc]
    workers = min(trials, key=lambda count: trials[count])
    plain = loops[workers]
    del loops
    advance()
    plain_seconds, trainer_seconds, rates = [], [], []
    for _ in range(repeats):
        plain_seconds.append(seconds(lambda: plain.run(iterations)))
        trainer_seconds.append(seconds(advance))
        rates.append(matmul_rate())
    plain_rate = iterations / statistics.median(plain_seconds)
    rate = iterations / statistics.median(trainer_seconds)
    ratios = [p / t for p, t in zip(plain_seconds, trainer_seconds, strict=True)]
    flops = flops_per_iteration(data, model, recipe.batch_size)
    matmul = statistics.median(rates)
    print(
        f"{model:9} {data.name:15} {recipe.batch_size:5} {workers:7}",
        f"{plain_rate:10.2f} {rate:12.2f} {statistics.median(ratios):6.2f}",
        f"{min(ratios):5.2f}-{max(ratios):<5.2f} {matmul / 1e9:8.0f}",
        f"{100 * plain_rate * flops / matmul:7.0f} % {100 * rate * flops / matmul:6.0f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder with MNIST/raw and cifar10_jpeg.npz")
    parser.add_argument("--iterations", type=int, default=40, help="iterations in a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each loop")
    parser.add_argument("--models", nargs="*", default=[task[0] for task in TASKS])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of", end=" ")
    print(f"{options.repeats} turns of {options.iterations} iterations")
    print(f"{'':65} ratio {'':10} matmul   share of matmul")
    print(
        "network   data            batch workers plain it/s trainer it/s median    range     "
        "GFLOP/s    plain  trainer"
    )
    for model, dataset, file, shape in TASKS:
        if model in options.models:
            data = load(file, options.data, shape)
            compare(data, dataset, model, options.iterations, options.repeats)


if __name__ == "__main__":
    main()
