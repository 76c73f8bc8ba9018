"""The ways to search that the transfer benchmark compares, in one table.

All but ``ours`` search `space.yaml`, absolute LRs over 4.5 decades; ``ours`` searches the
package's own default space. What was measured on other tasks comes as a `Held`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution

import lrbench_hpo
from benchmarks.transfer.points import Point, best_points, portfolio
from benchmarks.transfer.tasks import TASKS, TransferTask, pool, search_space
from lrbench_hpo.database import Database, connect
from lrbench_hpo.lr_range.measure import planned, smith
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space import Range, SearchSpace
from lrbench_hpo.prior import transfer
from lrbench_hpo.prior.question import Question
from lrbench_hpo.prior.similarity import similarity
from lrbench_hpo.prior.surrogate import Experts
from lrbench_hpo.prior.surrogate import search as surrogate_search
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run
from lrbench_hpo.study import policy_search
from lrbench_hpo.study.suggest import (
    distributions,
    suggest_in,
    suggest_policy,
    suggest_value,
    trial_params,
)

TPE = optuna.samplers.TPESampler
SEED_OFFSET = 100  # so that no training of a search is one of the pool's or the judges'
Pools = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Held:
    """A task that is held out, and what a search on it may know.

    Attributes:
        name: the task's name in `TASKS`.
        pools: the runs of other tasks; changed from what was measured if there is a twist.
    """

    name: str
    pools: Pools
    twist: str

    @property
    def task(self) -> TransferTask:
        return TASKS[self.name]

    @property
    def space(self) -> SearchSpace:
        return search_space(self.task)


@dataclass(frozen=True)
class Search:
    """A study and how its trials become policies.

    Attributes:
        study: not begun.
        suggest: from a trial to its policy.
        notes_outcome: whether trials get the attributes that the package's own objective leaves.
    """

    study: optuna.Study
    suggest: Callable[[optuna.Trial], LRPolicy]
    notes_outcome: bool = False


# --- what a search may know -----------------------------------------------------------------------


def _upside_down(name: str, pools: Pools) -> Pools:
    """The worst looks best: scores are mirrored between the task's best and its worst."""
    return {other: _mirrored(runs) for other, runs in pools.items()}


def _mirrored(runs: Sequence[Run]) -> list[Run]:
    scores = [max(0.0, score_run(run)) for run in runs]
    ends = max(scores) + min(scores)
    # A diverged run looks best of all. What else was measured would give the truth away.
    return [
        dataclasses.replace(run, status="complete", metrics={"top1": ends - score}, curve=())
        for run, score in zip(runs, scores, strict=True)
    ]


def _unrelated(name: str, pools: Pools) -> Pools:
    """One task only: the one least similar by its metadata."""
    mine = pool(name)[0].task
    other = min(pools, key=lambda other: similarity(mine, pools[other][0].task))
    return {other: pools[other]}


TWISTS: Mapping[str, Callable[[str, Pools], Pools]] = {
    "": lambda name, pools: pools,
    "upside-down": _upside_down,
    "unrelated": _unrelated,
    "paper": lambda name, pools: {},
}


@cache
def held_out(name: str, twist: str) -> Held:
    """A task and the pools of all others, changed by a twist."""
    others = {other: pool(other) for other in TASKS if other != name}
    return Held(name, TWISTS[twist](name, others), twist)


@cache
def _database(name: str, twist: str) -> Database:
    """An LR database in memory with those pools, beside the published rows."""
    database = connect("sqlite://")
    for runs in held_out(name, twist).pools.values():
        database.add(*runs)
    return database


# --- the peers ------------------------------------------------------------------------------------


