"""LR range tests with the package's own trainer: new networks, a ladder of LRs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lrbench_hpo import checks
from lrbench_hpo.errors import TrainingError
from lrbench_hpo.lr_range.climb import Losses, checked_ladder, climb
from lrbench_hpo.lr_range.constant import read_accuracies
from lrbench_hpo.lr_range.ladder import first_basin, smoothed
from lrbench_hpo.lr_range.reading import optimizer_kind, read_ladders
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.parameters import MAX_LR
from lrbench_hpo.records.range_test import MAX_RUNS, RangeTest
from lrbench_hpo.records.tasks import DEFAULT_REFERENCE_LR
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.session import memory_checked
from lrbench_hpo.training.trainer import Trainer

OnProgress = Callable[[int, int], None]

# Error of the reference LR, measured as in `reading.CALIBRATION`, in decades: one run of 25, 50 or
# 100 steps 0.32, 0.29 or 0.24; three runs of as many 0.35, 0.27 or 0.22. So a test takes 50 steps
# first, then up to 3 runs, then up to 100 steps.
SHARE = 0.5  # of one trial's budget: what a test may cost
_FEWEST_STEPS, _GOOD_STEPS, _MOST_STEPS, _RUNS = 25, 50, 100, 3
_BELOW, _ABOVE = 1e-2, 1e3  # the ladder's ends, relative to the optimizer's usual reference LR
_MOVES = {"down": (1e-4, 1e-4), "up": (1e3, 1e2)}  # factors of its ends, if it has no minimum
_MOST_MOVES = 2
_LOWEST = 1e-12  # LR
# The coarse search: first LR (log10), decades below it, and how many worse LRs in a row end it.
_START, _MOST_DECADES, _WORSE_IN_A_ROW = -1, 7, 2


@dataclass(frozen=True)
class Plan:
    """The settings of a test.

    Attributes:
        low: the first LR.
        high: the last LR.
        steps: updates of a run.
        runs: how many, each from its own initial weights and with its own data order.
        movable: whether the ladder may be moved when it shows no minimum.
    """

    low: float
    high: float
    steps: int
    runs: int
    movable: bool = True


def planned(
    optimizer: str,
    max_iterations: int,
    *,
    runs: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Plan:
    """Plan a test that costs at most half of one trial, if that has 50 iterations or more.

    Args:
        optimizer: whose usual LR the ladder lies around.
        max_iterations: the budget of a trial, in iterations.
        runs: how many runs; up to three when None, as far as the cost allows.
        low: the first LR; the ladder is then never moved.
        high: the last LR; likewise.

    Raises:
        LRBenchError: if the values are not possible.

    >>> plan = planned("sgd", 300)
    >>> plan.low, plan.high, plan.steps, plan.runs
    (0.0001, 10.0, 50, 3)
    >>> planned("adam", 100).runs, planned("adam", 10_000).steps
    (1, 100)
    """
    usual = DEFAULT_REFERENCE_LR.get(optimizer, DEFAULT_REFERENCE_LR["sgd"])
    movable = low is None and high is None
    low = usual * _BELOW if low is None else low
    high = usual * _ABOVE if high is None else high
    updates = int(SHARE * max_iterations)
    if runs is None:
        runs = max(1, min(_RUNS, updates // _GOOD_STEPS))
    elif checks.whole("runs", runs, error=TrainingError) > MAX_RUNS:
        raise TrainingError(f"runs={runs!r}: expected a whole number of at most {MAX_RUNS}")
    steps = min(_MOST_STEPS, max(_FEWEST_STEPS, updates // runs))
    checked_ladder(low, high, steps)
    return Plan(low, high, steps, runs, movable)


def smith(
    trainer: Trainer,
    max_iterations: int,
    plan: Plan,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> RangeTest:
    """Smith's test: train with an LR that rises after every update, and read the losses.

    The first run decides about the others: if its loss falls to the very end, or explodes at once,
    the ladder is moved, at most twice.

    Args:
        trainer: of the task; it makes a new network for every run.
        max_iterations: the budget that the LR is meant for, in iterations.
        plan: of `planned`.
        seed: of the first run; the next has the next number.
        on_progress: called after each update with updates done and planned.

    Raises:
        TrainingError: if the device has too little memory.
    """
    recipe = trainer.recipe
    ladder = checked_ladder(plan.low, plan.high, plan.steps)
    spent, climbed = 0, [_climb(trainer, ladder, seed, 0, plan, on_progress)]
    ways: list[str | None] = []
    for _ in range(_MOST_MOVES if plan.movable else 0):
        way = first_basin(smoothed([ladder[: len(climbed[0])]], climbed)).hidden
        moved = _moved(ladder, way)
        if moved is None or way not in (ways or [way]):  # the minimum is between two ladders
            break
        ways.append(way)
        spent += len(climbed[0])
        ladder = moved
        climbed = [_climb(trainer, ladder, seed, spent, plan, on_progress)]
    for run in range(1, plan.runs):
        done = spent + sum(map(len, climbed))
        climbed.append(_climb(trainer, ladder, seed + run, done, plan, on_progress))
    return read_ladders(
        [ladder[: len(losses)] for losses in climbed],
        climbed,
        kind=optimizer_kind(recipe.optimizer, recipe.momentum),
        method="smith",
        seeds=tuple(range(seed, seed + plan.runs)),
        max_iterations=max_iterations,
        iterations=spent + sum(map(len, climbed)),
        notes=tuple(f"the ladder was moved {way}" for way in ways),
    )


def _moved(ladder: list[float], way: str | None) -> list[float] | None:
    """The ladder moved ``up`` or ``down``; None if it has a minimum or cannot be moved."""
    if way is None:
        return None
    below, above = _MOVES[way]
    low, high = ladder[0] * below, min(ladder[-1] * above, MAX_LR)
    if low < _LOWEST or low >= high / 10:
        return None
    return checked_ladder(low, high, len(ladder))


def _climb(
    trainer: Trainer,
    ladder: list[float],
    seed: int,
    done: int,
    plan: Plan,
    on_progress: OnProgress | None,
) -> Losses:
    """One run, with its own network and data order."""

    def on_step(step: int) -> None:
        if on_progress is not None:
            on_progress(done + step, max(plan.runs * plan.steps, done + len(ladder)))

    with (
        memory_checked(trainer.device, trainer.recipe.batch_size),
        LayerRandomness(trainer.device, seed).active(),
    ):
        loop = trainer.start(seed=seed)
        return climb(loop.update, ladder, on_step)


def coarse(
    trainer: Trainer,
    max_iterations: int,
    *,
    seed: int = 0,
    share: float = 0.25,
    on_progress: OnProgress | None = None,
) -> RangeTest:
    """LRBench's search: constant LRs, tenfold apart, until the accuracy drops repeatedly.

    It goes down from 0.1 until two LRs one after the other are worse than the best, then up from
    0.1 for as long as the accuracy rises. Every LR is a training of its own.

    Args:
        trainer: of the task.
        max_iterations: the budget that the LR is meant for, in iterations.
        seed: of every training.
        share: of that budget, in (0, 1], that each training gets.
        on_progress: called every few updates with updates done and planned.

    Raises:
        TrainingError: if share is no share, or the device has too little memory.

    The search is that of Wu et al. 2019, arXiv 1908.06477, section IV.
    """
    if not 0 < share <= 1:
        raise TrainingError(f"share={share!r}: expected a share in (0, 1]")
    search = _Coarse(trainer, max(1, math.ceil(share * max_iterations)), seed, on_progress)
    exponent, worse = _START, 0
    while worse < _WORSE_IN_A_ROW and exponent > _START - _MOST_DECADES:
        worse = 0 if search.try_exponent(exponent) else worse + 1
        exponent -= 1
    for exponent in range(_START + 1, round(math.log10(MAX_LR)) + 1):
        if not search.try_exponent(exponent):
            break
    return read_accuracies(
        {10.0**e: top1 for e, (top1, _) in search.results.items()},
        {10.0**e: loss for e, (_, loss) in search.results.items()},
        chance=1 / trainer.data.num_classes,
        samples=len(trainer.data.validation),
        seeds=(seed,),
        max_iterations=max_iterations,
        iterations=search.spent,
    )


class _Coarse:
    """Trainings at powers of ten, and the best of them so far."""

    def __init__(
        self, trainer: Trainer, budget: int, seed: int, on_progress: OnProgress | None
    ) -> None:
        self._trainer, self._budget, self._seed = trainer, budget, seed
        self._on_progress = on_progress
        self.spent = 0
        self.results: dict[int, tuple[float | None, float | None]] = {}

    def try_exponent(self, exponent: int) -> bool:
        """Train at an LR; return whether it is at least as good as the best before."""
        spent = self.spent

        def report(iteration: int) -> None:
            if self._on_progress is not None:
                self._on_progress(spent + iteration, spent + self._budget)

        best = max((top1 for top1, _ in self.results.values() if top1 is not None), default=-1.0)
        policy = LRPolicy("FIX", k0=10.0**exponent)
        run = self._trainer.train(policy, self._budget, seed=self._seed, on_progress=report).run
        complete = run.status == "complete"
        top1 = run.metrics.get("top1") if complete else None
        self.results[exponent] = (top1, run.metrics.get("eval_loss") if complete else None)
        self.spent += run.curve[-1].iteration if run.curve else 0
        return top1 is not None and top1 >= best
