"""How long one waits: for the shell's commands on a cold start, and for a suggestion in a search.

* ``recommend``: importing the package, ``--help``, and ``recommend`` on a filled database. Each
  figure is the median wall time of a fresh Python process.
* ``suggestions``: milliseconds of a suggestion by stored runs and by own trials, beside Optuna's
  TPE. Both samplers suggest policies for the same made-up response (a peak over the mean LR), in
  studies in memory that hold as many finished trials.

The commands and samplers take turns.

    python -m benchmarks.latency recommend --runs 10000 --repeats 7
    python -m benchmarks.latency suggestions --stored 61,10061 --trials 100,1000
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna

import lrbench_hpo
from benchmarks.database.rows import ASKED, made_up_runs
from lrbench_hpo import LRPolicy, Run
from lrbench_hpo.database import Database, connect
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.surrogate.candidates import drawn
from lrbench_hpo.records.tasks import task_for

PUBLISHED = 61  # runs in every new database
BUDGET = 10_000  # of the suggested policies, in iterations
WARM_UP = 5  # suggestions that do not count: the first one compiles the prior

# --- cold start -----------------------------------------------------------------------------------


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def recommend(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / "full.db", Path(folder) / "small.db"
        with connect(full) as database:
            database.add(*made_up_runs(args.runs))
            stored = database.stats().runs
        connect(small).close()
        python, module = [sys.executable, "-P"], [sys.executable, "-P", "-m", "lrbench_hpo"]
        ask = [*module, "recommend", *ASKED, "--database"]
        commands = {
            "python -c pass": [*python, "-c", "pass"],
            "import lrbench_hpo": [*python, "-c", "import lrbench_hpo"],
            "lrbench-hpo --help": [*module, "--help"],
            f"recommend, {PUBLISHED} runs": [*ask, str(small)],
            f"recommend, {stored:,} runs": [*ask, str(full)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, command in commands.items():
                times[name].append(seconds(command))
    for name, found in times.items():
        print(f"{name:28} {statistics.median(found):6.3f} s  ({min(found):.3f}-{max(found):.3f})")


# --- suggestions ----------------------------------------------------------------------------------


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
    """One study for each sampler, with the same finished trials."""
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
    """Milliseconds of one suggestion; its result is reported, as in a real search."""
    trial = study.ask()
    started = time.perf_counter()
    policy = lrbench_hpo.suggest_policy(trial)
    elapsed = time.perf_counter() - started
    study.tell(trial, response(policy))
    return 1e3 * elapsed


def line(name: str, times: Sequence[float]) -> str:
    p99 = float(np.quantile(times, 0.99))
    return f"| {name} | {statistics.median(times):.1f} | {p99:.1f} | {max(times):.1f} |"


def suggestions(args: argparse.Namespace) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| stored runs, own trials, sampler | median ms | p99 | longest |\n|---|---:|---:|---:|")
    for stored in args.stored:
        with filled(stored - PUBLISHED) as database:
            for trials in args.trials:
                times: dict[str, list[float]] = {}
                searched = studies(database, trials)
                for number in range(args.suggestions + WARM_UP):
                    for name, study in searched.items():
                        taken = measured(study)
                        if number >= WARM_UP:
                            times.setdefault(name, []).append(taken)
                for name, found in times.items():
                    print(line(f"{stored:,}, {trials:,}, {name}", found), flush=True)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("recommend", help="cold start of the shell's commands")
    part.set_defaults(run=recommend)
    part.add_argument("--runs", type=int, default=10_000)
    part.add_argument("--repeats", type=int, default=7)
    part = parts.add_parser("suggestions", help="time of a suggestion, beside Optuna's TPE")
    part.set_defaults(run=suggestions)
    part.add_argument("--stored", default=[PUBLISHED, 10_061], type=_numbers)
    part.add_argument("--trials", default=[100, 1_000], type=_numbers)
    part.add_argument("--suggestions", type=int, default=200)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
