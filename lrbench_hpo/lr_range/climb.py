"""One run up a ladder of rising LRs, and range tests in a user's own training loop."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from lrbench_hpo import checks
from lrbench_hpo.errors import MissingExtraError, TrainingError
from lrbench_hpo.lr_range.lists import LEAST_POINTS
from lrbench_hpo.lr_range.reading import optimizer_kind, read_ladders
from lrbench_hpo.records.range_test import MAX_POINTS, MAX_RUNS, RangeTest

with MissingExtraError.unless_installed("torch", "torch"):
    import torch
    from torch import Tensor, nn

OnStep = Callable[[int], None]
Losses = list[float | None]

# The loss has exploded when the mean of the last 5 losses is above the level before training (the
# median of the first 5) by a quarter of that level and by three times the median difference of
# neighbouring losses. A mean, because a single loss may be high by chance; both bounds, because a
# quarter of a small loss is less than noise.
_EXPLOSION_SHARE, _EXPLOSION_SCATTERS = 0.25, 3.0
_AVERAGED, _FIRST_CHECK = 5, 12  # losses


def rungs(low: float, high: float, steps: int) -> list[float]:
    """LRs from low to high with equal ratios.

    >>> rungs(0.001, 1, 4)
    [0.001, 0.01, 0.1, 1.0]
    """
    return [checks.rounded(lr, 12) for lr in np.geomspace(low, high, steps)]


def climb(
    update: Callable[[float], Tensor], ladder: Sequence[float], on_step: OnStep | None = None
) -> Losses:
    """Train with one update at each LR, until the loss explodes.

    Args:
        update: does one update at an LR, and returns the batch's loss before it.
        ladder: rising LRs.
        on_step: called after each update with the number of updates so far.

    Returns:
        The losses, fewer than LRs if the loss exploded; the last is None if it is not finite.
    """
    losses: Losses = []
    finite: list[float] = []
    for step, lr in enumerate(ladder, start=1):
        loss = float(update(lr))
        losses.append(loss if math.isfinite(loss) else None)
        if on_step is not None:
            on_step(step)
        if losses[-1] is None:
            break
        finite.append(loss)
        if step >= _FIRST_CHECK and _exploded(finite):
            break
    return losses


def _exploded(losses: Sequence[float]) -> bool:
    level, recent = median(losses[:_AVERAGED]), sum(losses[-_AVERAGED:]) / _AVERAGED
    scatter = median(abs(b - a) for a, b in pairwise(losses))
    return recent > level + max(_EXPLOSION_SHARE * abs(level), _EXPLOSION_SCATTERS * scatter)


def range_test_on(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 100,
    runs: int = 1,
    seed: int = 0,
    max_iterations: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RangeTest:
    """Run an LR range test in your own training loop, and restore everything afterwards.

    Weights, buffers, gradients, training mode, the optimizer's state, all random numbers (torch,
    numpy, Python) and the data order are put back, also after Ctrl-C. The LRs of parameter groups
    keep their ratios.

    Args:
        model: the network, with the weights to start from.
        optimizer: over its parameters.
        batches: a DataLoader or list of batches, read again from the start when it ends.
        loss: computes the loss to be minimised, a scalar, from the model and a batch.
        low: the first LR.
        high: the last LR.
        steps: updates of a run.
        runs: how many, from the same weights with other data orders.
        seed: of the first run's data order and random layers; the next run has the next number.
        max_iterations: the budget that the LR is meant for, in iterations.
        on_progress: called after each update with updates done and planned.

    Raises:
        TrainingError: if settings or batches are not possible.

    The test is that of Smith 2015, arXiv 1506.01186.

    >>> net = nn.Linear(2, 1)
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> data = [torch.randn(16, 2) for _ in range(20)]
    >>> before = net.weight.clone()
    >>> def loss(net, x):
    ...     return (net(x) - x.sum(1, keepdim=True)).square().mean()
    >>> found = range_test_on(net, sgd, data, loss)
    >>> found.low < found.reference_lr <= found.high, torch.equal(net.weight, before)
    (True, True)
    """
    ladder = checked_ladder(low, high, steps)
    _count("runs", runs, most=MAX_RUNS)
    checks.whole("seed", seed, 0, error=TrainingError)
    base = float(optimizer.param_groups[0]["lr"])
    ratios = [float(group["lr"]) / base if base else 1.0 for group in optimizer.param_groups]

    def update(lr: float) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, next(stream))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TrainingError(f"loss gave {type(value).__name__}: expected a scalar Tensor")
        value.backward()
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            _set_lr(group, lr * ratio)
        optimizer.step()
        return value.detach()

    climbed: list[Losses] = []
    for run in range(runs):
        with restore_after(model, optimizer, batches), contextlib.ExitStack() as closing:
            torch.manual_seed(seed + run)
            model.train()
            stream = closing.enter_context(contextlib.closing(_endless(batches)))
            done = sum(map(len, climbed))
            on_step = _after(on_progress, done, steps * (runs - run))
            climbed.append(climb(update, ladder, on_step))
    group = optimizer.param_groups[0]
    return read_ladders(
        [ladder[: len(losses)] for losses in climbed],
        climbed,
        kind=optimizer_kind(_name(optimizer), group.get("momentum", 0)),
        seeds=tuple(range(seed, seed + runs)),
        max_iterations=max_iterations,
    )


def checked_ladder(low: float, high: float, steps: int) -> list[float]:
    """`rungs` for values of a user.

    Raises:
        RecordError: if low or high is no learning rate.
        TrainingError: if the ladder does not rise, or has too few or too many steps.
    """
    checks.learning_rate("low", low)
    checks.learning_rate("high", high)
    if not low < high:
        raise TrainingError(f"low={low:g}, high={high:g}: expected low below high")
    _count("steps", steps, LEAST_POINTS, most=MAX_POINTS)
    return rungs(low, high, steps)


def _count(name: str, value: Any, least: int = 1, *, most: int) -> None:
    if checks.whole(name, value, least, error=TrainingError) > most:
        raise TrainingError(f"{name}={value!r}: expected a whole number of at most {most}")


def _after(
    on_progress: Callable[[int, int], None] | None, done: int, planned: int
) -> OnStep | None:
    """The progress of one run as that of the whole test, of which `done` updates are over."""
    if on_progress is None:
        return None
    return lambda step: on_progress(done + step, done + planned)


def _name(optimizer: torch.optim.Optimizer) -> str:
    """The name of an optimizer as tasks have it; subclasses of Adam count as Adam."""
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.NAdam):
        return "adam"
    return "sgd" if isinstance(optimizer, torch.optim.SGD) else type(optimizer).__name__


def _set_lr(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)  # as capturable optimizers need it
    else:
        group["lr"] = lr


def _endless(batches: Iterable[Any]) -> Generator[Any, None, None]:
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise TrainingError(
            f"batches={type(batches).__name__}: expected a DataLoader or a list of batches"
        )
    if iter(batches) is batches:
        raise TrainingError(
            "batches: an iterator cannot be given back as it was: give the DataLoader or list"
        )
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise TrainingError("batches: expected at least one batch")


@contextlib.contextmanager
def restore_after(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]
) -> Iterator[None]:
    """Restore model, optimizer, random numbers and data order when the block is left.

    Args:
        model: its weights, buffers, gradients and training modes.
        optimizer: its state and settings.
        batches: a DataLoader, whose random generators decide the order, or a list.
    """
    weights = copy.deepcopy(model.state_dict())
    # A module may replace its buffers by new tensors, and leave some out of its state dict.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gradients = [(p, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = copy.deepcopy(optimizer.state_dict())
    generators = [(found, found.get_state()) for found in _generators(batches)]
    numbers = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    on_cuda = [(device, torch.cuda.get_rng_state(device)) for device in cuda]
    try:
        yield
    finally:
        for module, name, buffer, value in buffers:
            setattr(module, name, buffer.copy_(value))
        model.load_state_dict(weights)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        optimizer.load_state_dict(state)
        for generator, before in generators:
            generator.set_state(before)
        torch.set_rng_state(numbers[0])
        np.random.set_state(numbers[1])
        random.setstate(numbers[2])
        for device, before in on_cuda:
            torch.cuda.set_rng_state(before, device)


def _generators(batches: Iterable[Any]) -> list[torch.Generator]:
    """The random generators of a DataLoader and its samplers."""
    found: dict[int, torch.Generator] = {}
    parts = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    parts.append(getattr(parts[-1], "sampler", None))
    for part in parts:
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())
