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
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import Database, Outcome
from lrbench_hpo.database.outcomes import is_evidence
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.features import curve_features
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.portfolio import Candidate
from lrbench_hpo.prior.short_budgets import annealed, far_shorter
from lrbench_hpo.prior.similarity import SAME_TASK, budget_share, lr_ratio, same_lr_unit, similarity
from lrbench_hpo.prior.surrogate import Source, Surface
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import DEFAULT_REFERENCE_LR

# Below this, metadata agree in nothing that matters: saying "nothing similar" is more honest.
MIN_SIMILARITY = 0.25
_SAME_SHAPE = 0.08  # what is left between networks on images, even with other optimizers
_KEEP = 0.4  # tasks less similar than this share of the most similar one add only noise
_TASKS, _ROWS_PER_TASK = 8, 48  # what can be looked at before anybody notices
_ENOUGH_CONSTANTS = 3  # different constant LRs, before the best of them is called the best
_LEARNT = 0.1  # share of the way from guessing to perfection that shows that anything was learnt
_PUBLISHED_WEIGHT = 1 / 3  # other frameworks, other initial weights: own results count three times
_QUALITY_SCALE = 0.01  # a run one point of score below the best of its peers is worth 1/e
_SURFACE = 400  # runs that the surrogate of a task is fitted to
_ENOUGH_RUNS = 30  # with results, before they are a response surface
_SHIFTS = ((-0.6, 0.1), (-0.3, 0.2), (0.0, 0.4), (0.3, 0.2), (0.6, 0.1))  # decades, probability
_LIKE_BUDGET = 2  # doublings between runs of one response surface
_BEST_OF_RICH = 12  # runs of a rich task that may come onto a list
_SAME_UNIT = 0.15  # decades: two units that are nearer are one
_NAMES = ("dataset", "model")


@dataclass(frozen=True)
class KnownTask:
    """A task with results; stored tasks that differ in their reference LR only are one.

    Attributes:
        task: its metadata, without a reference LR.
        similarity: to the task asked about.
        runs: its complete and diverged runs: the best, then the newest.
        surface: more of them, as the surrogate reads them.
    """

    task: Task
    similarity: float
    runs: Sequence[Run]
    surface: Surface

    @property
    def rich(self) -> bool:
        """Whether its results show a whole response surface; papers show the best of it."""
        return not self.published and len(self.surface.scores) >= _ENOUGH_RUNS

    @property
    def usual_budget(self) -> float:
        """The median budget of its runs, in iterations."""
        return float(np.median([run.max_iterations for run in self.runs]))

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
        if self.published:
            return assumed
        if self.rich and any(_learnt(run) for run in self.runs):
            return float(10**self.surface.best_constant)
        return self.best_constant or assumed


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
    found = []
    for alike, group in rated[:_TASKS]:
        if alike >= _SAME_SHAPE:
            limit = math.ceil(_ROWS_PER_TASK * alike / most)  # half as similar, half as many
            # Of twice as many, half are the best.
            some = database.evidence(group, 2 * limit, trusted_sources)
            runs = [run for run in some if is_evidence(run.split, run.status, run.source)][:limit]
            if runs:
                outcomes = database.outcomes(group, _SURFACE, trusted_sources)
                surface = _surface(_of_like_budget(outcomes, group[0]))
                found.append(KnownTask(_without_reference(group[0]), alike, runs, surface))
    return found


def similar(known: Sequence[KnownTask]) -> list[KnownTask]:
    """Those of the known tasks whose policies may be good here as they are, most similar first.

    The others may still show the shape that good policies have.

    Args:
        known: most similar first.
    """
    most = known[0].similarity if known else 1.0
    return [other for other in known if other.similarity >= max(MIN_SIMILARITY, _KEEP * most)]


