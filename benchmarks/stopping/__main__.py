"""How often early stopping kills the winner, and what it saves.

Searches are replayed in many random orders from measured learning curves
(`benchmarks.stopping.curves`), under `StoppingRule` and under Optuna's own pruners. The rule's
weights are learnt from the other tasks each time. "And better": with other seeds, too, the winner
is better than the best trial that was left.

    python -m benchmarks.stopping.curves --results FOLDER     # 9 minutes of one core
    python -m benchmarks.stopping --results FOLDER            # 10 minutes
    python -m benchmarks.stopping --results FOLDER --width 8 --together --only ours
    python -m benchmarks.stopping.learn --results FOLDER      # the weights of the package
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import HyperbandPruner, PercentilePruner, SuccessiveHalvingPruner

from benchmarks.stopping.learn import pools, weights
from benchmarks.stopping.replay import Judge, MakeJudge, Ours, Peer, Pool, replay
from lrbench_hpo.study.stopping import StoppingRule
from lrbench_hpo.study.stopping.signs import OF_OTHERS

LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 1.5, 2.5)


def ours(
    folder: Path, level: float, unused: tuple[str, ...] = (), looks: str = "minima"
) -> MakeJudge:
    """The rule with weights from the other tasks."""

    def make(name: str, pool: Pool) -> Judge:
        learnt = weights(folder, name, unused, looks)
        rule = StoppingRule(level=level, weights=learnt, minima_only=looks == "minima")
        return Ours(rule, pool, looks)

    return make


def peer(make_pruner: Callable[[], optuna.pruners.BasePruner], looks: str) -> MakeJudge:
    return lambda name, pool: Peer(make_pruner(), looks)


def methods(folder: Path) -> dict[str, list[tuple[str, MakeJudge]]]:
    """Rules by name, each with settings that save less or more."""
    rows: dict[str, list[tuple[str, MakeJudge]]] = {}
    for title, unused, looks in (
        ("ours, LR minima", (), "minima"),
        ("ours without others at the same share", OF_OTHERS, "minima"),
        ("ours, equal steps", (), "tenths"),
        ("ours, minima near equal steps", (), "near"),
    ):
        rows[title] = [(f"level {x:g}", ours(folder, x, unused, looks)) for x in LEVELS]
    for place, looks in (("LR minima", "minima"), ("equal steps", "tenths")):
        percentiles = [
            (f"{q} %, {n} first", partial(PercentilePruner, q, n_startup_trials=n))
            for q, n in ((50, 5), (50, 2), (25, 2), (10, 2), (5, 2))
        ]
        halvings = [
            (
                f"1/{r}, from {m}",
                partial(SuccessiveHalvingPruner, min_resource=m, reduction_factor=r),
            )
            for r, m in ((2, 2), (3, 2), (2, 1), (3, 1), (4, 1))
        ]
        bands = [
            (
                f"1/{r}",
                partial(HyperbandPruner, min_resource=1, max_resource=10, reduction_factor=r),
            )
            for r in (2, 3, 4)
        ]
        for title, settings in (
            ("Median/Percentile", percentiles),
            ("SuccessiveHalving", halvings),
            ("Hyperband", bands),
        ):
            rows[f"{title}, {place}"] = [(s, peer(p, looks)) for s, p in settings]
    return rows


def measured(
    tasks: Mapping[str, Pool],
    make: MakeJudge,
    mix: str,
    trials: int,
    width: int,
    orders: int,
    together: bool = False,
) -> tuple[float, ...]:
    """Share of iterations; winner killed, a better one killed, all tied killed; mean regret."""
    found = []
    for name, pool in tasks.items():
        for seed in range(orders):
            end = replay(pool.order(trials, seed, mix), make(name, pool), width, together=together)
            found.append((end.share, end.killed, end.better, end.regret > pool.tie, end.regret))
    return tuple(np.array(found, dtype=float).mean(axis=0).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the folder of the curves")
    parser.add_argument("--orders", type=int, default=60, help="searches of each task")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--width", type=int, default=1, help="trials under way at a time")
    parser.add_argument(
        "--together", action="store_true", help="judge when all evaluated at a moment are known"
    )
    parser.add_argument("--mix", choices=("random", "good"), default="random")
    parser.add_argument("--only", default="", help="methods whose names hold this")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = pools(args.results)
    print("| rule | setting | share | winner killed | and better | all tied killed | regret |")
    print("|---|---|---|---|---|---|---|")
    for title, settings in methods(args.results).items():
        if args.only in title:
            for setting, make in settings:
                share, killed, better, tied, regret = measured(
                    known, make, args.mix, args.trials, args.width, args.orders, args.together
                )
                row = f"{share:.3f} | {killed:.1%} | {better:.1%} | {tied:.1%} | {regret:.4f}"
                print(f"| {title} | {setting} | {row} |", flush=True)


if __name__ == "__main__":
    main()
