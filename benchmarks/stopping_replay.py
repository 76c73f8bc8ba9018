"""Searches replayed from stored learning curves, under any stopping rule."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna

from benchmarks.stopping_curves import EVALUATIONS, read, tenths
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ranking import WORST_SCORE, score, student_t95
from lrbench_hpo.records import Run
from lrbench_hpo.stopping import Observed, StoppingRule, rung

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Curve:
    """A stored training: its score as a search would have seen it.

    Attributes:
        policy: its LR policy.
        budget: in iterations.
        minima: score so far at the policy's own evaluations.
        tenths: score so far at equal tenths of the budget.
        diverged_at: the iteration at which it diverged; None if it did not.
    """

    policy: LRPolicy
    budget: int
    minima: Points
    tenths: Points
    diverged_at: int | None

    @property
    def final(self) -> float:
        return WORST_SCORE if self.diverged_at is not None else self.minima[-1][1]

    @cached_property
    def observed(self) -> tuple[Observed, ...]:
        """What is known after each evaluation."""
        return self._observed(self.policy, self.minima)

    @cached_property
    def observed_at_tenths(self) -> tuple[Observed, ...]:
        """The same at equal steps, of somebody who does not look at the policy."""
        return self._observed(LRPolicy("FIX", k0=1.0), self.tenths)

    def _observed(self, policy: LRPolicy, points: Points) -> tuple[Observed, ...]:
        times = tuple(iteration for iteration, _ in points)
        values = tuple(value for _, value in points)
        return tuple(
            Observed(policy, self.budget, times[:n], values[:n], times[n - 1] == self.budget)
            for n in range(1, len(times) + 1)
        )

    @classmethod
    def of(cls, run: Run) -> Curve:
        own = set(run.policy.evaluation_points(run.max_iterations, limit=EVALUATIONS))
        end = run.curve[-1]
        return cls(
            run.policy,
            run.max_iterations,
            _scores(run, own),
            _scores(run, set(tenths(run.max_iterations))),
            end.iteration if end.eval_loss is None else None,
        )


def _scores(run: Run, points: set[int]) -> Points:
    """The score so far, as `Objective` reports it."""
    found: list[tuple[int, float]] = []
    best = None
    for point in run.curve:
        if point.iteration in points and point.top1 is not None:
            if best is None or point.top1 > (best.top1 or 0.0):
                best = point
            value = score(
                top1=best.top1,
                iterations_to_best=best.iteration,
                max_iterations=run.max_iterations,
                loss_difference=(best.eval_loss or math.nan) - (best.train_loss or math.nan),
            )
            found.append((point.iteration, value))
    return tuple(found)


@dataclass(frozen=True)
class Pool:
    """The curves of one task.

    Attributes:
        curves: with the seed that searches train with.
        seed_noise: standard deviation of the score between seeds, among the best policies.
        evaluation_samples: images that a score is measured on.
    """

    curves: tuple[Curve, ...]
    seed_noise: float
    evaluation_samples: int

    @classmethod
    def of(cls, folder: Path, name: str) -> Pool:
        runs = read(folder, name)
        first = tuple(Curve.of(run) for run in runs if run.seed == 0)
        seeds: dict[str, list[float]] = {}
        for run in runs:
            seeds.setdefault(run.policy.fingerprint, []).append(Curve.of(run).final)
        whole = [ends for ends in seeds.values() if len(ends) > 1 and min(ends) > WORST_SCORE]
        noise = math.sqrt(statistics.fmean(statistics.variance(ends) for ends in whole))
        return cls(first, noise, int(runs[0].notes["evaluation_samples"]))

    @property
    def tie(self) -> float:
        """Up to which difference two single scores cannot be told apart (95 %)."""
        return student_t95(math.inf) * self.seed_noise * math.sqrt(2)

    def order(self, trials: int, seed: int, mix: str) -> list[Curve]:
        """The trials of one search: random ones, or half of them among the best quarter."""
        rng = np.random.default_rng(seed)
        ranked = sorted(range(len(self.curves)), key=lambda i: -self.curves[i].final)
        good = 0 if mix == "random" else trials // 2
        chosen = rng.choice(ranked[: len(ranked) // 4], good, replace=False).tolist()
        rest = [i for i in ranked if i not in chosen]
        chosen += rng.choice(rest, trials - good, replace=False).tolist()
        return [self.curves[i] for i in rng.permutation(chosen)]


class Judge(Protocol):
    """A stopping rule in one search."""

    def begin(self, curve: Curve, number: int) -> None:
        """A trial begins."""

    def points(self, curve: Curve) -> Points:
        """What the rule is told, and when."""

    def stops(self, number: int, place: int) -> bool:
        """Whether the trial is stopped at its n-th point."""

    def end(self, number: int) -> None:
        """The trial has used its budget, or diverged."""


class Ours:
    """`StoppingRule`."""

    def __init__(self, rule: StoppingRule, pool: Pool, at_minima: bool) -> None:
        self.rule, self.samples, self.at_minima = rule, pool.evaluation_samples, at_minima
        self.curves: dict[int, Curve] = {}
        self.shown: dict[int, Observed] = {}

    def begin(self, curve: Curve, number: int) -> None:
        self.curves[number] = curve

    def points(self, curve: Curve) -> Points:
        return curve.minima if self.at_minima else curve.tenths

    def stops(self, number: int, place: int) -> bool:
        curve = self.curves[number]
        now = (curve.observed if self.at_minima else curve.observed_at_tenths)[place]
        others = [other for key, other in self.shown.items() if key != number]
        self.shown[number] = now
        best = min(1.0, max([0.0, *(other.best for other in others)]))
        noise = math.sqrt(best * (1 - best) / self.samples)
        return self.rule.should_stop(now, others, noise=noise)

    def end(self, number: int) -> None:
        if self.curves[number].diverged_at is not None:
            self.shown.pop(number, None)


class Peer:
    """One of Optuna's pruners, in a real study; steps are tenths of the budget."""

    def __init__(self, pruner: optuna.pruners.BasePruner, at_minima: bool) -> None:
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self.at_minima = at_minima
        self.trials: dict[int, tuple[optuna.Trial, Curve]] = {}

    def begin(self, curve: Curve, number: int) -> None:
        self.trials[number] = (self.study.ask(), curve)

    def points(self, curve: Curve) -> Points:
        return curve.minima if self.at_minima else curve.tenths

    def stops(self, number: int, place: int) -> bool:
        trial, curve = self.trials[number]
        iteration, value = self.points(curve)[place]
        step = max(1, rung(curve.policy, iteration, curve.budget) or 0)
        if not self.at_minima:
            step = place + 1
        known = trial.storage.get_trial(trial._trial_id).intermediate_values
        if step not in known:
            trial.report(value, step)
        if iteration == curve.budget or not trial.should_prune():
            return False
        self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return True

    def end(self, number: int) -> None:
        trial, curve = self.trials[number]
        if curve.diverged_at is not None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, curve.final)


