"""Learning curves for the stopping benchmark: what random policies reach while they train.

The policies are the first of the transfer benchmark's (`transfer/pool.py`), on the same small
tasks; here each is evaluated at its LR minima and at each tenth of the budget. The best ones are
trained with more seeds, which tells how far a score is luck.

    python -m benchmarks.stopping.curves --results FOLDER        # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import optuna
import torch

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
    """The iterations that people report at who do not look at the policy."""
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
    known = read(folder, name)
    file.write_text("".join(json.dumps(run.to_dict()) + "\n" for run in known), encoding="utf-8")
    done = {(run.policy.fingerprint, run.seed): run for run in known}

    def trained(jobs: Sequence[tuple[LRPolicy, int]]) -> list[Run]:
        for policy, seed in jobs:
            key = policy.fingerprint, seed
            if key not in done:
                done[key] = train(name, policy, seed)
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(done[key].to_dict()) + "\n")
                print(f"\r{name}: {len(done)} runs ", end="", file=sys.stderr, flush=True)
        return [done[policy.fingerprint, seed] for policy, seed in jobs]

    first = trained([(policy, 0) for policy in random_policies(name)[:policies]])
    best = sorted(first, key=score_run, reverse=True)[:BEST]
    trained([(run.policy, seed) for run in best for seed in SEEDS])
    print(file=sys.stderr)


def read(folder: Path, name: str) -> list[Run]:
    """The runs in a task's file; a line that was cut off is left out."""
    file = folder / f"{name}.jsonl"
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("}\n")]
    return [Run.from_dict(json.loads(line)) for line in whole]


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
