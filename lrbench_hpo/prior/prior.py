"""The prior: what past runs say about a task, as known-good points and a reference LR.

It answers in points and ranges, and knows neither Optuna nor Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import SearchSpaceError, UnknownNameError
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.parameters import MAX_LR
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior import evidence, portfolio, transfer
from lrbench_hpo.prior.evidence import KnownTask
from lrbench_hpo.prior.recommendation import (
    Recommendation,
    default_recommendations,
    recommendation_of,
)
from lrbench_hpo.prior.reference import reference_for
from lrbench_hpo.prior.surrogate import Experts, Source
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Task, own_source

PORTFOLIO_SIZE = 5


@dataclass(frozen=True)
class Prior:
    """What past runs say about one task.

    Attributes:
        task: the task, with the reference LR filled in.
        scale: budget and reference LR that points are turned into policies with.
        reference_origin: where the reference LR comes from, in words.
        space: the search space, cut to the functions asked for.
        known: tasks with results that count, most similar first.
        portfolio: policies to try first, best first.
        sources: what is known as the surrogate takes it.
        range_test: of the task, if its reference LR comes from one.
        needs_range_test: whether one would tell the reference LR better than what is known.
    """

    task: Task
    scale: Scale
    reference_origin: str
    space: SearchSpace
    known: tuple[KnownTask, ...]
    portfolio: tuple[Recommendation, ...]
    sources: tuple[Source, ...] = ()
    range_test: RangeTest | None = None
    needs_range_test: bool = False

    @property
    def summary(self) -> str:
        """One line: what the search starts from."""
        count = {
            origin: sum(r.origin == origin for r in self.portfolio)
            for origin in ("own", "shared", "published", "default")
        }
        if not self.known:
            shapes = len(self.portfolio) - count["default"]
            start = f"{count['default']} common defaults in the {self.space.name} space"
            if shapes:  # at the LR scale that was measured here
                start = f"the shapes of {shapes} policies that are good elsewhere"
            name = f"{self.task.dataset}/{self.task.model}"
            return f"nothing similar to {name} is known: starting from {start}"
        parts = [f"{count['own']} of your own results"] if count["own"] else []
        parts += [f"{count['shared']} results of others"] if count["shared"] else []
        parts += [f"{count['published']} published results"] if count["published"] else []
        parts += [f"{count['default']} common defaults"] if count["default"] else []
        names = dict.fromkeys(
            f"{k.task.dataset}/{k.task.model} ({100 * k.similarity:.0f} % similar)"
            for k in self.known
        )
        start = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
        return f"starting from {start}; known: {', '.join(list(names)[:3])}"

    @property
    def own_runs(self) -> int:
        """How many of the runs that count are not published ones."""
        return sum(run.source != PAPER for known in self.known for run in known.runs)


def build_prior(
    database: Database,
    task: Task,
    *,
    max_iterations: int,
    space: SearchSpace,
    reference_lr: float | RangeTest | None = None,
    trusted_sources: Sequence[str] | None = None,
    n: int = PORTFOLIO_SIZE,
) -> Prior:
    """What the database says about a task.

    Args:
        database: the LR database.
        task: the task to be tuned.
        max_iterations: its budget, in iterations.
        space: where its policies are looked for.
        reference_lr: eta_ref, if it is known better than from similar tasks, or a range test.
        trusted_sources: the sources whose runs count; all when None.
        n: how many policies to recommend at most.
    """
    space = space.within(max_iterations)
    everything = evidence.known_tasks(database, task, _checked(trusted_sources, database))
    known = evidence.similar(everything)
    reference = reference_for(
        database,
        task,
        max_iterations,
        space,
        known,
        given=reference_lr,
        trusted_sources=trusted_sources,
    )
    scale, measured = Scale(max_iterations, reference.lr), reference.measured
    _refuse_impossible_peaks(space, reference.lr)
    # Where only the shape of good policies is known, their scale has to be measured.
    of_use = known or (everything if measured else [])
    candidates = list(transfer.candidates(of_use, task, scale, space, measured))
    if of_use and of_use[0].rich:
        experts = Experts(transfer.sources(of_use, task, scale, measured))
        chosen = portfolio.cover(candidates, experts, max_iterations, n)
    else:
        chosen = portfolio.choose(candidates, max_iterations, n)
    chosen = portfolio.bracket(chosen, candidates, scale, space)[:n]
    missing = "none of the known policies fits" if known else "nothing similar is known"
    return Prior(
        task=dataclasses.replace(task, reference_lr=reference.lr),
        scale=scale,
        reference_origin=reference.origin,
        space=space,
        known=tuple(known),
        portfolio=tuple(
            [recommendation_of(choice) for choice in chosen]
            or default_recommendations(scale, space, n, f"a common default: {missing}")
        ),
        sources=tuple(transfer.sources(everything, task, scale, measured)),
        range_test=reference.test,
        needs_range_test=reference.doubtful,
    )


def _checked(sources: Any, database: Database) -> list[str] | None:
    """The trusted sources, each of which must exist: a slip of the pen would trust nothing."""
    if sources is None:
        return None
    if isinstance(sources, str) or not isinstance(sources, Iterable):
        checks.refuse("trusted_sources", sources, "expected a list of sources")
    names = [checks.name("trusted_sources", source) for source in sources]
    for name in names:
        if name != own_source() and not database.has_source(name):
            known = database.stats().by_source
            raise UnknownNameError.among(
                "source", name, known, "`lrbench-hpo db stats` counts them"
            )
    return names


def _refuse_impossible_peaks(space: SearchSpace, eta: float) -> None:
    highest = max(ranges["peak"].high for ranges in space.functions.values())
    if eta * highest > MAX_LR:
        raise SearchSpaceError(
            f"reference_lr={eta:g}: the {space.name} space looks up to {highest:g} times higher, "
            f"above the largest LR of {MAX_LR:g}: give a lower reference_lr, or a space with "
            "lower peaks"
        )