@dataclass(frozen=True)
class Replayed:
    """How a search went.

    Attributes:
        share: of the iterations of all trials' whole budgets.
        killed: whether the trial that would have been the best was stopped.
        regret: what the best that was left is worse by.
    """

    share: float
    killed: bool
    regret: float


def replay(order: Sequence[Curve], judge: Judge, width: int) -> Replayed:
    """One search, with so many trials under way at a time, all equally fast."""
    clock: list[tuple[float, int, int]] = []  # when, which trial, which of its points
    waiting = list(enumerate(order))[::-1]
    stopped: dict[int, int] = {}

    def begin(now: float) -> None:
        if waiting:
            number, curve = waiting.pop()
            judge.begin(curve, number)
            heapq.heappush(clock, (now + _until(curve, judge, 0), number, 0))

    def _until(curve: Curve, judge: Judge, place: int) -> float:
        points = [iteration for iteration, _ in judge.points(curve)] + [_end(curve)]
        return (points[place] - (points[place - 1] if place else 0)) / curve.budget

    for _ in range(width):
        begin(0.0)
    while clock:
        now, number, place = heapq.heappop(clock)
        curve = order[number]
        points = judge.points(curve)
        if place == len(points):
            judge.end(number)
            begin(now)
        elif judge.stops(number, place):
            stopped[number] = points[place][0]
            begin(now)
        else:
            heapq.heappush(clock, (now + _until(curve, judge, place + 1), number, place + 1))
    spent = sum(stopped.get(i, _end(curve)) / curve.budget for i, curve in enumerate(order))
    winner = max(range(len(order)), key=lambda i: order[i].final)
    left = max((c.final for i, c in enumerate(order) if i not in stopped), default=WORST_SCORE)
    return Replayed(spent / len(order), winner in stopped, order[winner].final - left)


def _end(curve: Curve) -> int:
    return curve.budget if curve.diverged_at is None else curve.diverged_at


MakeJudge = Callable[[str, Pool], Judge]
