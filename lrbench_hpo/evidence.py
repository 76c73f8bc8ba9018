"""What past runs say about a task: the tasks that count, their reference LRs, their runs as points.

Runs enter as candidates of the new task's own space. Published results, and results on other
tasks, keep their shape and take the new task's scale; own results on the same task keep their
absolute LRs, for those were measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrbench_hpo import coordinates
from lrbench_hpo.coordinates import Scale
from lrbench_hpo.database import Database
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import PolicyError
from lrbench_hpo.portfolio import Candidate
from lrbench_hpo.ranking import score_run
from lrbench_hpo.records import Run, Task, canonical_name
from lrbench_hpo.similarity import SAME_TASK, lr_ratio, same_lr_unit, similarity
from lrbench_hpo.space import SearchSpace
from lrbench_hpo.tasks import DEFAULT_REFERENCE_LR

# Below this, metadata agree in nothing that matters: saying "nothing similar" is more honest.
MIN_SIMILARITY = 0.25
_KEEP = 0.4  # tasks less similar than this share of the most similar one add only noise
_TASKS, _ROWS_PER_TASK = 5, 48  # what can be looked at before anybody notices
_ENOUGH_CONSTANTS = 3  # different constant LRs, before the best of them is called the best
_LEARNT = 0.1  # share of the way from guessing to perfection that shows that anything was learnt
_PUBLISHED_WEIGHT = 1 / 3  # other frameworks, other initial weights: own results count three times
_BUDGET_LOSS = 0.15  # share of a run's weight lost each doubling between its budget and the new one
_QUALITY_SCALE = 0.01  # a run one point of score below the best of its peers is worth 1/e
_NAMES = ("dataset", "model")


@dataclass(frozen=True)
class KnownTask:
    """A task with results; stored tasks that differ in their reference LR only are one.

    Attributes:
        task: its metadata, without a reference LR.
        similarity: to the task asked about.
        runs: its complete and diverged runs.
    """

    task: Task
    similarity: float
    runs: Sequence[Run]

    @property
    def published(self) -> bool:
        """Whether all of it comes from papers."""
        return all(run.source == PAPER for run in self.runs)

    @cached_property
    def best_constant(self) -> float | None:
        """The best constant LR, once enough of them were tried."""
        fixed = [run for run in self.runs if run.policy.function == "FIX" and _learnt(run)]
        if len({run.policy.k0 for run in fixed}) < _ENOUGH_CONSTANTS:
            return None
        return max(fixed, key=score_run).policy.k0

    @cached_property
    def reference_lr(self) -> float | None:
        """What peaks are relative to: published, measured by constant LRs, or assumed before.

        An assumption counts only where it led to a network that learnt something; the one that
        led to the best run is taken.
        """
        good = [run for run in self.runs if run.task.reference_lr and _learnt(run)]
        assumed = max(good, key=score_run).task.reference_lr if good else None
        return assumed if self.published else self.best_constant or assumed


def known_tasks(
    database: Database, task: Task, trusted_sources: Sequence[str] | None = None
) -> list[KnownTask]:
    """The tasks that say something about this one, most similar first.

    Args:
        database: the LR database.
        task: the task asked about.
        trusted_sources: the sources whose runs count; all when None.
    """
    groups: dict[tuple[Any, ...], list[Task]] = {}
    for stored in database.tasks():
        groups.setdefault(_apart_from_reference(stored), []).append(stored)
    rated = sorted(
        ((similarity(task, group[0]), group) for group in groups.values()),
        key=lambda pair: -pair[0],
    )
    most = rated[0][0] if rated else 1.0
    least = max(MIN_SIMILARITY, _KEEP * most)
    found = []
    for alike, group in rated[:_TASKS]:
        if alike >= least:
            limit = math.ceil(_ROWS_PER_TASK * alike / most)  # half as similar, half as many
            runs = [r for r in database.evidence(group, limit, trusted_sources) if _says(r)]
            found.append(KnownTask(_without_reference(group[0]), alike, runs))
    return [known for known in found if known.runs]


_FACTS = [name for name in Task("any", "any").to_dict() if name not in ("reference_lr", *_NAMES)]


def _apart_from_reference(task: Task) -> tuple[Any, ...]:
    """What makes two stored tasks one: all but their reference LR, and how names are written."""
    names = (canonical_name(getattr(task, name)) for name in _NAMES)
    return (*names, *(getattr(task, name) for name in _FACTS))


def _without_reference(task: Task) -> Task:
    return dataclasses.replace(task, reference_lr=None)


def _says(run: Run) -> bool:
    """Whether a run is evidence: it ended by itself, and was not measured on its own test split.

    A pruned run shows less than its policy can do, a failed one nothing. Own policies are
    selected on validation; the papers selected on test, and say so.
    """
    split = run.split == "validation" or (run.split == "test" and run.source == PAPER)
    return split and run.status in {"complete", "diverged"}


def _learnt(run: Run) -> bool:
    """Whether a run ended clearly above chance."""
    top1, chance = run.metrics.get("top1"), 1 / (run.task.num_classes or 2)
    least = chance + _LEARNT * (1 - chance)
    return run.status == "complete" and top1 is not None and top1 > least


def reference_lr(task: Task, known: Sequence[KnownTask], space: SearchSpace) -> tuple[float, str]:
    """The best guess of a task's best constant LR, and where it comes from in words.

    Args:
        task: the task asked about.
        known: what is known, most similar first.
        space: its search space, which may know the LR of the task it was made for.
    """
    for other in known:
        if other.reference_lr and same_lr_unit(task, other.task):
            ratio = lr_ratio(task, other.task)
            scaled = f", times {ratio:.3g} for batch and momentum" if ratio != 1 else ""
            name = f"{other.task.dataset}/{other.task.model}"
            if other.similarity < SAME_TASK:
                how = "that of the similar task"
            elif other.published:
                how = "published for"
            else:
                how = "best of the constant LRs on" if other.best_constant else "as before for"
            return float(f"{other.reference_lr * ratio:.6g}"), f"{how} {name}{scaled}"
    if space.reference_lr is not None and task.optimizer in ("sgd", "nesterov", None):
        return space.reference_lr, f"from {space.name}"
    optimizer = task.optimizer or "sgd"
    return DEFAULT_REFERENCE_LR.get(optimizer, 0.01), f"the usual first try for {optimizer}"


def candidates(
    known: Iterable[KnownTask], task: Task, scale: Scale, space: SearchSpace
) -> Iterator[Candidate]:
    """Every known run that this space can express, as a candidate for the task.

    Args:
        known: what is known.
        task: the task asked about.
        scale: its budget and reference LR.
        space: where its policies are looked for.
    """
    for other in known:
        peers: dict[tuple[str, int], list[float]] = {}
        scores = [score_run(run) for run in other.runs]
        for run, score in zip(other.runs, scores, strict=True):
            peers.setdefault((run.source, run.max_iterations), []).append(score)
        for run, score in zip(other.runs, scores, strict=True):
            if run.policy.function not in space.functions:
                continue
            eta = _source_reference(run, other, task, scale)
            try:
                source = Scale(run.max_iterations, eta)
                point = coordinates.to_coordinates(run.policy, source)
                point, moved = space.clip(run.policy.function, point)
                policy = coordinates.to_policy(run.policy.function, point, scale)
            except PolicyError:
                continue  # composed, or made for another budget: no point of this space
            yield Candidate(
                policy=policy,
                point=point,
                run=run,
                quality=_quality(run, score, peers[run.source, run.max_iterations]),
                weight=_weight(run, other.similarity, scale.max_iterations),
                similarity=other.similarity,
                moved=tuple(moved),
            )


def _source_reference(run: Run, other: KnownTask, task: Task, scale: Scale) -> float:
    """The LR that a run's peak is compared with."""
    same = (canonical_name(task.dataset), canonical_name(task.model)) == (
        canonical_name(other.task.dataset),
        canonical_name(other.task.model),
    )
    if same and run.source != PAPER and same_lr_unit(task, other.task):
        return scale.reference_lr / lr_ratio(task, other.task)
    usual = DEFAULT_REFERENCE_LR.get(other.task.optimizer or "sgd", 0.01)
    return other.reference_lr or usual


def _quality(run: Run, score: float, scores: Sequence[float]) -> float:
    """1 for the best of many peers, 1/e a point below it, 0 for a run that learnt nothing."""
    if not _learnt(run):
        return 0.0
    # The best of one is no proof of anything; the best of many is.
    standing = len(scores) / (len(scores) + 1)
    return standing * math.exp((score - max(scores)) / _QUALITY_SCALE)


def _weight(run: Run, alike: float, max_iterations: int) -> float:
    doublings = abs(math.log2(max_iterations / run.max_iterations))
    source = _PUBLISHED_WEIGHT if run.source == PAPER else 1.0
    return alike * source * math.exp(-_BUDGET_LOSS * doublings)
