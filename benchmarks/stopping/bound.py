"""What any stopping rule by rank can save: quotas that know in hindsight where the winners are.

All trials of a search are evaluated at equal tenths of the budget, together; after each tenth
those with the best scores go on, as many as a quota says. The quotas are chosen afterwards, on the
very searches that they are counted on: a rule by rank that has to choose them before kills more.

    python -m benchmarks.stopping.bound --results FOLDER      # the folder of curves.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.stopping.curves import EVALUATIONS
from benchmarks.stopping.replay import Curve, Pool

Ints = npt.NDArray[np.int64]


def places(order: list[Curve]) -> Ints:
    """The winner's place among all trials after each tenth but the last; 1 is the best."""
    scores = np.full((len(order), EVALUATIONS - 1), -np.inf)
    for row, curve in zip(scores, order, strict=True):
        known = [value for _, value in curve.tenths][: len(row)]
        row[: len(known)] = known
    winner = max(range(len(order)), key=lambda i: order[i].final)
    better: Ints = (scores > scores[winner]).sum(axis=0)
    return better + 1


def killed(found: Ints, quotas: Ints) -> int:
    return int((found > quotas).any(axis=1).sum())


def cheapest(found: Ints, trials: int, allowed: int) -> Ints:
    """Quotas, never growing, that cost little and kill no more winners than allowed: greedily."""
    quotas = np.full(found.shape[1], trials)

    def next_ones() -> Iterator[tuple[float, Ints]]:
        before = killed(found, quotas)
        for place in range(len(quotas)):
            for less in (1, 2, 3, 4):
                tried = quotas.copy()
                tried[place] = max(1, tried[place] - less)
                tried = np.minimum.accumulate(tried)
                now, saved = killed(found, tried), int(quotas.sum() - tried.sum())
                if saved and now <= allowed:
                    yield saved / (now - before + 0.3), tried

    while better := max(next_ones(), key=lambda pair: pair[0], default=None):
        quotas = better[1]
    return quotas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the folder of the curves")
    parser.add_argument("--orders", type=int, default=60, help="searches of each task")
    parser.add_argument("--trials", type=int, default=40)
    args = parser.parse_args()
    pools = [Pool.of(args.results, file.stem) for file in sorted(args.results.glob("*.jsonl"))]
    orders = [
        pool.order(args.trials, seed, "random") for pool in pools for seed in range(args.orders)
    ]
    found = np.array([places(order) for order in orders])
    for part in (2, 3, 4):
        beyond = (found > args.trials / part).mean(axis=0)
        told = " ".join(f"{share:.1%}" for share in beyond)
        print(f"winner not among the best 1/{part} after each tenth: {told}")
    for allowed in (0.02, 0.05, 0.1):
        quotas = cheapest(found, args.trials, int(allowed * len(found)))
        share = (args.trials + quotas.sum()) / (args.trials * EVALUATIONS)
        print(f"at most {allowed:.0%} killed: share {share:.3f}, quotas {quotas.tolist()}")


if __name__ == "__main__":
    main()
