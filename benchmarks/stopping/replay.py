"""Searches replayed from stored learning curves, under any stopping rule."""

from __future__ import annotations

import heapq
import math
import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna

from benchmarks.stopping.curves import EVALUATIONS, read, tenths
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.ranking import student_t95
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import WORST_SCORE, score
from lrbench_hpo.study.stopping import Observed, StoppingRule, rung

Points = tuple[tuple[int, float], ...]

LOOKS = ("minima", "tenths", "near")  # where a rule looks at a curve: fields of `Curve`


@dataclass(frozen=True)
class Curve:
    """A stored training: its score as a search would have seen it.

    Attributes:
        policy: its LR policy.
        budget: in iterations.
        minima: score so far at the policy's own evaluations.
        tenths: score so far at equal tenths of the budget.
        near: score so far at equal tenths, or at the last LR minimum within that tenth.
        diverged_at: the iteration at which it diverged; None if it did not.
        elsewhere: mean final score with other seeds; None where there are none.
    """

    policy: LRPolicy
    budget: int
    minima: Points
    tenths: Points
    near: Points
    diverged_at: int | None
    elsewhere: float | None

    @property
    def final(self) -> float:
        return WORST_SCORE if self.diverged_at is not None else self.minima[-1][1]

    def points(self, looks: str) -> Points:
        """The evaluations that a rule is shown: one of `LOOKS`."""
        return dict(zip(LOOKS, (self.minima, self.tenths, self.near), strict=True))[looks]

    @cached_property
    def observed(self) -> Mapping[str, tuple[Observed, ...]]:
        """What is known after each evaluation, by where the evaluations are."""
        return {looks: self._observed(self.points(looks)) for looks in LOOKS}

    def _observed(self, points: Points) -> tuple[Observed, ...]:
        times = tuple(iteration for iteration, _ in points)
        values = tuple(value for _, value in points)
        return tuple(
            Observed(self.policy, self.budget, times[:n], values[:n], times[n - 1] == self.budget)
            for n in range(1, len(times) + 1)
        )

    @classmethod
    def of(cls, run: Run, elsewhere: float | None = None) -> Curve:
        own = set(run.policy.evaluation_points(run.max_iterations, limit=EVALUATIONS))
        equal = tenths(run.max_iterations)
        near = {
            max((point for point in own if start < point <= end), default=end)
            for start, end in zip((0, *equal), equal, strict=False)
        }
        end = run.curve[-1]
        return cls(
            run.policy,
            run.max_iterations,
            _scores(run, own),
            _scores(run, set(equal)),
            _scores(run, near),
            end.iteration if end.eval_loss is None else None,
            elsewhere,
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
        name: of the task.
        curves: with the seed that searches train with.
        seed_noise: standard deviation of the score between seeds, among the best policies.
        evaluation_samples: images that a score is measured on.
    """

    name: str
    curves: tuple[Curve, ...]
    seed_noise: float
    evaluation_samples: int

    @classmethod
    def of(cls, folder: Path, name: str) -> Pool:
        runs = read(folder, name)
        seeds: dict[str, list[float]] = {}
        for run in runs:
            seeds.setdefault(run.policy.fingerprint, []).append(Curve.of(run).final)
        # Only the best are trained with other seeds; what is given here is without seed 0.
        others: dict[str, list[float]] = {}
        for run in runs:
            if run.seed != 0:
                others.setdefault(run.policy.fingerprint, []).append(Curve.of(run).final)
        means = {policy: statistics.fmean(ends) for policy, ends in others.items()}
        first = tuple(
            Curve.of(run, means.get(run.policy.fingerprint)) for run in runs if run.seed == 0
        )
        whole = [ends for ends in seeds.values() if len(ends) > 1 and min(ends) > WORST_SCORE]
        noise = math.sqrt(statistics.fmean(statistics.variance(ends) for ends in whole))
        return cls(name, first, noise, int(runs[0].notes["evaluation_samples"]))

    @property
    def tie(self) -> float:
        """The difference up to which two single scores are tied (95 %)."""
        return student_t95(math.inf) * self.seed_noise * math.sqrt(2)

    def order(self, trials: int, seed: int, mix: str) -> list[Curve]:
        """The trials of one search: random ones, or half of them among the best quarter."""
        # Without the name all tasks would draw the same places of their rankings.
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
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
        """The evaluations that the rule is shown."""

    def sees(self, number: int, place: int) -> None:
        """The trial is evaluated at its n-th point."""

    def stops(self, number: int, place: int) -> bool:
        """Whether the trial is stopped there."""

    def end(self, number: int) -> None:
        """The trial has used its budget, or diverged."""


class Ours:
    """`StoppingRule`."""

    def __init__(self, rule: StoppingRule, pool: Pool, looks: str) -> None:
        self.rule, self.samples, self.looks = rule, pool.evaluation_samples, looks
        self.curves: dict[int, Curve] = {}
        self.shown: dict[int, Observed] = {}

    def begin(self, curve: Curve, number: int) -> None:
        self.curves[number] = curve

    def points(self, curve: Curve) -> Points:
        return curve.points(self.looks)

    def sees(self, number: int, place: int) -> None:
        self.shown[number] = self.curves[number].observed[self.looks][place]

    def stops(self, number: int, place: int) -> bool:
        others = [other for key, other in self.shown.items() if key != number]
        best = min(1.0, max([0.0, *(other.best for other in others)]))
        noise = math.sqrt(best * (1 - best) / self.samples)
        return self.rule.should_stop(self.shown[number], others, noise=noise)

    def end(self, number: int) -> None:
        if self.curves[number].diverged_at is not None:
            self.shown.pop(number, None)


class Peer:
    """One of Optuna's pruners, in a real study; steps are tenths of the budget."""

    def __init__(self, pruner: optuna.pruners.BasePruner, looks: str) -> None:
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self.looks = looks
        self.trials: dict[int, tuple[optuna.Trial, Curve]] = {}

    def begin(self, curve: Curve, number: int) -> None:
        self.trials[number] = (self.study.ask(), curve)

    def points(self, curve: Curve) -> Points:
        return curve.points(self.looks)

    def sees(self, number: int, place: int) -> None:
        trial, curve = self.trials[number]
        iteration, value = self.points(curve)[place]
        step = max(1, rung(curve.policy, iteration, curve.budget) or 0)
        if self.looks != "minima":
            step = place + 1
        known = trial.storage.get_trial(trial._trial_id).intermediate_values
        if step not in known:
            trial.report(value, step)

    def stops(self, number: int, place: int) -> bool:
        trial, curve = self.trials[number]
        iteration, _ = self.points(curve)[place]
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
        better: whether it is better than the best that was left with other seeds too.
        regret: what the best that was left is worse by.
    """

    share: float
    killed: bool
    better: bool
    regret: float


def replay(order: Sequence[Curve], judge: Judge, width: int, *, together: bool = False) -> Replayed:
    """One search, with so many trials under way at a time, all equally fast.

    With ``together`` all that are evaluated at the same moment are seen before one is judged.
    """
    clock: list[tuple[float, int, int]] = []  # when, which trial, which of its points
    waiting = list(enumerate(order))[::-1]
    stopped: dict[int, int] = {}

    def begin(now: float) -> None:
        if waiting:
            number, curve = waiting.pop()
            judge.begin(curve, number)
            to_come(now, number, 0)

    def to_come(now: float, number: int, place: int) -> None:
        points = [iteration for iteration, _ in judge.points(order[number])] + [_end(order[number])]
        further = points[place] - (points[place - 1] if place else 0)
        # Rounded, so that what happens at the same moment does.
        moment = round(now + further / order[number].budget, 9)
        heapq.heappush(clock, (moment, number, place))

    for _ in range(width):
        begin(0.0)
    while clock:
        events = [heapq.heappop(clock)]
        while together and clock and clock[0][0] == events[0][0]:
            events.append(heapq.heappop(clock))
        for _, number, place in events:
            if place < len(judge.points(order[number])):
                judge.sees(number, place)
        for now, number, place in events:
            points = judge.points(order[number])
            if place == len(points):
                judge.end(number)
                begin(now)
            elif judge.stops(number, place):
                stopped[number] = points[place][0]
                begin(now)
            else:
                to_come(now, number, place + 1)
    spent = sum(stopped.get(i, _end(curve)) / curve.budget for i, curve in enumerate(order))
    winner = max(range(len(order)), key=lambda i: order[i].final)
    left = [i for i in range(len(order)) if i not in stopped]
    kept = max(left, key=lambda i: order[i].final, default=None)
    regret = order[winner].final - (WORST_SCORE if kept is None else order[kept].final)
    killed = winner in stopped
    better = killed and (kept is None or _better(order[winner], order[kept]))
    return Replayed(spent / len(order), killed, better, regret)


def _better(curve: Curve, other: Curve) -> bool:
    """Whether other seeds say the same; those that were not trained again count as worse."""
    if curve.elsewhere is None or other.elsewhere is None:
        return True
    return curve.elsewhere > other.elsewhere


def _end(curve: Curve) -> int:
    return curve.budget if curve.diverged_at is None else curve.diverged_at


MakeJudge = Callable[[str, Pool], Judge]
