"""Learning curves for the stopping benchmark: what random policies reach while they train.

The policies are the first of the transfer benchmark's (`benchmarks.transfer.pool`), on the same
small tasks; here each is evaluated at its LR minima and at each tenth of the budget. The best ones
are trained with more seeds, which shows how far a score is luck.

    python -m benchmarks.stopping.curves --results FOLDER        # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import optuna
import torch

from benchmarks import json_lines
from benchmarks.transfer.pool import random_policies
from benchmarks.transfer.tasks import TASKS
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run
from lrbench_hpo.training import Trainer, TrainingSession
from lrbench_hpo.training.progress import Progress

POLICIES, BEST, SEEDS = 200, 12, (1, 2, 3)
EVALUATIONS = 10


def tenths(budget: int) -> tuple[int, ...]:
    """Equal tenths of the budget, where a program reports that does not look at the policy."""
    return tuple(math.ceil(budget * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1))


@cache
def _trainer(name: str) -> Trainer:
    return TASKS[name].trainer()


def train(name: str, policy: LRPolicy, seed: int) -> Run:
    """One training, evaluated at the policy's LR minima and at every tenth of the budget."""
    budget, trainer = TASKS[name].budget, _trainer(name)
    record, _ = trainer.record(policy, budget, seed=seed)
    points = {*policy.evaluation_points(budget, limit=EVALUATIONS), *tenths(budget)}
    # An evaluation changes nothing in the training.
    progress = Progress(record, tuple(sorted(points)))
    loop = trainer.start(seed=seed)
    session = TrainingSession(loop, trainer.evaluator, progress, trainer.device)
    while not session.finished:
        session.step()
    return session.run()


def measure(name: str, folder: Path, policies: int = POLICIES) -> None:
    """Add what is missing to a task's file."""
    file = folder / f"{name}.jsonl"
    done = {(run.policy.fingerprint, run.seed): run for run in read(folder, name)}

    def trained(jobs: Sequence[tuple[LRPolicy, int]]) -> list[Run]:
        for policy, seed in jobs:
            key = policy.fingerprint, seed
            if key not in done:
                done[key] = train(name, policy, seed)
                json_lines.append(file, done[key].to_dict())
                print(f"\r{name}: {len(done)} runs ", end="", file=sys.stderr, flush=True)
        return [done[policy.fingerprint, seed] for policy, seed in jobs]

    first = trained([(policy, 0) for policy in random_policies(name)[:policies]])
    best = sorted(first, key=score_run, reverse=True)[:BEST]
    trained([(run.policy, seed) for run in best for seed in SEEDS])
    print(file=sys.stderr)


def read(folder: Path, name: str) -> list[Run]:
    """The runs in a task's file."""
    return [Run.from_dict(row) for row in json_lines.read(folder / f"{name}.jsonl")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="all by default")
    parser.add_argument("--results", type=Path, required=True, help="a folder for the curves")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        measure(name, args.results)


if __name__ == "__main__":
    main()
