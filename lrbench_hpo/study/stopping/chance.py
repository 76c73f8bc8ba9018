"""A trial's chance to win, from signs: a logistic regression on stored learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lrbench_hpo.errors import RecordError
from lrbench_hpo.study.stopping.observed import Observed
from lrbench_hpo.study.stopping.signs import NAMES, Signs, signs

Weights = tuple[float, ...]
Array = npt.NDArray[np.float64]

_RIDGE = 3.0
_MOST_TRIALS = 60
_GOOD = 1 / 3  # of a task's trials: half of those that are judged are among them
_STARTING = 0.4  # share of imagined searches in which no other trial has ended


def chance(weights: Weights, seen: Signs) -> float:
    """The chance to win that some signs tell.

    >>> chance((0.0,) * len(NAMES), np.ones(len(NAMES)))
    0.5
    """
    odds = float(np.dot(weights, seen))
    return 1 / (1 + math.exp(-min(max(odds, -500.0), 500.0)))


def learn(
    tasks: Sequence[Sequence[Observed]],
    *,
    searches: int = 1_500,
    unused: Sequence[str] = (),
    seed: int = 0,
) -> Weights:
    """The weights of all signs, from finished trials of several tasks.

    Searches are imagined: trials of a task are drawn as a search's others, some of them stopped
    on the way or all of them under way, and another one is looked at after each evaluation.
    Whether it beats them in the end is known.

    Args:
        tasks: finished trials, task by task.
        searches: imagined ones, of each task.
        unused: signs, by name, that are to weigh nothing.
        seed: of the imagined searches.

    Raises:
        RecordError: when no task has trials enough to learn from.
    """
    rng = np.random.default_rng(seed)
    cases = [case for trials in tasks for case in _cases(trials, searches, rng)]
    if len(cases) < 10 * len(NAMES):
        raise RecordError(
            f"{len(cases)} cases to learn from: give more finished trials with curves"
        )
    rows = np.array([seen for seen, _ in cases])
    rows[:, [NAMES.index(name) for name in unused]] = 0.0
    won = np.array([float(end) for _, end in cases])
    return _fit(rows, won)


def _cases(
    trials: Sequence[Observed], searches: int, rng: np.random.Generator
) -> Iterator[tuple[Signs, bool]]:
    """Signs of a trial under way, and whether it won."""
    trials = [t for t in trials if t.finished and math.isfinite(t.best)]
    if len(trials) < 3:
        return
    order = sorted(range(len(trials)), key=lambda i: -trials[i].best)
    good = order[: max(1, round(_GOOD * len(order)))]
    most = min(_MOST_TRIALS, len(trials) - 1)
    for _ in range(searches):
        place = int(rng.choice(good)) if rng.random() < 0.5 else int(rng.integers(len(trials)))
        count = max(1, round(math.exp(rng.uniform(0, math.log(most)))))
        chosen = rng.permutation([i for i in range(len(trials)) if i != place])[:count]
        starting = rng.random() < _STARTING
        yield from _looks(trials[place], [trials[i] for i in chosen], starting, rng)


def _looks(
    trial: Observed, rivals: Sequence[Observed], starting: bool, rng: np.random.Generator
) -> Iterator[tuple[Signs, bool]]:
    leader = max(rivals, key=lambda rival: rival.best)
    won = trial.best > leader.best
    cuts = rng.uniform(0.1, 1.5, len(rivals))  # a third of them to the end
    for length in range(1, len(trial.iterations)):
        now = _cut(trial, length)
        if starting:
            others = [_until(rival, now.share + 0.1 * rng.random()) for rival in rivals]
        else:
            others = [
                rival if rival is leader or cut >= 1 else _until(rival, cut)
                for rival, cut in zip(rivals, cuts, strict=True)
            ]
        others = [other for other in others if math.isfinite(other.best)]
        if math.isfinite(now.best) and others and (seen := signs(now, others)) is not None:
            yield seen, won


def _cut(trial: Observed, length: int) -> Observed:
    iterations, values = trial.iterations[:length], trial.values[:length]
    return Observed(trial.policy, trial.max_iterations, iterations, values, finished=False)


def _until(trial: Observed, share: float) -> Observed:
    if share >= 1:
        return trial
    return _cut(trial, sum(t <= share * trial.max_iterations + 1e-9 for t in trial.iterations))


def _fit(rows: Array, won: Array) -> Weights:
    """Ridge-penalised logistic regression by Newton's method, on standardised signs."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    mean[0], spread = 0.0, np.where(spread > 1e-9, spread, 1.0)
    scaled = (rows - mean) / spread
    penalty = _RIDGE * np.eye(rows.shape[1])
    penalty[0, 0] = 1e-6
    weights = np.zeros(rows.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(scaled @ weights, -30, 30)))
        slope = scaled.T @ (p - won) + penalty @ weights
        curvature = (scaled * (p * (1 - p))[:, None]).T @ scaled + penalty
        weights = weights - np.linalg.solve(curvature, slope)
    weights = weights / spread
    weights[0] -= float(weights[1:] @ mean[1:])
    return tuple(float(f"{weight:.6g}") for weight in weights)


# Learnt by benchmarks/stopping/__main__.py from 1,600 random policies on eight small image tasks.
MEASURED: Mapping[str, float] = {
    "constant": -0.735034,
    "gap": -0.0687606,
    "gap x share": -1.2191,
    "left": 3.21314,
    "behind": -1.40632,
    "rank": -0.6068,
    "pace": 0.174463,
    "trials": -0.929573,
    "leader's rest x gap": 0.431585,
}

# The same, looked at at equal tenths of the budget, whatever the policy.
MEASURED_AT_EQUAL_STEPS: Mapping[str, float] = {
    "constant": -0.473145,
    "gap": -0.0670681,
    "gap x share": -1.09233,
    "left": 3.07666,
    "behind": -1.5209,
    "rank": -0.696636,
    "pace": 0.147687,
    "trials": -1.00582,
    "leader's rest x gap": 0.322269,
}
