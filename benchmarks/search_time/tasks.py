"""The tasks of the search-time benchmark: images, budget, and the accuracy a search must reach.

A part of each data set is enough for the short trainings, and makes an evaluation cheap next to
them; all methods are given the same images and the same validation split.

The accuracy asked for comes from a reference that no method sees: policies that are drawn at
random, recommended, or fall once from one of many peaks are trained with one seed, the best of them
with further seeds, and the target is the best mean less the standard deviation of one seed (pooled
over these policies), times `NOISE`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

import lrbench_hpo
from benchmarks import json_lines
from lrbench_hpo import LRPolicy
from lrbench_hpo.exchange.shipped import import_measured
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.tasks import Recipe, recipe_for
from lrbench_hpo.study.suggest import suggest_in
from lrbench_hpo.training import ImageData, Trainer, load_data

TRAIN = 18_000  # images
EVALUATIONS = 5  # of a training, in every method
NOISE = 1.0  # standard deviations of one seed below the best known mean
RANDOM, PEAKS = 8, (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # times the reference LR
POWERS = (1.0, 1.5)
RETRAINED, SEEDS = 8, (1, 2, 3, 4)
SEARCH_SEED = 100  # searches train with other seeds than the reference


@dataclass(frozen=True)
class SearchTask:
    """A data set, a network and the budget of one training, in iterations.

    So many images are for validation, and as many for testing.
    """

    name: str
    dataset: str
    model: str
    iterations: int
    held_out: int

    @property
    def recipe(self) -> Recipe:
        return recipe_for(self.dataset, self.model, max_iterations=self.iterations)

    def data(self, folder: Path, root: str | None = None) -> ImageData:
        """The images, from the results' folder; first taken out of the whole set."""
        file = folder / f"{self.name}.npz"
        if not file.exists():
            _extract(load_data(self.dataset, root), self.held_out, file)
        with np.load(file) as arrays:
            splits = {
                split: (arrays[f"{split}_images"], arrays[f"{split}_labels"])
                for split in ("train", "validation", "test")
            }
        return load_data(splits, name=self.dataset)

    def trainer(self, data: ImageData) -> Trainer:
        return Trainer(data, self.model, self.recipe, device="cpu", evaluations=EVALUATIONS)


TASKS = {
    task.name: task
    for task in (
        SearchTask("mnist-lenet", "mnist", "lenet", 300, held_out=2_000),
        SearchTask("cifar10-cnn3", "cifar10_jpeg", "cnn3", 200, held_out=1_000),
    )
}


def _extract(whole: ImageData, held_out: int, file: Path) -> None:
    sizes = {"train": TRAIN, "validation": held_out, "test": held_out}
    arrays: dict[str, Any] = {}
    for split, size in sizes.items():
        samples = getattr(whole, split).take(torch.arange(size))
        arrays[f"{split}_images"] = samples.images.numpy()
        arrays[f"{split}_labels"] = samples.labels.numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(file)


# --- the reference --------------------------------------------------------------------------------


def candidates(task: SearchTask) -> list[LRPolicy]:
    """Recommended policies, a cosine and two powers from each of several peaks, random ones."""
    found: list[LRPolicy] = []
    for measured in (False, True):
        with lrbench_hpo.connect("sqlite://") as database:
            if measured:
                import_measured(database)
            prior = Question(
                task.dataset, task.model, max_iterations=task.iterations, database=database
            ).prior()
        found += [entry.policy for entry in prior.portfolio]
    eta, budget = prior.scale.reference_lr, task.iterations
    peaks = [eta * peak for peak in PEAKS]
    found += [LRPolicy("COS", k0=1e-3 * peak, k1=peak, l=budget) for peak in peaks]
    found += [LRPolicy("POLY", k0=peak, p=power, l=budget) for peak in peaks for power in POWERS]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    scale = Scale(budget, eta)
    found += [suggest_in(study.ask(), prior.space, scale) for _ in range(RANDOM)]
    return list({policy.fingerprint: policy for policy in found}.values())


@dataclass(frozen=True)
class Reference:
    """How good the best known policies of a task are, and the Top-1 a search must reach."""

    policies: tuple[dict[str, Any], ...]  # policy, mean, std, best first
    noise: float
    target: float

    @classmethod
    def of(cls, top1s: Sequence[tuple[LRPolicy, Sequence[float]]]) -> Reference:
        """From the Top-1 of the policies that were trained with all `SEEDS`."""
        rows: list[dict[str, Any]] = [
            {
                "policy": policy.to_dict(),
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values),
            }
            for policy, values in top1s
        ]
        rows.sort(key=lambda row: -row["mean"])
        # A policy that diverges with one seed of four tells nothing of the good ones' noise.
        good = [row["std"] for row in rows[: max(2, len(rows) // 2)]]
        noise = statistics.fmean(std * std for std in good) ** 0.5
        return cls(tuple(rows), noise, rows[0]["mean"] - NOISE * noise)


def reference(
    task: SearchTask, folder: Path, root: str | None, tell: Callable[[str], None] = print
) -> Reference:
    """Measure the reference, or what is missing of it; every training is kept as it ends."""
    file = folder / f"reference-{task.name}.jsonl"
    done = {(row["policy"], row["seed"]): row["top1"] for row in json_lines.read(file)}
    trainer = cache(lambda: task.trainer(task.data(folder, root)))

    def top1(policy: LRPolicy, seed: int) -> float:
        key = (policy.fingerprint, seed)
        if key not in done:
            run = trainer().train(policy, task.iterations, seed=seed).run
            done[key] = float(run.metrics["top1"] or 0.0)
            json_lines.append(
                file, {"policy": key[0], "seed": seed, "top1": done[key], "is": str(policy)}
            )
            tell(f"{task.name} reference {len(done)}: {policy} seed {seed}: {done[key]:.4f}")
        return float(done[key])

    first = sorted(candidates(task), key=lambda policy: -top1(policy, 0))
    return Reference.of([(p, [top1(p, seed) for seed in SEEDS]) for p in first[:RETRAINED]])
