"""The arguments of one `tune` command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PopulationOptions:
    """How trials are trained together, and whether losing trials are stopped.

    Attributes:
        size: policies that are trained at a time, 0 for as many as pay; None: one after the other.
        executor: of the population.
        processes: that share the population; None: as `optimize` decides.
        early_stopping: whether trials without a chance are stopped.
    """

    size: int | None = None
    executor: str = "auto"
    processes: int | None = None
    early_stopping: bool = False


@dataclass(frozen=True)
class RayOptions:
    """The values of ``--ray`` and its options; None is the default.

    Attributes:
        address: of the cluster.
        cpus: CPUs of a trial.
        gpus: GPUs of a trial.
        concurrent: trials at once.
        scheduler: ``asha`` or ``none``.
    """

    address: str | None
    cpus: float | None
    gpus: float | None
    concurrent: int | None
    scheduler: str


@dataclass(frozen=True)
class Job:
    """The arguments of a `tune` command.

    Attributes:
        dataset: a name, file or folder.
        model: a name.
        trials: how many policies to train.
        training: data, download, device, amp and seed.
        storage: where the study is kept.
        study_name: its name there.
        json_file: where to write all results.
        database: URL or file of the LR database.
        settings: of the search, by the names of `create_study`.
        range_test: whether an LR range test may be run where the LR scale is unknown.
        population: how trials are trained together.
    """

    dataset: str
    model: str
    trials: int
    training: Mapping[str, Any]
    storage: str | None
    study_name: str | None
    json_file: str | None
    database: str | None
    settings: Mapping[str, Any]
    range_test: bool
    population: PopulationOptions
