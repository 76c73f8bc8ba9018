"""The prior: what past runs say about a task, as known-good points and a reference LR.

It answers in points and ranges, and knows neither Optuna nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrbench_hpo import coordinates, portfolio
from lrbench_hpo.coordinates import Scale
from lrbench_hpo.database import Database, opened
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import PolicyError, RecordError, SearchSpaceError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.parameters import MAX_LR
from lrbench_hpo.portfolio import Candidate, Choice
from lrbench_hpo.ranking import score_run
from lrbench_hpo.records import Run, Task
from lrbench_hpo.similarity import SAME_TASK, lr_ratio, same_lr_unit, similarity
from lrbench_hpo.space import SearchSpace
from lrbench_hpo.space_files import load_space, space_for
from lrbench_hpo.tasks import DEFAULT_REFERENCE_LR, recipe_for, task_for

PORTFOLIO_SIZE = 5
# Below this, metadata agree in nothing that matters: saying "nothing similar" is more honest.
MIN_SIMILARITY = 0.25
_KEEP = 0.4  # tasks less similar than this share of the most similar one add only noise
_PUBLISHED_WEIGHT = 1 / 3  # other frameworks, other initial weights: own results count three times
_BUDGET_LOSS = 0.15  # share of a run's weight lost each doubling between its budget and the new one
_QUALITY_SCALE = 0.01  # a run one point of score below the best of its peers is worth 1/e
_TASKS, _ROWS_PER_TASK = 8, 80  # what an answer within a second can look at

# Where nothing similar is known: what people try first, in scale-free coordinates.
DEFAULT_POINTS: Sequence[tuple[str, Mapping[str, float]]] = (
    ("COS", {"peak": 3.0, "floor": 1e-3, "half_cycles": 1}),
    ("SINEXP", {"peak": 6.0, "floor": 1e-2, "half_cycles": 10, "end": 0.05}),
    ("NSTEP", {"peak": 1.0, "drops": 2, "end": 0.01, "gap1": 0.5, "gap2": 0.5}),
    ("FIX", {"peak": 1.0}),
    ("POLY", {"peak": 1.0, "power": 1.0}),
    ("TRI2", {"peak": 6.0, "floor": 1e-2, "half_cycles": 10}),
)


@dataclass(frozen=True)
class Recommendation:
    """A policy worth trying, and why.

    Attributes:
        policy: in the task's own scale.
        point: its scale-free coordinates.
        origin: ``own``, ``published`` or ``default``.
        why: the evidence in one line.
        choice: the runs behind it; None for a default.
    """

    policy: LRPolicy
    point: Mapping[str, float]
    origin: str
    why: str
    choice: Choice | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types: policy, coordinates, origin, why, and the runs behind it."""
        evidence = self.choice.evidence if self.choice else ()
        return {
            "policy": self.policy.to_dict(),
            "coordinates": dict(self.point),
            "origin": self.origin,
            "why": self.why,
            "worth": round(self.choice.worth, 4) if self.choice else None,
            "evidence": [
                {
                    "run": c.run.uid,
                    "source": c.run.source,
                    "dataset": c.run.task.dataset,
                    "model": c.run.task.model,
                    "policy": c.run.policy.to_dict(),
                    "max_iterations": c.run.max_iterations,
                    "top1": c.run.metrics.get("top1"),
                    "similarity": c.similarity,
                    "weight": round(c.weight, 4),
                    "status": c.run.status,
                    "notes": dict(c.run.notes),
                }
                for c in evidence
            ],
        }


@dataclass(frozen=True)
class Prior:
    """What past runs say about one task.

    Attributes:
        task: the task, with the reference LR filled in.
        scale: budget and reference LR that points are turned into policies with.
        reference_origin: where the reference LR comes from, in words.
        space: the search space, cut to the functions asked for.
        similar: known tasks that count, each with its similarity, most similar first.
        portfolio: policies to try first, best first.
    """

    task: Task
    scale: Scale
    reference_origin: str
    space: SearchSpace
    similar: tuple[tuple[Task, float], ...]
    portfolio: tuple[Recommendation, ...]

    @property
    def summary(self) -> str:
        """One line: what the search starts from."""
        count = {
            origin: sum(r.origin == origin for r in self.portfolio)
            for origin in ("own", "published", "default")
        }
        if not self.similar:
            return (
                f"nothing similar to {self.task.dataset}/{self.task.model} is known: starting from "
                f"{count['default']} common defaults in the {self.space.name} space"
            )
        parts = [f"{count['own']} of your own results"] if count["own"] else []
        parts += [f"{count['published']} published results"] if count["published"] else []
        parts += [f"{count['default']} common defaults"] if count["default"] else []
        names = dict.fromkeys(
            f"{t.dataset}/{t.model} ({100 * s:.0f} % similar)" for t, s in self.similar
        )
        return f"starting from {' and '.join(parts)}: {', '.join(list(names)[:3])}"


