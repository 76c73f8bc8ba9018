"""Past runs translated to a new task: its reference LR, source surrogates, and candidates.

Published results, and results on other tasks, keep their shape and take the new task's scale. Own
results on the same task keep their absolute LRs, for those were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.evidence import KnownTask, learnt
from lrbench_hpo.prior.portfolio import Candidate
from lrbench_hpo.prior.short_budgets import annealed, far_shorter
from lrbench_hpo.prior.similarity import SAME_TASK, budget_share, lr_ratio, same_lr_unit
from lrbench_hpo.prior.surrogate import Source
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import DEFAULT_REFERENCE_LR

PUBLISHED_WEIGHT = 1 / 3  # other frameworks, other initial weights: own results count three times
_QUALITY_SCALE = 0.01  # in score: a run this far below the best of its peers has quality 1/e
# Errors of a factor between two tasks' LRs: decades, and the probability of each.
_SHIFT_ERRORS = ((-0.6, 0.1), (-0.3, 0.2), (0.0, 0.4), (0.3, 0.2), (0.6, 0.1))
_SAME_UNIT = 0.15  # decades: factors nearer to each other than this are one
_BEST_OF_RICH = 12  # runs of a rich task that may be on a list


def sources(known: Iterable[KnownTask], task: Task, scale: Scale, measured: bool) -> list[Source]:
    """Known tasks as sources of the surrogate.

    Args:
        known: tasks with results.
        task: the new task.
        scale: its budget and reference LR.
        measured: whether the reference LR was measured on this task.
    """
    return [
        Source(
            f"{other.task.dataset}/{other.task.model}",
            other.similarity,
            other.surface,
            shifts(other, task, scale, measured),
            (PUBLISHED_WEIGHT if other.published else 1.0)
            * budget_share(scale.max_iterations, other.usual_budget),
        )
        for other in known
    ]


def shifts(
    other: KnownTask, task: Task, scale: Scale, measured: bool = False
) -> tuple[tuple[float, float], ...]:
    """Decades from a similar task's LRs to the new task's, each with its probability.

    Args:
        other: the similar task.
        task: the new task.
        scale: its budget and reference LR.
        measured: whether the reference LR was measured on this task.
    """
    # The factor 10^c between the LRs of two tasks is not known, so several are hypotheses, between
    # which the study's results decide (`surrogate.experts`). c is one of
    #
    #     0                               the absolute LRs carry over,
    #     log10 lr_ratio(task, other)     the rules for batch size and momentum hold,
    #     log10(eta / eta_other)          the reference LRs carry over: alone, if the optimizers
    #                                     or inputs differ; instead of the rules, if eta was
    #                                     measured on this task,
    #
    # all equally probable, each with the errors of `_SHIFT_ERRORS`. On the same task, which may
    # have another momentum, the rules are taken as exact. Reading each task in one unit only was
    # tried ("ours-one-unit" in docs/benchmarks.md).
    same_unit = same_lr_unit(task, other.task)
    ratio = math.log10(lr_ratio(task, other.task))
    if same_unit and other.similarity >= SAME_TASK:
        return ((ratio, 1.0),)
    usual = DEFAULT_REFERENCE_LR.get(other.task.optimizer or "sgd", 0.01)
    relative = math.log10(scale.reference_lr / (other.reference_lr or usual))
    # The rules for batch size and momentum hold for long trainings; in short ones LRs stay equal.
    centres = [0.0, ratio] if same_unit else [relative]
    if measured and same_unit:
        centres = [0.0, relative]
    centres = [
        c for n, c in enumerate(centres) if all(abs(c - d) > _SAME_UNIT for d in centres[:n])
    ]
    return tuple((c + step, p / len(centres)) for c in centres for step, p in _SHIFT_ERRORS)


def reference_lr(task: Task, known: Sequence[KnownTask], space: SearchSpace) -> tuple[float, str]:
    """Estimate a task's best constant LR from known tasks; return it and its origin in words.

    Args:
        task: the new task.
        known: tasks with results, most similar first.
        space: its search space, which may hold the LR of the task it was made for.
    """
    # The weighted mean over the similar tasks j with the same kind of LR,
    #
    #     log eta = sum_j w_j (log eta_j + 1/2 log lr_ratio_j) / sum_j w_j,    w_j = similarity_j^2,
    #
    # with w_j a third for published results. Half of the correction for batch size and momentum, in
    # the logarithm: the rules hold for long trainings, and in short ones LRs stay equal.
    usable = [other for other in known if other.reference_lr and same_lr_unit(task, other.task)]
    if usable and usable[0].similarity >= SAME_TASK:
        return _of_same_task(task, usable[0])
    if usable:
        trust = [PUBLISHED_WEIGHT if other.published else 1.0 for other in usable]
        weights = np.array([other.similarity**2 for other in usable]) * trust
        decades = [math.log10(other.reference_lr or 1.0) for other in usable]
        ratios = [math.log10(lr_ratio(task, other.task)) / 2 for other in usable]
        mean = float(np.average(np.add(decades, ratios), weights=weights))
        names = dict.fromkeys(f"{other.task.dataset}/{other.task.model}" for other in usable)
        those = "that of the similar task" if len(names) == 1 else "from the similar tasks"
        return checks.rounded(10**mean), f"{those} {', '.join(list(names)[:3])}"
    if space.reference_lr is not None and task.optimizer in ("sgd", "nesterov", None):
        return space.reference_lr, f"from {space.name}"
    optimizer = task.optimizer or "sgd"
    return DEFAULT_REFERENCE_LR.get(optimizer, 0.01), f"the usual first try for {optimizer}"


def _of_same_task(task: Task, other: KnownTask) -> tuple[float, str]:
    """The reference LR of the same task, perhaps with another momentum."""
    ratio = lr_ratio(task, other.task)
    scaled = f", times {ratio:.3g} for batch and momentum" if ratio != 1 else ""
    if other.published:
        how = "published for"
    else:
        how = "best of the constant LRs on" if other.best_constant else "as before for"
    name = f"{other.task.dataset}/{other.task.model}"
    return checks.rounded((other.reference_lr or 1.0) * ratio), f"{how} {name}{scaled}"


def candidates(
    known: Iterable[KnownTask], task: Task, scale: Scale, space: SearchSpace, measured: bool = False
) -> Iterator[Candidate]:
    """The known runs as candidates for a task, as far as its space can express them.

    Args:
        known: tasks with results.
        task: the new task.
        scale: its budget and reference LR.
        space: the search space.
        measured: whether the reference LR was measured on this task.
    """
    for other in known:
        peers: dict[tuple[str, int], list[float]] = {}
        scores = [score_run(run) for run in other.runs]
        for run, score in zip(other.runs, scores, strict=True):
            peers.setdefault((run.source, run.max_iterations), []).append(score)
        # Of a rich task the best are enough: its surrogate holds what the others show.
        most = sorted(scores, reverse=True)[: _BEST_OF_RICH if other.rich else None][-1]
        for run, score in zip(other.runs, scores, strict=True):
            if score < most:
                continue
            quality = _quality(run, score, peers[run.source, run.max_iterations])
            for eta, probability in _source_references(run, other, task, scale, measured):
                # A run that is read in several units counts no more than one that is read in one.
                weight = _weight(run, other.similarity, scale.max_iterations) * probability
                for policy, point, moved, times in _points(run, eta, scale, space):
                    yield Candidate(
                        policy=policy,
                        point=point,
                        run=run,
                        quality=quality,
                        weight=weight,
                        similarity=other.similarity,
                        moved=tuple(moved),
                        peak_times=times,
                    )


def _points(
    run: Run, eta: float, scale: Scale, space: SearchSpace
) -> Iterator[tuple[LRPolicy, dict[str, float], list[str], float | None]]:
    """A run as points of the new task's space: its policy, and its peak alone in a falling one.

    Yields policies, points, the coordinates moved into the space, and 1.0 for the peak alone.
    """
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
    """The LRs that a run's peak may be relative to, each with its probability."""
    if other.rich:
        units = shifts(other, task, scale, measured)
        return [(scale.reference_lr / 10**shift, probability) for shift, probability in units]
    return [(_source_reference(run, other, task, scale), 1.0)]


