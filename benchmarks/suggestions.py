"""How long a suggestion takes, by stored runs and by own trials, beside Optuna's TPE.

Both samplers suggest policies for the same made-up response (a peak over the mean LR), interleaved,
in studies in memory that hold as many finished trials.

    python -m benchmarks.suggestions --stored 61,10061 --trials 100,1000
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np
import optuna

import lrbench_hpo
from lrbench_hpo import LRPolicy, Run
from lrbench_hpo.database import Database, connect
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.surrogate.candidates import drawn
from lrbench_hpo.records.tasks import task_for

BUDGET = 10_000


def response(policy: LRPolicy) -> float:
    """A score that is highest where the mean LR is 0.03."""
    mean = float(np.mean(policy(np.arange(0, BUDGET, 50))))
    return 0.95 - 0.1 * min(3.0, abs(math.log10(max(mean, 1e-9) / 0.03)))


def filled(runs: int) -> Database:
    """A database with the published rows and so many more of a similar task."""
    database = connect("sqlite://")
    random, task = np.random.default_rng(0), task_for("fashionmnist", "lenet")
    space = load_space("default").restricted(None).within(BUDGET)
    policies = [entry.policy for entry in drawn(space, Scale(BUDGET, 0.01), runs, random)]
    database.add(
        *(
            Run(task, policy, BUDGET, seed=seed, metrics={"top1": response(policy)})
            for seed, policy in enumerate(policies)
        )
    )
    return database


def studies(database: Database, trials: int) -> dict[str, optuna.Study]:
    """A study a sampler, with the same finished trials."""
    ours = lrbench_hpo.create_study("mnist", "lenet", max_iterations=BUDGET, database=database)
    sampler = ours.sampler
    ours.sampler = optuna.samplers.RandomSampler(seed=0)
    tpe = lrbench_hpo.create_study(
        "mnist", "lenet", max_iterations=BUDGET, database=database, sampler=ours.sampler
    )
    for study in (ours, tpe):
        study.optimize(lambda trial: response(lrbench_hpo.suggest_policy(trial)), trials)
    ours.sampler, tpe.sampler = sampler, optuna.samplers.TPESampler(seed=0)
    return {"LRBenchSampler": ours, "TPE": tpe}


def measured(study: optuna.Study) -> float:
    """Milliseconds of one suggestion; its result is told, as in a real search."""
    trial = study.ask()
    started = time.perf_counter()
    policy = lrbench_hpo.suggest_policy(trial)
    elapsed = time.perf_counter() - started
    study.tell(trial, response(policy))
    return 1e3 * elapsed


def line(name: str, times: Sequence[float]) -> str:
    p99 = float(np.quantile(times, 0.99))
    return f"| {name} | {statistics.median(times):.1f} | {p99:.1f} | {max(times):.1f} |"


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stored", default=[61, 10_061], type=_numbers)
    parser.add_argument("--trials", default=[100, 1_000], type=_numbers)
    parser.add_argument("--suggestions", type=int, default=200)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| stored runs, own trials, sampler | median ms | p99 | longest |\n|---|---:|---:|---:|")
    for stored in args.stored:
        with filled(stored - 61) as database:
            for trials in args.trials:
                times: dict[str, list[float]] = {}
                searched = studies(database, trials)
                for number in range(args.suggestions + 5):
                    for name, study in searched.items():
                        taken = measured(study)
                        if number >= 5:  # the first one compiles what is known
                            times.setdefault(name, []).append(taken)
                for name, found in times.items():
                    print(line(f"{stored:,}, {trials:,}, {name}", found), flush=True)


if __name__ == "__main__":
    main()
