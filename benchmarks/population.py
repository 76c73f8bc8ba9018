"""Trial-iterations per second of networks trained together, against one after the other.

What is measured, per network and per number K of trials, with the same weights, batches and
optimizer settings; a trial-iteration is one update of one trial:

- *plain*: one trial after the other, the training loop as it comes: default memory format, eager.
- *trainer*: one trial after the other as `Trainer.train` does it: channels_last.
- *stream*, *stacked*: K trials by `StreamExecutor` and `StackedExecutor`.
- *processes*: K processes of one thread each that run *trainer*, as many at once as there are cores
  (on a GPU K at once, 16 at most).

All take turns, chunk by chunk; the figures are medians over the turns, the ratios those of the same
turn. "share of matmul" is what the faster executor computes (floating-point operations as counted
by `torch.utils.flop_counter`) over the rate of a large float32 matrix product measured in turn.
Evaluation is in none of them. On a CPU every method has one thread a process.

    python -m benchmarks.population --data DIR    # MNIST/raw and cifar10_jpeg.npz below DIR
    python -m benchmarks.population               # random images of the same shapes
    python -m benchmarks.population --data DIR --device cuda    # the GPU's table
"""

from __future__ import annotations

import os

# One thread a process, before torch is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import torch

from benchmarks.training import flops_per_iteration, load, seconds
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import ImageData, Trainer, build_model
from lrbench_hpo.training.data.batches import Batches, pixels_for
from lrbench_hpo.training.loop import TrainingLoop
from lrbench_hpo.training.optimizers import make_optimizer
from lrbench_hpo.training.population.executor import Executor
from lrbench_hpo.training.population.memory import members_that_fit
from lrbench_hpo.training.population.stacked_executor import StackedExecutor
from lrbench_hpo.training.population.stream_executor import StreamExecutor
from lrbench_hpo.training.randomness import LayerRandomness

# network: its data set, the file below --data, shape of random images in its place
TASKS: Mapping[str, tuple[str, str, tuple[int, int, int]]] = {
    "mlp": ("mnist", "mnist", (1, 28, 28)),
    "lenet": ("mnist", "mnist", (1, 28, 28)),
    "cnn3": ("cifar10", "cifar10_jpeg", (3, 32, 32)),
    "resnet20": ("cifar10", "cifar10_jpeg", (3, 32, 32)),
    "resnet32": ("cifar10", "cifar10_jpeg", (3, 32, 32)),
}
NETWORKS = {"cpu": ("mlp", "lenet", "cnn3", "resnet20"), "cuda": tuple(TASKS)}
MEMBERS = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
# Low enough for every network to stay finite; what an update costs does not depend on it.
LEARNING_RATE = 1e-5
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
PROCESSES_ON_A_GPU = 16

# Trains so many updates a trial and returns when the device is done.
Work = Callable[[int], None]


class PlainBatches:
    """Batches in the default memory format."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.state_dict = batches.state_dict
        self.load_state_dict = batches.load_state_dict

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._batches.next()
        return images.contiguous(), labels


def plain_loop(trainer: Trainer, model: str) -> TrainingLoop:
    """The loop as it comes: nothing is in channels_last."""
    data = trainer.data
    network = build_model(model, data.num_classes, data.image_shape).to(trainer.device)
    stored = trainer.evaluator.samples  # as small as it is: the images only have to be there
    if trainer.recipe.augment == "none":
        pixels = pixels_for(trainer.recipe.pixels, data.train, trainer.device)
        samples = type(stored)(data.train, trainer.device, channels_last=False)
        batches = Batches(samples, pixels, trainer.recipe.batch_size, 0)
    else:
        batches = trainer.batches()
    optimizer = make_optimizer(network, trainer.recipe)
    return TrainingLoop(network, optimizer, PlainBatches(batches), amp=trainer.amp)


def following(loop: TrainingLoop, device: torch.device) -> Work:
    """One trial after the other is one trial: its rate does not depend on how many follow."""
    randomness = LayerRandomness(device, 0)

    def work(updates: int) -> None:
        with randomness.active():
            if not loop.follow([LEARNING_RATE] * updates):
                raise SystemExit("the loss is no longer finite: the figures would mean nothing")

    return work


def together(executor: Executor, members: int) -> Work:
    executor.add(0)
    for _ in range(members - 1):
        executor.fork(0)

    def work(updates: int) -> None:
        if any(executor.advance([[LEARNING_RATE] * updates] * members)):
            raise SystemExit("the loss is no longer finite: the figures would mean nothing")

    return work


class Processes:
    """Processes that train a network each, all at the same time."""

    def __init__(self, count: int, options: argparse.Namespace, model: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, options, model), daemon=True)
            process.start()
            self._connections.append(here)
            self._processes.append(process)
        for connection in self._connections:
            connection.recv()

    def working(self, count: int) -> Work:
        """So many of them train, the others wait."""

        def work(updates: int) -> None:
            for connection in self._connections[:count]:
                connection.send(updates)
            for connection in self._connections[:count]:
                connection.recv()

        return work

    def close(self) -> None:
        for connection in self._connections:
            connection.send(0)
        for process in self._processes:
            process.join()


def serve(connection: Connection, options: argparse.Namespace, model: str) -> None:
    """Train by each number of updates received, until it is 0."""
    torch.set_num_threads(1)
    trainer = trainer_of(model, options)
    work = following(trainer.start(), trainer.device)
    work(1)
    connection.send(True)
    while updates := connection.recv():
        work(updates)
        connection.send(True)


def trainer_of(model: str, options: argparse.Namespace) -> Trainer:
    dataset, file, shape = TASKS[model]
    data: ImageData = load(file, options.data, shape)
    recipe = recipe_for(dataset, model)
    return Trainer(data, model, recipe, device=options.device, amp=options.amp)


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of a float32 matrix product."""
    side = MATMUL_SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device)
    (left @ right).sum().item()
    started = time.perf_counter()
    (left @ right).sum().item()  # asking for a number waits for the device
    return 2 * side**3 / (time.perf_counter() - started)


