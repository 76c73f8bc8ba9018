"""Trainings that the database holds already: repeated, they would give the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.records.run import Run, Task, own_source
from lrbench_hpo.records.tasks import DATASETS, MODELS


def repeatable(dataset: Any, model: Any, sources: Collection[str]) -> bool:
    """Whether a training is made of the package's own parts: the user's own may have changed.

    Args:
        dataset: as in `Objective`.
        model: likewise.
        sources: names of the data sets that the package can load.

    >>> repeatable("digits", "lenet", ["digits"]), repeatable("digits", "net:make", ["digits"])
    (True, False)
    """
    if not isinstance(dataset, str) or not isinstance(model, str):
        return False
    own_data = canonical_name(dataset) in DATASETS.keys() & set(sources)
    return own_data and canonical_name(model) in MODELS


def same_training(
    runs: Iterable[Run],
    task: Task,
    max_iterations: int,
    seed: int,
    environment: Mapping[str, Any],
) -> list[Run]:
    """The runs that are complete trainings of a task, done in exactly this way.

    Only the user's own (`own_source`): runs of other sources may be wrong.

    Args:
        runs: of any task.
        task: what is trained; its reference LR does not matter.
        max_iterations: the budget, in iterations.
        seed: of weights and data order.
        environment: device, precision, threads and versions.
    """
    plain = dataclasses.replace(task, reference_lr=None)
    return [
        run
        for run in runs
        if run.source == own_source()
        and run.status == "complete"
        and run.split == "validation"
        and (run.max_iterations, run.seed) == (max_iterations, seed)
        and dataclasses.replace(run.task, reference_lr=None) == plain
        and run.environment == environment
    ]
