"""What the peers of the transfer benchmark take from other tasks: points in absolute LRs."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import DEFAULT_FUNCTIONS
from lrbench_hpo.policies.coordinates import Scale, to_coordinates
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run

Point = tuple[str, Mapping[str, float]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

PORTFOLIO_SIZE = 10
_COORDINATES = ("peak", "floor", "half_cycles", "steps", "end", "drops", "gap1", "power")
_ABSENT = 0.5  # between the values that coordinates have, as most functions lack most of them


def points_of(runs: Sequence[Run]) -> tuple[list[Point], Floats]:
    """The policies of a task as points in absolute LRs, and their mean scores over the seeds.

    An NSTEP policy whose last drop came after the budget is no point of any space.
    """
    points: dict[str, Point] = {}
    scores: dict[str, list[float]] = {}
    for run in runs:
        key = run.policy.fingerprint
        scores.setdefault(key, []).append(score_run(run))
        with contextlib.suppress(PolicyError):
            point = to_coordinates(run.policy, Scale(run.max_iterations, 1.0))
            points[key] = (run.policy.function, point)
    return list(points.values()), np.array([statistics.fmean(scores[key]) for key in points])


def best_points(pools: Mapping[str, Sequence[Run]], count: int = 1) -> list[Point]:
    """The best points of each task, by their mean over the seeds they were not chosen by."""
    found = []
    for runs in pools.values():
        points, scores = points_of([run for run in runs if run.seed != 0])
        found += [points[place] for place in np.argsort(-scores)[:count]]
    return found


def portfolio(pools: Mapping[str, Sequence[Run]]) -> tuple[Point, ...]:
    """A zero-shot portfolio (Winkelmolen et al. 2020, arXiv 2010.08018), as syne-tune makes it.

    A random forest for each task predicts what was not measured there. Greedily, the point joins
    that lowers the mean over the tasks of the best member's regret most; a regret is a share of the
    distance from the best to the median.
    """
    from sklearn.ensemble import RandomForestRegressor  # takes a second to load

    measured = [points_of(runs) for runs in pools.values()]
    candidates = [point for points, _ in measured for point in points]
    if not candidates:
        return ()
    features = np.array([encoded(point) for point in candidates])
    regrets, start = [], 0
    for points, scores in measured:
        here = slice(start, start + len(points))
        start += len(points)
        forest = RandomForestRegressor(n_estimators=100, min_samples_leaf=2, random_state=0)
        predicted = forest.fit(features[here], scores).predict(features)
        predicted[here] = scores
        best, middle = scores.max(), float(np.median(scores))
        regrets.append(np.clip((best - predicted) / max(best - middle, 1e-9), 0, 1))
    table = np.array(regrets)  # tasks x candidates
    reached, chosen = np.ones(len(table)), list[int]()
    for _ in range(PORTFOLIO_SIZE):
        means = np.minimum(reached[:, None], table).mean(0)
        chosen.append(int(means.argmin()))
        reached = np.minimum(reached, table[:, chosen[-1]])
    return tuple(candidates[place] for place in dict.fromkeys(chosen))


def encoded(point: Point) -> list[float]:
    """A point as numbers for a forest: the function as switches, coordinates in decades."""
    function, values = point
    switches = [float(function == name) for name in DEFAULT_FUNCTIONS]
    return switches + [
        math.log10(values[name]) if name in values else _ABSENT for name in _COORDINATES
    ]
