"""Learns the weights of the stopping rule's signs from finished learning curves.

Searches are simulated: trials of a task are drawn as a search's others, some of them stopped on the
way or all of them under way, and another trial is looked at after each of its evaluations. Whether
it beats them in the end is known. A logistic regression predicts that from the signs.

    python -m benchmarks.stopping.learn --results FOLDER      # prints the weights of the package

FOLDER is that of `benchmarks.stopping.curves`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.stopping.replay import Pool
from lrbench_hpo.errors import RecordError
from lrbench_hpo.study.stopping import Observed
from lrbench_hpo.study.stopping.chance import Weights
from lrbench_hpo.study.stopping.signs import NAMES, Signs, signs

Array = npt.NDArray[np.float64]

RIDGE = 3.0  # penalty on the weight of a standardised sign
MOST_OTHERS = 60  # other trials in a simulated search
GOOD = 1 / 3  # of a task's trials: half of those that are judged are among them
STARTING = 0.4  # share of simulated searches in which no other trial has finished


@cache
def pools(folder: Path) -> Mapping[str, Pool]:
    """The curves of all tasks in a folder."""
    names = sorted(file.stem for file in folder.glob("*.jsonl"))
    return {name: Pool.of(folder, name) for name in names}


@cache
def weights(
    folder: Path, left_out: str | None = None, unused: tuple[str, ...] = (), looks: str = "minima"
) -> Weights:
    """Weights learnt from all tasks but one, with those of some signs kept at 0."""
    tasks = [
        [curve.observed[looks][-1] for curve in pool.curves if curve.diverged_at is None]
        for name, pool in pools(folder).items()
        if name != left_out
    ]
    return learn(tasks, unused=unused)


def learn(
    tasks: Sequence[Sequence[Observed]],
    *,
    searches: int = 1_500,
    unused: Sequence[str] = (),
    seed: int = 0,
) -> Weights:
    """The weights of all signs, from finished trials of several tasks.

    Args:
        tasks: finished trials, task by task.
        searches: how many to simulate for each task.
        unused: names of signs whose weight is kept at 0.
        seed: of the simulated searches.

    Raises:
        RecordError: if there are too few trials to learn from.
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
    """Signs of a trial under way, and whether it won, in many simulated searches of a task."""
    trials = [t for t in trials if t.finished and math.isfinite(t.best)]
    if len(trials) < 3:
        return
    order = sorted(range(len(trials)), key=lambda i: -trials[i].best)
    good = order[: max(1, round(GOOD * len(order)))]
    most = min(MOST_OTHERS, len(trials) - 1)
    for _ in range(searches):
        # A trial drawn at random rarely wins: half of those looked at are good ones.
        place = int(rng.choice(good)) if rng.random() < 0.5 else int(rng.integers(len(trials)))
        # Log-uniform, as a rule has to work with three other trials as with sixty.
        count = max(1, round(math.exp(rng.uniform(0, math.log(most)))))
        chosen = rng.permutation([i for i in range(len(trials)) if i != place])[:count]
        starting = rng.random() < STARTING
        yield from _looks(trials[place], [trials[i] for i in chosen], starting, rng)


def _looks(
    trial: Observed, rivals: Sequence[Observed], starting: bool, rng: np.random.Generator
) -> Iterator[tuple[Signs, bool]]:
    """The signs of a trial after each of its evaluations but the last, and whether it won.

    Args:
        trial: the one that is looked at.
        rivals: the other trials of the search.
        starting: whether all began together: then the others have used at most a tenth of the
            budget more than this trial; otherwise each was stopped at random, or has finished.
        rng: draws where.
    """
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
    """A trial after its first evaluations."""
    iterations, values = trial.iterations[:length], trial.values[:length]
    return Observed(trial.policy, trial.max_iterations, iterations, values, finished=False)


def _until(trial: Observed, share: float) -> Observed:
    """A trial after a share of its budget."""
    if share >= 1:
        return trial
    return _cut(trial, sum(t <= share * trial.max_iterations + 1e-9 for t in trial.iterations))


def _fit(rows: Array, won: Array) -> Weights:
    """Ridge-penalised logistic regression by Newton's method, on standardised signs.

    Minimises the sum over all cases of ``-log p(won)`` plus ``ridge / 2 * |w|^2``, where
    ``p = 1 / (1 + exp(-x w))``. With standardised signs x one penalty suits all. The constant is
    neither standardised nor, but for what keeps the matrix regular, penalised. At last the weights
    are taken back to the signs as they are: ``w / spread``, and the means go into the constant.
    """
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    mean[0], spread = 0.0, np.where(spread > 1e-9, spread, 1.0)
    scaled = (rows - mean) / spread
    penalty = RIDGE * np.eye(rows.shape[1])
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the folder of the curves")
    args = parser.parse_args()
    for looks in ("minima", "tenths"):
        print(looks)
        for name, weight in zip(NAMES, weights(args.results, looks=looks), strict=True):
            print(f'    "{name}": {weight:g},')


if __name__ == "__main__":
    main()
