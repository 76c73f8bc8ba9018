"""A task's reference LR: given, measured by a range test, or estimated from similar tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.parameters import MAX_LR
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior import transfer
from lrbench_hpo.prior.evidence import KnownTask
from lrbench_hpo.prior.similarity import SAME_TASK, same_lr_unit
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Task

MEASURED = "measured by a range test"
_MAX_SPREAD = 5.0  # factor: a stored test with more says less than similar tasks do
_MAX_BUDGET_RATIO = 4.0  # between a stored test's budget and the new one
_EDGE = 0.1  # decades: a best LR this near to the lowest or highest one tried lies at the edge


@dataclass(frozen=True)
class Reference:
    """The LR that a task's peaks are relative to.

    Attributes:
        lr: the reference LR.
        origin: where it comes from, in words.
        measured: whether it was given, or measured on this very task by a range test.
        doubtful: whether a range test would estimate it better than similar tasks do.
        test: the range test that measured it.
    """

    lr: float
    origin: str
    measured: bool = False
    doubtful: bool = False
    test: RangeTest | None = None


def reference_for(
    database: Database,
    task: Task,
    max_iterations: int,
    space: SearchSpace,
    known: Sequence[KnownTask],
    *,
    given: float | RangeTest | None = None,
    trusted_sources: Sequence[str] | None = None,
) -> Reference:
    """The best available estimate of a task's best constant LR.

    In this order: the value given; the best of the user's own constant LRs on this task, if at
    least three were tried; a stored range test of it; `transfer.reference_lr`, which takes the mean
    over similar tasks, else the LR of the search space, else the optimizer's usual first try.

    Args:
        database: the LR database.
        task: the new task.
        max_iterations: its budget, in iterations.
        space: its search space, which may hold the LR of the task it was made for.
        known: similar tasks, most similar first.
        given: a number or a range test, if the user knows it.
        trusted_sources: the sources whose range tests count; all when None.

    Raises:
        RecordError: if the value given is no learning rate.
    """
    given = task.reference_lr if given is None else given
    if isinstance(given, RangeTest):
        return Reference(_checked(given.reference_lr), MEASURED, measured=True, test=given)
    if given is not None:
        return Reference(_checked(given), "given", measured=True)
    own = bool(known) and known[0].similarity >= SAME_TASK and not known[0].published
    if not (own and known[0].best_constant):
        stored = _stored(database, task, max_iterations, trusted_sources)
        if stored is not None:
            lr = checks.rounded(stored.at_budget(max_iterations))
            free = dataclasses.replace(stored, iterations=0)  # it costs this search nothing
            return Reference(_checked(lr), MEASURED, measured=True, test=free)
    lr, origin = transfer.reference_lr(task, known, space)
    return Reference(lr, origin, doubtful=_doubtful(task, known))


def _stored(
    database: Database, task: Task, max_iterations: int, trusted_sources: Sequence[str] | None
) -> RangeTest | None:
    """The newest of the stored tests with the nearest budget."""

    def distance(test: RangeTest) -> float:
        return abs(math.log(max_iterations / test.max_iterations)) if test.max_iterations else 1.0

    tests = [t for t in database.range_tests(task, trusted_sources) if t.spread <= _MAX_SPREAD]
    near = [test for test in tests if distance(test) <= math.log(_MAX_BUDGET_RATIO)]
    return min(near, key=distance, default=None)  # the first of equals is the newest


def _doubtful(task: Task, known: Sequence[KnownTask]) -> bool:
    """Whether similar tasks do not determine the LR: other units, or a best LR at an edge."""
    usable = [other for other in known if other.reference_lr and same_lr_unit(task, other.task)]
    return all(other.similarity < SAME_TASK and _at_an_edge(other) for other in usable)


def _at_an_edge(other: KnownTask) -> bool:
    """Whether a task's best constant LR is the lowest or highest that was tried there."""
    if not other.rich:
        return False
    means = other.surface.features.mean(axis=1)
    best = other.surface.best_constant
    return bool(best < means.min() + _EDGE or best > means.max() - _EDGE)


def _checked(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return Scale(1, float(value)).reference_lr
    except (TypeError, ValueError):
        raise RecordError(
            f"reference_lr={value!r}: expected a learning rate above 0, at most {MAX_LR:g}, or a "
            "RangeTest"
        ) from None