def _of_like_budget(outcomes: Sequence[Outcome], task: Task) -> Sequence[Outcome]:
    """Without the runs that were far shorter or longer than those that learnt something.

    A first look with ten iterations would otherwise tell which LRs are good for thousands.
    """
    chance = 1 / (task.num_classes or 2)
    least = chance + _LEARNT * (1 - chance)
    budgets = [o.max_iterations for o in outcomes if o.score is not None and o.score > least]
    if not budgets:
        return outcomes
    usual = float(np.median(budgets))
    return [o for o in outcomes if abs(math.log2(o.max_iterations / usual)) <= _LIKE_BUDGET]


def _surface(outcomes: Sequence[Outcome]) -> Surface:
    features = [_features(each.policy, each.max_iterations) for each in outcomes]
    scores = [math.nan if each.score is None else each.score for each in outcomes]
    return Surface(np.array(features), np.array(scores))


# The same policies come again with other seeds, and whenever the database is asked again.
_features = lru_cache(maxsize=4096)(curve_features)


def sources(known: Iterable[KnownTask], task: Task, scale: Scale, measured: bool) -> list[Source]:
    """What is known as the surrogate takes it.

    Args:
        known: similar tasks.
        task: the task asked about.
        scale: its budget and reference LR.
        measured: whether the reference LR was measured on this task.
    """
    return [
        Source(
            f"{other.task.dataset}/{other.task.model}",
            other.similarity,
            other.surface,
            shifts(other, task, scale, measured),
            (_PUBLISHED_WEIGHT if other.published else 1.0)
            * budget_share(scale.max_iterations, other.usual_budget),
        )
        for other in known
    ]


def shifts(
    other: KnownTask, task: Task, scale: Scale, measured: bool = False
) -> tuple[tuple[float, float], ...]:
    """Decades between a similar task's LRs and this one's, each with its probability.

    In absolute units, corrected for batch size and momentum, where the optimizers are of one
    kind; relative to both reference LRs; and a little to both sides.

    Args:
        other: the similar task.
        task: the task asked about.
        scale: its budget and reference LR.
        measured: whether the reference LR was measured on this task.
    """
    same_unit = same_lr_unit(task, other.task)
    ratio = math.log10(lr_ratio(task, other.task))
    if same_unit and other.similarity >= SAME_TASK:
        return ((ratio, 1.0),)
    usual = DEFAULT_REFERENCE_LR.get(other.task.optimizer or "sgd", 0.01)
    relative = math.log10(scale.reference_lr / (other.reference_lr or usual))
    # The rules for batch size and momentum hold for long trainings; in short ones LRs stay.
    centres = [0.0, ratio] if same_unit else [relative]
    if measured and same_unit:
        centres = [0.0, relative]
    centres = [
        c for n, c in enumerate(centres) if all(abs(c - d) > _SAME_UNIT for d in centres[:n])
    ]
    return tuple((c + step, p / len(centres)) for c in centres for step, p in _SHIFTS)


_FACTS = [name for name in Task("any", "any").to_dict() if name not in ("reference_lr", *_NAMES)]


def _apart_from_reference(task: Task) -> tuple[Any, ...]:
    """What makes two stored tasks one: all but their reference LR, and how names are written."""
    names = (canonical_name(getattr(task, name)) for name in _NAMES)
    return (*names, *(getattr(task, name) for name in _FACTS))


def _without_reference(task: Task) -> Task:
    return dataclasses.replace(task, reference_lr=None)


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
    usable = [other for other in known if other.reference_lr and same_lr_unit(task, other.task)]
    if usable and usable[0].similarity >= SAME_TASK:
        return _of_same_task(task, usable[0])
    if usable:
        trust = [_PUBLISHED_WEIGHT if other.published else 1.0 for other in usable]
        weights = np.array([other.similarity**2 for other in usable]) * trust
        decades = [math.log10(other.reference_lr or 1.0) for other in usable]
        ratios = [math.log10(lr_ratio(task, other.task)) / 2 for other in usable]
        mean = float(np.average(np.add(decades, ratios), weights=weights))
        names = dict.fromkeys(f"{other.task.dataset}/{other.task.model}" for other in usable)
        those = "that of the similar task" if len(names) == 1 else "from the similar tasks"
        return float(f"{10**mean:.6g}"), f"{those} {', '.join(list(names)[:3])}"
    if space.reference_lr is not None and task.optimizer in ("sgd", "nesterov", None):
        return space.reference_lr, f"from {space.name}"
    optimizer = task.optimizer or "sgd"
    return DEFAULT_REFERENCE_LR.get(optimizer, 0.01), f"the usual first try for {optimizer}"