def _source_reference(run: Run, other: KnownTask, task: Task, scale: Scale) -> float:
    """The LR that the peak of a run is relative to."""
    same = (canonical_name(task.dataset), canonical_name(task.model)) == (
        canonical_name(other.task.dataset),
        canonical_name(other.task.model),
    )
    if same and run.source != PAPER and same_lr_unit(task, other.task):
        return scale.reference_lr / lr_ratio(task, other.task)
    usual = DEFAULT_REFERENCE_LR.get(other.task.optimizer or "sgd", 0.01)
    return other.reference_lr or usual


def _quality(run: Run, score: float, scores: Sequence[float]) -> float:
    """How good a run is among its peers, the runs of its source and budget; in [0, 1)."""
    # q = n / (n + 1) * exp((score - best) / 0.01) among n peers; 0 if the run learnt nothing.
    # n / (n + 1): the best of one proves nothing, the best of many does.
    if not learnt(run):
        return 0.0
    standing = len(scores) / (len(scores) + 1)
    return standing * math.exp((score - max(scores)) / _QUALITY_SCALE)


def _weight(run: Run, similarity: float, max_iterations: int) -> float:
    """How much a run counts for the new task, 1 for an own run on the same task and budget."""
    source = PUBLISHED_WEIGHT if run.source == PAPER else 1.0
    return similarity * source * budget_share(max_iterations, run.max_iterations)