def build_prior(
    database: Database,
    task: Task,
    *,
    max_iterations: int,
    space: SearchSpace,
    reference_lr: float | None = None,
    n: int = PORTFOLIO_SIZE,
) -> Prior:
    """What the database says about a task.

    Args:
        database: the LR database.
        task: the task to be tuned.
        max_iterations: its budget, in iterations.
        space: where its policies are looked for.
        reference_lr: eta_ref, if it is known better than from similar tasks.
        n: how many policies to recommend at most.
    """
    space = space.within(max_iterations)
    similar = _similar_tasks(task, database.tasks())
    runs = {known.uid: database.evidence(known, _ROWS_PER_TASK) for known, _ in similar}
    eta, origin = _reference_lr(task, similar, runs, space, reference_lr)
    scale = Scale(max_iterations, eta)
    _refuse_impossible_peaks(space, eta)
    candidates = [
        candidate
        for known, alike in similar
        for candidate in _candidates(known, alike, runs[known.uid], scale, space)
    ]
    known_good = [
        _recommended(choice) for choice in portfolio.choose(candidates, max_iterations, n)
    ]
    return Prior(
        task=Task.from_dict({**task.to_dict(), "reference_lr": eta}),
        scale=scale,
        reference_origin=origin,
        space=space,
        similar=tuple(similar),
        portfolio=tuple(known_good or _defaults(scale, space, n)),
    )


def recommend(
    dataset: str,
    model: str,
    n: int = PORTFOLIO_SIZE,
    *,
    max_iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    functions: str | Sequence[str] | None = None,
    search_space: str | Path | SearchSpace | None = None,
    database: str | Path | Database | None = None,
    task: Mapping[str, Any] | None = None,
    reference_lr: float | None = None,
) -> list[Recommendation]:
    """Policies worth trying on a task, best first, each with its evidence.

    Args:
        dataset: name of the data set.
        model: name of the model.
        n: how many at most.
        max_iterations: the budget they are scaled to; the usual one of the task when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        functions: LR functions to choose from; LRBench's 13 when None, or ``"all"``.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known.

    Raises:
        LRBenchError: for bad input or a database that cannot be read.

    >>> for entry in recommend("cifar10", "resnet32", n=2, database="sqlite://"):
    ...     print(entry.policy)
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    TRIEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    """
    prior = prior_for(
        dataset,
        model,
        max_iterations=max_iterations,
        batch_size=batch_size,
        optimizer=optimizer,
        functions=functions,
        search_space=search_space,
        database=database,
        task=task,
        reference_lr=reference_lr,
        n=n,
    )
    return list(prior.portfolio)