def measure(model: str, options: argparse.Namespace) -> None:
    trainer = trainer_of(model, options)
    flops = flops_per_iteration(trainer.data, model, trainer.recipe.batch_size)
    sequential = {
        "plain": following(plain_loop(trainer, model), trainer.device),
        "trainer": following(trainer.start(), trainer.device),
    }
    counts = options.members or MEMBERS[trainer.device.type]
    most = PROCESSES_ON_A_GPU if trainer.device.type == "cuda" else os.cpu_count() or 1
    processes = Processes(min(max(counts), most), options, model)
    for members in counts:
        if members_that_fit(trainer, members, stacked=True) < members:
            print(f"{model:9} {members:3} networks do not fit into the memory")
            break
        works = {
            **{name: (1, work) for name, work in sequential.items()},
            "stream": (members, together(StreamExecutor(trainer), members)),
            "stacked": (members, together(StackedExecutor(trainer), members)),
        }
        at_once = min(members, most)
        works["processes"] = at_once, processes.working(at_once)
        rates, matmuls = turns(works, trainer.device, options)
        report(model, members, rates, flops / statistics.median(matmuls))
    processes.close()


def turns(
    works: Mapping[str, tuple[int, Work]], device: torch.device, options: argparse.Namespace
) -> tuple[dict[str, list[float]], list[float]]:
    """Trial-iterations per second of each, turn by turn, and the matrix product's rate."""
    chunks = {}
    for name, (_, work) in works.items():
        taken = seconds(lambda work=work: work(1))  # type: ignore[misc]
        if taken < options.seconds:  # the first one is slower
            taken = seconds(lambda work=work: work(1))  # type: ignore[misc]
        chunks[name] = max(1, min(200, round(options.seconds / taken)))
    rates: dict[str, list[float]] = {name: [] for name in works}
    matmuls = []
    for _ in range(options.turns):
        for name, (trials, work) in works.items():
            taken = seconds(lambda work=work, name=name: work(chunks[name]))  # type: ignore[misc]
            rates[name].append(trials * chunks[name] / taken)
        matmuls.append(matmul_rate(device))
    return rates, matmuls


def report(model: str, members: int, rates: Mapping[str, list[float]], share: float) -> None:
    """One row of the table.

    Args:
        model: the network.
        members: how many trials.
        rates: of each method, turn by turn.
        share: floating-point operations of a trial-iteration over those of the matrix product.
    """
    plain = rates["plain"]
    cells = [f"{statistics.median(plain):.4g}"]
    for name in [name for name in rates if name != "plain"]:
        ratios = [rate / base for rate, base in zip(rates[name], plain, strict=True)]
        cells.append(f"{statistics.median(rates[name]):.4g} ({statistics.median(ratios):.2f}x)")
    if members == 1:
        print(f"\n| network | trials | {' | '.join(rates)} | share of matmul |")
        print(f"|{'---|' * (len(rates) + 3)}")
    best = max(statistics.median(rates[name]) for name in rates if name.startswith("st"))
    row = [model, str(members), *cells, f"{100 * best * share:.0f} %"]
    print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder with MNIST/raw and cifar10_jpeg.npz")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--turns", type=int, default=5, help="turns of each method")
    parser.add_argument("--seconds", type=float, default=0.3, help="about as long as a turn")
    parser.add_argument("--models", nargs="*", choices=list(TASKS), help="networks")
    parser.add_argument("--members", nargs="*", type=int, help="numbers of trials")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {options.device}, medians of {options.turns} turns;", end=" "
    )
    print("trial-iterations per second (ratio to plain)")
    try:
        for model in options.models or NETWORKS[options.device]:
            measure(model, options)
    except LRBenchError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