def _of_same_task(task: Task, other: KnownTask) -> tuple[float, str]:
    """The reference LR of the same task, perhaps with another batch size."""
    ratio = lr_ratio(task, other.task)
    scaled = f", times {ratio:.3g} for batch and momentum" if ratio != 1 else ""
    if other.published:
        how = "published for"
    else:
        how = "best of the constant LRs on" if other.best_constant else "as before for"
    name = f"{other.task.dataset}/{other.task.model}"
    return float(f"{(other.reference_lr or 1.0) * ratio:.6g}"), f"{how} {name}{scaled}"


def candidates(
    known: Iterable[KnownTask], task: Task, scale: Scale, space: SearchSpace, measured: bool = False
) -> Iterator[Candidate]:
    """Every known run that this space can express, as a candidate for the task.

    Args:
        known: what is known.
        task: the task asked about.
        scale: its budget and reference LR.
        space: where its policies are looked for.
        measured: whether the reference LR was measured on this task.
    """
    for other in known:
        peers: dict[tuple[str, int], list[float]] = {}
        scores = [score_run(run) for run in other.runs]
        for run, score in zip(other.runs, scores, strict=True):
            peers.setdefault((run.source, run.max_iterations), []).append(score)
        # Of a rich task the best are enough: what the others say, its surrogate says.
        most = sorted(scores, reverse=True)[: _BEST_OF_RICH if other.rich else None][-1]
        for run, score in zip(other.runs, scores, strict=True):
            if score < most:
                continue
            quality = _quality(run, score, peers[run.source, run.max_iterations])
            for eta, probability in _source_references(run, other, task, scale, measured):
                # In many units a run says no more than in one.
                weight = _weight(run, other.similarity, scale.max_iterations) * probability
                for policy, point, moved, times in _points(run, eta, scale, space):
                    yield Candidate(
                        *(policy, point, run, quality, weight, other.similarity),
                        *(tuple(moved), times),
                    )


def _points(
    run: Run, eta: float, scale: Scale, space: SearchSpace
) -> Iterator[tuple[LRPolicy, dict[str, float], list[str], float | None]]:
    """A run as points of the new task's space; how much of its peak was kept, if nothing else."""
    function = run.policy.function
    try:
        point = coordinates.to_coordinates(run.policy, Scale(run.max_iterations, eta))
        if function in space.functions:
            inside, moved = space.clip(function, point)
            yield coordinates.to_policy(function, inside, scale), inside, moved, None
    except PolicyError:
        return  # composed, or made for another budget: no point of this space
    falling = annealed(point["peak"], space)
    if falling and far_shorter(scale.max_iterations, run.max_iterations):
        function, inside, moved = falling
        yield coordinates.to_policy(function, inside, scale), inside, moved, 1.0


def _source_references(
    run: Run, other: KnownTask, task: Task, scale: Scale, measured: bool
) -> list[tuple[float, float]]:
    """The LRs that a run's peak is compared with, one for each unit it may be in; how probable."""
    if other.rich:
        units = shifts(other, task, scale, measured)
        return [(scale.reference_lr / 10**shift, probability) for shift, probability in units]
    return [(_source_reference(run, other, task, scale), 1.0)]


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
    source = _PUBLISHED_WEIGHT if run.source == PAPER else 1.0
    return alike * source * budget_share(max_iterations, run.max_iterations)
