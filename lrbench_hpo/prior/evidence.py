"""The past runs that count for a task: which tasks they belong to, and the surrogate of each.

`transfer` translates them to the new task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import Database, Outcome
from lrbench_hpo.database.outcomes import is_evidence
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.policies.features import curve_features
from lrbench_hpo.prior.similarity import similarity
from lrbench_hpo.prior.surrogate import Surface
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.score import score_run

# Below this, nothing that matters agrees, and "nothing similar is known" is the honest answer.
MIN_SIMILARITY = 0.25
_SAME_SHAPE = 0.08  # similarity that is left between networks on images with other optimizers
_KEEP = 0.4  # of the highest similarity: tasks below this share add only noise
_TASKS, _ROWS_PER_TASK = 8, 48  # read from the database: so few take no noticeable time
_ENOUGH_CONSTANTS = 3  # different constant LRs, before one of them is called the best
_LEARNT = 0.1  # share of the range from chance to 1 that accuracy must pass, to count as learning
_SURFACE = 400  # runs that the surrogate of a task is fitted to
_ENOUGH_RUNS = 30  # runs with results, before they are a response surface
_BUDGET_DOUBLINGS = 2  # between the runs of one response surface and their median
_NAMES = ("dataset", "model")


@dataclass(frozen=True)
class KnownTask:
    """A task with results. Stored tasks that differ only in their reference LR are merged.

    Attributes:
        task: its metadata, without a reference LR.
        similarity: to the new task.
        runs: its complete and diverged runs: the best ones; if these are few, the newest.
        surface: the surrogate of more of them.
    """

    task: Task
    similarity: float
    runs: Sequence[Run]
    surface: Surface

    @property
    def rich(self) -> bool:
        """Whether its runs show a whole response surface; published ones show only its best."""
        return not self.published and len(self.surface.scores) >= _ENOUGH_RUNS

    @property
    def usual_budget(self) -> float:
        """The median budget of its runs, in iterations."""
        return float(np.median([run.max_iterations for run in self.runs]))

    @property
    def published(self) -> bool:
        """Whether all of its runs come from papers."""
        return all(run.source == PAPER for run in self.runs)

    @cached_property
    def best_constant(self) -> float | None:
        """The best constant LR; None if fewer than three were tried."""
        fixed = [run for run in self.runs if run.policy.function == "FIX" and learnt(run)]
        if len({run.policy.k0 for run in fixed}) < _ENOUGH_CONSTANTS:
            return None
        return max(fixed, key=score_run).policy.k0

    @cached_property
    def reference_lr(self) -> float | None:
        """The LR that its peaks are relative to; None if it is not known."""
        # In this order: published; the best constant LR, by the surrogate where there is one; the
        # reference LR that its best run assumed. An assumption counts only if its run learnt
        # something.
        good = [run for run in self.runs if run.task.reference_lr and learnt(run)]
        assumed = max(good, key=score_run).task.reference_lr if good else None
        if self.published:
            return assumed
        if self.rich and any(learnt(run) for run in self.runs):
            return float(10**self.surface.best_constant)
        return self.best_constant or assumed


def known_tasks(
    database: Database, task: Task, trusted_sources: Sequence[str] | None = None
) -> list[KnownTask]:
    """The tasks whose results may transfer to a new one, most similar first.

    Args:
        database: the LR database.
        task: the new task.
        trusted_sources: the sources whose runs count; all when None.
    """
    groups: dict[tuple[Any, ...], list[Task]] = {}
    for stored in database.tasks():
        groups.setdefault(_key(stored), []).append(stored)
    rated = sorted(
        ((similarity(task, group[0]), group) for group in groups.values()),
        key=lambda pair: -pair[0],
    )
    most = rated[0][0] if rated else 1.0
    # n = ceil(48 s / s_max) runs of a task with similarity s: half as similar, half as many. The
    # database returns the n best complete ones, then n of the newest, so others are taken only
    # where fewer than n of the best are evidence.
    found = []
    for share, group in rated[:_TASKS]:
        if share >= _SAME_SHAPE:
            limit = math.ceil(_ROWS_PER_TASK * share / most)
            some = database.evidence(group, 2 * limit, trusted_sources)
            runs = [run for run in some if is_evidence(run.split, run.status, run.source)][:limit]
            if runs:
                outcomes = database.outcomes(group, _SURFACE, trusted_sources)
                surface = _surface(_of_similar_budget(outcomes, group[0]))
                found.append(KnownTask(_without_reference(group[0]), share, runs, surface))
    return found


def similar(known: Sequence[KnownTask]) -> list[KnownTask]:
    """The known tasks whose policies may be good here unchanged, most similar first.

    The others still show the shape of good policies.

    Args:
        known: most similar first.
    """
    most = known[0].similarity if known else 1.0
    return [other for other in known if other.similarity >= max(MIN_SIMILARITY, _KEEP * most)]


def _of_similar_budget(outcomes: Sequence[Outcome], task: Task) -> Sequence[Outcome]:
    """The outcomes whose budget is within a factor of 4 of the median of those that learnt."""
    # Otherwise a first look of ten iterations would decide which LRs are good for thousands.
    least = _least_accuracy(task)
    budgets = [o.max_iterations for o in outcomes if o.score is not None and o.score > least]
    if not budgets:
        return outcomes
    usual = float(np.median(budgets))
    return [o for o in outcomes if abs(math.log2(o.max_iterations / usual)) <= _BUDGET_DOUBLINGS]


def _surface(outcomes: Sequence[Outcome]) -> Surface:
    features = [_features(each.policy, each.max_iterations) for each in outcomes]
    scores = [math.nan if each.score is None else each.score for each in outcomes]
    return Surface(np.array(features), np.array(scores))


# The same policies come again with other seeds, and with every query of the database.
_features = lru_cache(maxsize=4096)(curve_features)


_FACTS = [name for name in Task("any", "any").to_dict() if name not in ("reference_lr", *_NAMES)]


def _key(task: Task) -> tuple[Any, ...]:
    """What merges two stored tasks: all but their reference LR, and how names are written."""
    names = (canonical_name(getattr(task, name)) for name in _NAMES)
    return (*names, *(getattr(task, name) for name in _FACTS))


def _without_reference(task: Task) -> Task:
    return dataclasses.replace(task, reference_lr=None)


def learnt(run: Run) -> bool:
    """Whether a run finished clearly above chance."""
    top1 = run.metrics.get("top1")
    return run.status == "complete" and top1 is not None and top1 > _least_accuracy(run.task)


def _least_accuracy(task: Task) -> float:
    """The accuracy that shows learning: a tenth of the way from chance to 1."""
    chance = 1 / (task.num_classes or 2)
    return chance + _LEARNT * (1 - chance)
