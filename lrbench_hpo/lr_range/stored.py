"""The LR range test of a data set and a model, stored in the LR database and found there again."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrbench_hpo.database import Database, opened
from lrbench_hpo.errors import DatabaseError, UnknownNameError
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.repeats import repeatable
from lrbench_hpo.records.run import Task, own_source
from lrbench_hpo.records.tasks import recipe_for, task_for

if TYPE_CHECKING:
    from lrbench_hpo.lr_range.measure import Plan
    from lrbench_hpo.training import Trainer

METHODS = ("smith", "coarse")
RECALLED = "stored before: not done again"

OnProgress = Callable[[int, int], None]


def range_test(
    dataset: Any,
    model: Any,
    *,
    max_iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    data: str | Path | None = None,
    download: bool = False,
    task: Mapping[str, Any] | None = None,
    method: str = "smith",
    runs: int | None = None,
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
    device: str = "auto",
    amp: bool = False,
    database: str | Path | Database | None = None,
    store: bool = True,
    on_progress: OnProgress | None = None,
) -> RangeTest:
    """Estimate a task's best constant LR from a few short runs at rising LRs.

    A test that the database holds already, of the same task with the same settings, is not done
    again: its ``notes`` say so, and it costs nothing. Tests with ``low`` or ``high``, or of your
    own models and data, are always made again.

    Args:
        dataset: as in `Objective`.
        model: likewise.
        max_iterations: the budget of a trial, in iterations; the task's usual one when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        data: folder of the data set; ``LRBENCH_DATA`` when None.
        download: whether torchvision may download what is missing.
        task: more facts about the task (fields of `Task`), as momentum or weight_decay.
        method: ``smith`` (a ladder of LRs, at most half of one trial) or ``coarse`` (LRBench's: a
            short training for each of 0.1, 0.01, ...; costs one to three trials).
        runs: ladders to climb; up to three when None, as the budget allows.
        low: the first LR of the ladder.
        high: its last LR.
        seed: of initial weights, data order and validation split.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: train in bfloat16 where it is safe.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        store: whether to look it up there, and keep it.
        on_progress: called with updates done and planned.

    Raises:
        LRBenchError: for names, data, settings or a database that cannot work, before any
            training.

    The test is that of Smith 2015, arXiv 1506.01186; the coarse search that of Wu et al. 2019,
    arXiv 1908.06477.

    >>> found = range_test("digits", "mlp", max_iterations=100, optimizer="adam", store=False)
    >>> found.low < found.reference_lr <= found.high, found.iterations <= 50
    (True, True)
    """
    if method not in METHODS:
        raise UnknownNameError.among("method", method, METHODS)
    from lrbench_hpo import training
    from lrbench_hpo.lr_range.measure import planned

    details = dict(task or {})
    loaded = training.load_data(dataset, data, download=download, seed=seed)
    name = training.model_name(model)
    recipe = recipe_for(
        loaded.name,
        name,
        details,
        max_iterations=max_iterations,
        batch_size=batch_size,
        optimizer=optimizer,
    )
    known = task_for(loaded.name, name, recipe, details)
    trainer = training.Trainer(loaded, model, recipe, device=device, amp=amp, seed=seed, task=known)
    plan = planned(recipe.optimizer, recipe.max_iterations, runs=runs, low=low, high=high)
    may_recall = plan.movable and repeatable(dataset, model, training.SOURCES)

    def measure() -> RangeTest:
        return _measured(trainer, recipe.max_iterations, method, plan, seed, on_progress)

    if not store:
        return measure()
    with opened(database) as db:
        db.check_writable()
        seeds = (seed,) if method == "coarse" else tuple(range(seed, seed + plan.runs))
        asked = (method, recipe.max_iterations, seeds)
        found = _recalled(db, trainer.task, asked) if may_recall else None
        return found or _kept(db, trainer.task, measure())


def _measured(
    trainer: Trainer,
    max_iterations: int,
    method: str,
    plan: Plan,
    seed: int,
    on_progress: OnProgress | None,
) -> RangeTest:
    from lrbench_hpo.lr_range.measure import coarse, smith

    if method == "coarse":
        return coarse(trainer, max_iterations, seed=seed, on_progress=on_progress)
    return smith(trainer, max_iterations, plan, seed=seed, on_progress=on_progress)


def _recalled(
    database: Database, task: Task, asked: tuple[str, int, tuple[int, ...]]
) -> RangeTest | None:
    """The user's stored test of the same task, method, budget and seeds; it costs nothing."""
    for result in database.range_tests(task, [own_source()]):
        if (result.method, result.max_iterations, result.seeds) == asked:
            return dataclasses.replace(result, iterations=0, notes=(*result.notes, RECALLED))
    return None


def _kept(database: Database, task: Task, result: RangeTest) -> RangeTest:
    """Store a result; if the database is unavailable, the result is returned anyway."""
    try:
        database.add_range_test(task, result)
    except DatabaseError as error:
        warnings.warn(f"the range test is not stored: {error}", stacklevel=3)
    return result