def prior_for(
    dataset: str,
    model: str,
    *,
    max_iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    functions: str | Sequence[str] | None = None,
    search_space: str | Path | SearchSpace | None = None,
    database: str | Path | Database | None = None,
    task: Mapping[str, Any] | None = None,
    reference_lr: float | None = None,
    n: int = PORTFOLIO_SIZE,
) -> Prior:
    """`build_prior` from names: the arguments are those of `recommend`.

    Raises:
        LRBenchError: for bad input or a database that cannot be read.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise RecordError(f"n={n!r}: expected a whole number of at least 1")
    recipe = recipe_for(
        dataset,
        model,
        max_iterations=max_iterations,
        batch_size=batch_size,
        optimizer=optimizer,
    )
    space = space_for(dataset, model) if search_space is None else load_space(search_space)
    with opened(database) as db:
        return build_prior(
            db,
            task_for(dataset, model, recipe, task),
            max_iterations=recipe.max_iterations,
            space=space.restricted(functions),
            reference_lr=reference_lr,
            n=n,
        )


def _similar_tasks(task: Task, known: Iterable[Task]) -> list[tuple[Task, float]]:
    rated = sorted(((t, similarity(task, t)) for t in known), key=lambda pair: -pair[1])
    best = rated[0][1] if rated else 0.0
    return [(t, s) for t, s in rated if s >= max(MIN_SIMILARITY, _KEEP * best)][:_TASKS]


def _reference_lr(
    task: Task,
    similar: Sequence[tuple[Task, float]],
    runs: Mapping[str, Sequence[Run]],
    space: SearchSpace,
    given: float | None,
) -> tuple[float, str]:
    if given is not None:
        # A range test's result carries its LR; a number is one.
        return float(getattr(given, "reference_lr", given)), "given"
    for known, alike in similar:
        found = known.reference_lr or _best_constant(runs[known.uid])
        if found and same_lr_unit(task, known):
            ratio = lr_ratio(task, known)
            name = f"{known.dataset}/{known.model}"
            scaled = f", times {ratio:.3g} for the batch size" if ratio != 1 else ""
            kind = "known for" if alike >= SAME_TASK else "that of the similar task"
            return float(f"{found * ratio:.6g}"), f"{kind} {name}{scaled}"
    if space.reference_lr is not None and task.optimizer in ("sgd", "nesterov", None):
        return space.reference_lr, f"from {space.name}"
    optimizer = task.optimizer or "sgd"
    return DEFAULT_REFERENCE_LR.get(optimizer, 0.01), f"the usual first try for {optimizer}"


def _refuse_impossible_peaks(space: SearchSpace, eta: float) -> None:
    highest = max(ranges["peak"].high for ranges in space.functions.values())
    if eta * highest > MAX_LR:
        raise SearchSpaceError(
            f"reference_lr={eta:g}: the {space.name} space looks up to {highest:g} times higher, "
            f"above the largest LR of {MAX_LR:g}: give a lower reference_lr, or a space with "
            "lower peaks"
        )


def _best_constant(runs: Sequence[Run]) -> float | None:
    fixed = [run for run in runs if run.policy.function == "FIX" and run.status == "complete"]
    return max(fixed, key=score_run).policy.k0 if fixed else None


def _candidates(
    known: Task, alike: float, runs: Sequence[Run], scale: Scale, space: SearchSpace
) -> Iterable[Candidate]:
    reference = known.reference_lr or _best_constant(runs)
    reference = reference or DEFAULT_REFERENCE_LR.get(known.optimizer or "sgd", 0.01)
    peers: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        peers.setdefault((run.source, run.max_iterations), []).append(score_run(run))
    for run in runs:
        function = run.policy.function
        if function not in space.functions or (run.split == "test" and run.source != PAPER):
            continue  # own policies are selected on validation; the papers' on test, as they say
        try:
            point = coordinates.to_coordinates(run.policy, Scale(run.max_iterations, reference))
            point, moved = space.clip(function, point)
            policy = coordinates.to_policy(function, point, scale)
        except PolicyError:
            continue  # a composed policy, or one cut to another budget: no point of this space
        scores = peers[run.source, run.max_iterations]
        # The best of one is no proof of anything; the best of many is.
        standing = len(scores) / (len(scores) + 1)
        regret = max(scores) - score_run(run)
        quality = standing * math.exp(-regret / _QUALITY_SCALE)
        doublings = abs(math.log2(scale.max_iterations / run.max_iterations))
        weight = alike * math.exp(-_BUDGET_LOSS * doublings)
        yield Candidate(
            policy=policy,
            point=point,
            run=run,
            quality=quality if run.status == "complete" else 0.0,
            weight=weight * (_PUBLISHED_WEIGHT if run.source == PAPER else 1.0),
            similarity=alike,
            moved=tuple(moved),
        )


def _recommended(choice: Choice) -> Recommendation:
    candidate = choice.candidate
    run = candidate.run
    own = run.source != PAPER
    where = f"{run.task.dataset}/{run.task.model}"
    top1 = run.metrics.get("top1")
    result = (
        f"{100 * top1:.2f} % Top-1 after {run.max_iterations:,} iterations" if top1 else "result"
    )
    table = f" (Table {run.notes['table']})" if "table" in run.notes else ""
    source = f"your own run on {where}" if own else f"published for {where}{table}"
    parts = [f"{source}: {result}", f"{100 * candidate.similarity:.0f} % similar"]
    others = len(choice.evidence) - 1
    if others:
        parts.append(f"{others} more run{'s' if others > 1 else ''} near it")
    if candidate.moved:
        parts.append(f"{', '.join(candidate.moved)} moved into the search space")
    return Recommendation(
        policy=candidate.policy,
        point=candidate.point,
        origin="own" if own else "published",
        why="; ".join(parts),
        choice=choice,
    )


def _defaults(scale: Scale, space: SearchSpace, n: int) -> list[Recommendation]:
    found = []
    for function, point in DEFAULT_POINTS:
        if function in space.functions:
            inside, _ = space.clip(function, point)
            policy = coordinates.to_policy(function, inside, scale)
            why = "nothing similar is known: a common default"
            found.append(Recommendation(policy, inside, "default", why))
    return found[:n]