def _peer(
    held: Held,
    sampler: optuna.samplers.BaseSampler,
    points: Sequence[Point] = (),
    space: SearchSpace | None = None,
) -> Search:
    """Optuna with some points enqueued, in absolute LRs."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    room, scale = space or held.space, Scale(held.task.budget, 1.0)
    for function, point in points:
        study.enqueue_trial(trial_params(function, room.clip(function, point)[0]))
    return Search(study, lambda trial: suggest_in(trial, room, scale))


def _random(held: Held, seed: int) -> Search:
    return _peer(held, optuna.samplers.RandomSampler(seed=seed))


def _tpe(held: Held, seed: int) -> Search:
    return _peer(held, TPE(seed=seed))


_DEFAULT_LRS = (0.1, 0.01, 0.001)
DEFAULTS: Sequence[Point] = (
    *(("FIX", {"peak": lr}) for lr in _DEFAULT_LRS),
    *(("COS", {"peak": lr, "floor": 5e-5, "half_cycles": 1}) for lr in _DEFAULT_LRS),
)


def _defaults(held: Held, seed: int) -> Search:
    """What people try first, then TPE."""
    return _peer(held, TPE(seed=seed), DEFAULTS)


def _enqueue_best(held: Held, seed: int) -> Search:
    """The best policy of each other task, in an order drawn by the seed, then TPE."""
    points = list(best_points(held.pools))
    np.random.default_rng(seed).shuffle(points)
    return _peer(held, TPE(seed=seed), points)


@cache
def _portfolio_of(name: str, twist: str) -> tuple[Point, ...]:
    return portfolio(held_out(name, twist).pools)


def _portfolio(held: Held, seed: int) -> Search:
    """A zero-shot portfolio as in syne-tune, then TPE."""
    return _peer(held, TPE(seed=seed), _portfolio_of(held.name, held.twist))


def _bounding_box(held: Held, seed: int) -> Search:
    """TPE in the smallest box around the best points (Perrone et al. 2019, arXiv 1909.12552)."""
    # The best of one task alone would be no box.
    points = best_points(held.pools, 1 if len(held.pools) > 1 else 5)
    if not points:
        return _tpe(held, seed)
    found: dict[str, list[float]] = {}
    for _, point in points:
        for name, value in point.items():
            found.setdefault("gap" if name.startswith("gap") else name, []).append(value)
    functions = {function for function, _ in points}

    def cut(name: str, entry: Range) -> Range:
        low, high = min(found[name]), max(found[name])
        return dataclasses.replace(entry, low=entry.clip(low), high=entry.clip(high))

    box = {
        function: {name: cut(name, entry) for name, entry in ranges.items()}
        for function, ranges in held.space.functions.items()
        if function in functions
    }
    return _peer(held, TPE(seed=seed), space=dataclasses.replace(held.space, functions=box))


def _gp(held: Held, seed: int) -> Search:
    """Optuna's GPSampler on a flat space: it draws parameters that depend on others at random.

    So every trial has a value of every coordinate, shared by the functions, and those that its
    function does not have are ignored.
    """
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GPSampler(seed=seed))
    space, scale = held.space, Scale(held.task.budget, 1.0)
    flat: dict[str, BaseDistribution] = {}
    for function in space.functions:
        for name, distribution in distributions(space, function).items():
            flat.setdefault(name.partition(".")[2], distribution)
    functions = optuna.distributions.CategoricalDistribution(list(space.functions))

    def suggest(trial: optuna.Trial) -> LRPolicy:
        function = suggest_value(trial, "function", functions)
        point = {name: suggest_value(trial, name, entry) for name, entry in flat.items()}
        return coordinates.to_policy(function, point, scale)

    return Search(study, suggest)


# --- ours -----------------------------------------------------------------------------------------

# What `create_study` is given beside the task: a row a variant, for ablations. `range_test` says
# when the LR range test runs first: ``needed`` (as `lrbench-hpo tune` does), ``always``, ``never``.
OURS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours-always-range-test": {"range_test": "always"},
    "ours-no-range-test": {"range_test": "never"},
    "ours-no-surrogate": {"sampler": TPE},
    "ours-no-guard": {"without": ("guard",)},
    "ours-one-unit": {"without": ("units",)},
    "ours-no-exploration": {"without": ("exploration",)},
    "ours-no-known-good": {"without": ("known-good",)},
}


# What an ablation takes out: a place in the package, and what stands there instead.
PARTS: Mapping[str, tuple[Any, str, Any]] = {
    "guard": (Experts, "weights", lambda self, said, values: self.priors),
    "units": (transfer, "_SHIFT_ERRORS", ((0.0, 1.0),)),
    "exploration": (surrogate_search, "EXPLORE_EVERY", 10**9),
    "known-good": (policy_search, "FIRST_ROWS", 0),
}
_WHOLE = {part: getattr(place, name) for part, (place, name, _) in PARTS.items()}


def _take_out(parts: Sequence[str]) -> None:
    """Put all parts back that an earlier search of this process lacked, and take these out."""
    for part, (place, name, instead) in PARTS.items():
        setattr(place, name, instead if part in parts else _WHOLE[part])


def _ours(
    held: Held,
    seed: int,
    *,
    range_test: str = "needed",
    without: Sequence[str] = (),
    sampler: Callable[..., optuna.samplers.BaseSampler] | None = None,
) -> Search:
    """`lrbench_hpo.create_study`, on a database with the other tasks' runs."""
    _take_out(without)
    options: dict[str, Any] = {"sampler": None if sampler is None else sampler(seed=seed)}
    task = held.task
    facts = task.trainer().task.to_dict()
    known = ("momentum", "weight_decay", "num_train", "image_shape", "num_parameters")
    asked: dict[str, Any] = {
        "dataset": task.dataset,
        "model": task.model,
        "max_iterations": task.budget,
        "batch_size": task.recipe.batch_size,
        "optimizer": task.recipe.optimizer,
        "task": {name: facts[name] for name in known},
        "database": _database(held.name, held.twist),
    }
    needed = range_test == "needed" and Question(**asked).prior().needs_range_test
    if range_test == "always" or needed:
        plan = planned(task.recipe.optimizer, task.budget)
        tested = smith(task.trainer(), task.budget, plan, seed=seed + SEED_OFFSET)
        options["reference_lr"] = tested
    study = lrbench_hpo.create_study(**asked, **options, seed=seed)
    return Search(study, suggest_policy, notes_outcome=True)


_PEERS: Mapping[str, Callable[[Held, int], Search]] = {
    "random": _random,
    "tpe": _tpe,
    "defaults": _defaults,
    "gp": _gp,
    "enqueue-best": _enqueue_best,
    "portfolio": _portfolio,
    "bounding-box": _bounding_box,
}
MAIN: Sequence[str] = (*_PEERS, "ours")
WARM: Sequence[str] = ("enqueue-best", "portfolio", "bounding-box", "ours")
TWISTED: Sequence[str] = tuple(f"{m}:{t}" for t in ("upside-down", "unrelated") for m in WARM)
ABLATIONS: Sequence[str] = tuple(name for name in OURS if name != "ours")


def is_known(method: str) -> bool:
    """Whether a method of that name, with or without a twist, can be run."""
    base, _, twist = method.partition(":")
    return (base in _PEERS or base in OURS) and twist in TWISTS


def start(method: str, name: str, seed: int) -> Search:
    """A search that has not begun.

    Args:
        method: a name of the table, with a twist after a colon or not.
        name: the task held out.
        seed: of the sampler.
    """
    base, _, twist = method.partition(":")
    held = held_out(name, twist)
    if base in OURS:
        return _ours(held, seed, **OURS[base])
    return _PEERS[base](held, seed)
