"""What a trial on Ray costs before and beside its training, and how fast the searcher answers.

Fixed cost of a trial, three ways to run the same short trainings (same policies, data, network,
number of reports), each on a Ray of its own that is started again for every turn:

* ``plain``: the usual function trainable, which loads its data and builds its
  `Trainer`; `tune.run` starts a process for each trial.
* ``plain, reused``: the same with ``reuse_actors=True``.
* ``lrbench_hpo.train``: with ``reuse_actors=True``, as ``lrbench-hpo tune --ray`` sets it.

Figures are seconds of `tune.run` by trials, and of each trial after the first ones (as many as run
at once), which leaves out what is paid once. Ray's own start is in neither.

Latency of a suggestion, with 1,000 trials live, after the results of so many earlier trials:

* ``LRBenchSearcher``, their runs in the LR database;
* ``OptunaSearch`` with a define-by-run space of the same conditional parameters, its study empty,
  and with the same results in its study: it refuses ``evaluated_rewards`` for such a space.

A result is reported and a trial suggested in turn, so 1,000 stay live. Methods take turns in both
parts.

    python -m benchmarks.ray trials                          # digits, LeNet
    python -m benchmarks.ray trials --dataset mnist --data DIR
    python -m benchmarks.ray suggestions
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

import lrbench_hpo
from lrbench_hpo import LRBenchSearcher, LRPolicy, Run
from lrbench_hpo.records.tasks import recipe_for, task_for
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_in

TASK = ("cifar10", "resnet32", 64_000)  # of the suggestions: no training is done
REPORTED = ("top1", "iterations_to_best", "loss_difference")


def plain(config: dict[str, Any]) -> None:
    """The loop of `lrbench_hpo.train` as one would write it oneself."""
    from lrbench_hpo import training
    from lrbench_hpo.records.reports import report
    from lrbench_hpo.records.score import ScoreWeights

    data = training.load_data(config["dataset"], config["data"])
    budget = config["max_iterations"]
    recipe = recipe_for(config["dataset"], config["model"], max_iterations=budget)
    trainer = training.Trainer(data, config["model"], recipe)
    session = trainer.session(LRPolicy.from_dict(config["lr_policy"]), budget)
    while not session.finished:
        session.step()
        tune.report(report(session.run(), ScoreWeights(), finished=session.finished))


class Ends(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self.times.append(time.perf_counter())


def seconds_per_trial(trainable: Any, reuse: bool, args: argparse.Namespace) -> tuple[float, float]:
    """Of a whole `tune.run` by its trials, and of each trial after the first ones."""
    policies = [LRPolicy("FIX", k0=0.01 + 0.001 * n).to_dict() for n in range(args.trials)]
    config = {"dataset": args.dataset, "model": "lenet", "max_iterations": args.iterations}
    config |= {"data": args.data, "lr_policy": tune.grid_search(policies)}
    ends = Ends()
    quiet: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    ray.init(address="local", num_cpus=args.concurrent, **quiet)
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            done = tune.run(
                trainable,
                config=config,
                resources_per_trial={"cpu": 1},
                max_concurrent_trials=args.concurrent,
                reuse_actors=reuse,
                storage_path=folder,
                callbacks=[ends],
                verbose=0,
            )
            took = time.perf_counter() - started
    finally:
        ray.shutdown()
    assert [trial.status for trial in done.trials] == ["TERMINATED"] * args.trials
    first = args.concurrent
    later = (ends.times[-1] - ends.times[first - 1]) / (args.trials - first)
    return took / args.trials, later


def trials(args: argparse.Namespace) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Ray's panels stand between the figures
    ways = {
        "plain": (plain, False),
        "plain, reused": (plain, True),
        "lrbench_hpo.train": (lrbench_hpo.train, True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(args.repeats):
        for name, (trainable, reuse) in ways.items():
            found[name].append(seconds_per_trial(trainable, reuse, args))
            print(f"turn {turn} {name:18} {found[name][-1][0]:.2f} s a trial", flush=True)
    print(
        f"\n{args.dataset}/lenet, {args.trials} trials of {args.iterations} iterations, "
        f"{args.concurrent} at once, medians of {args.repeats} turns (range)"
    )
    base = [statistics.median(figures) for figures in zip(*found["plain"], strict=True)]
    for name, figures in found.items():
        columns = [
            f"{statistics.median(each):6.2f} s ({min(each):.2f}-{max(each):.2f}) "
            f"{statistics.median(each) / first:5.2f}x"
            for each, first in zip(zip(*figures, strict=True), base, strict=True)
        ]
        print(f"{name:18}  a trial: {columns[0]}   each later one: {columns[1]}")


def earlier_study(count: int, settings: StudySettings) -> optuna.Study:
    """A study with so many trials of random policies with made-up results."""
    study = optuna.create_study(
        study_name="earlier", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for number in range(count):
        trial = study.ask()
        suggest_in(trial, settings.space, settings.scale)
        study.tell(trial, 0.5 + 0.4 * (number * 7919 % 10_007) / 10_007)
    return study


def runs_of(study: optuna.Study) -> list[Run]:
    dataset, model, budget = TASK
    task = task_for(dataset, model, recipe_for(dataset, model))
    return [
        Run(
            task,
            LRPolicy.from_dict(trial.user_attrs["policy"]),
            budget,
            seed=trial.number,
            metrics=dict(zip(REPORTED, (trial.value, budget / 2, 0.1), strict=True)),
        )
        for trial in study.get_trials(deepcopy=False)
    ]


def optuna_search(settings: StudySettings, study: optuna.Study | None) -> OptunaSearch:
    def space(trial: optuna.Trial) -> None:
        suggest_in(trial, settings.space, settings.scale)

    earlier: dict[str, Any] = (
        {} if study is None else {"study_name": "earlier", "storage": study._storage}
    )
    return OptunaSearch(space, metric="score", mode="max", seed=0, **earlier)


class Driver:
    """Calls a searcher as Ray does, and keeps so many trials live."""

    def __init__(self, searcher: Searcher, live: int) -> None:
        self.searcher = searcher
        self.asked = 0
        self.suggesting: list[float] = []
        self.telling: list[float] = []
        self.live = live

    def fill(self) -> None:
        while self.asked < self.live:
            self.suggest()
        self.suggesting.clear()

    def fill_study(self, study: optuna.Study) -> None:
        """Live trials straight into the study, where suggesting so many would take an hour."""
        finished = study.get_trials(deepcopy=False)[: self.live]
        study.add_trials(
            optuna.trial.create_trial(
                state=TrialState.RUNNING, params=t.params, distributions=t.distributions
            )
            for t in finished
        )
        self.suggest()
        self.suggesting.clear()

    def suggest(self) -> None:
        self.suggesting.append(timed(lambda: self.searcher.suggest(f"trial{self.asked}")))
        self.asked += 1

    def turn(self) -> None:
        number = self.asked - 1
        metrics = dict(zip(REPORTED, (0.9, 100, 0.1), strict=True))
        result: dict[str, Any] = {
            "score": 0.5 + number % 100 / 250,
            "done": True,
            "training_iteration": 1,
        }
        result |= {"iteration": TASK[2], "status": "complete", **metrics}
        tell = self.searcher.on_trial_complete
        self.telling.append(timed(lambda: tell(f"trial{number}", result)))
        self.suggest()


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(values: Sequence[float], share: int) -> float:
    """The share is in per cent; milliseconds, as it is measured in seconds."""
    return 1_000 * statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def suggestions(args: argparse.Namespace) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    dataset, model, budget = TASK
    config = {"dataset": dataset, "model": model, "max_iterations": budget}
    settings = StudySettings.of(lrbench_hpo.create_study(dataset, model, database="sqlite://"))
    study = earlier_study(args.runs, settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lr.db")
        with lrbench_hpo.connect(file) as db:
            db.add(*runs_of(study))
            stored = db.stats().runs
        ours = LRBenchSearcher(database=file, seed=0)
        began = timed(lambda: ours.set_search_properties("score", "max", config))
    drivers = {
        f"LRBenchSearcher, {stored:,} runs stored": Driver(ours, args.live),
        "OptunaSearch, empty study": Driver(optuna_search(settings, None), args.live),
        f"OptunaSearch, {args.runs:,} trials in it": Driver(
            optuna_search(settings, study), args.live
        ),
    }
    *asking, crowded = drivers.values()
    for driver in asking:
        driver.fill()
    crowded.fill_study(study)
    for number in range(args.suggestions):
        for driver in drivers.values():
            driver.turn()
        if number % 50 == 0:
            print(f"{number} of {args.suggestions} turns", flush=True)
    print(f"\n{args.live:,} live trials, {args.suggestions} suggestions, milliseconds")
    print(f"{'':40} suggest p50    p99    max   result p50    p99")
    for name, driver in drivers.items():
        print(
            f"{name:40} {percentile(driver.suggesting, 50):11.2f} "
            f"{percentile(driver.suggesting, 99):6.1f} {1_000 * max(driver.suggesting):6.1f} "
            f"{percentile(driver.telling, 50):12.2f} {percentile(driver.telling, 99):6.1f}"
        )
    print(f"LRBenchSearcher's start, which reads the database: {began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("trials", help="fixed cost of a trial")
    part.set_defaults(run=trials)
    part.add_argument("--dataset", default="digits")
    part.add_argument("--data", help="folder of the data set; default LRBENCH_DATA")
    part.add_argument("--trials", type=int, default=12)
    part.add_argument("--iterations", type=int, default=1)
    part.add_argument("--concurrent", type=int, default=os.cpu_count() or 1)
    part.add_argument("--repeats", type=int, default=5)
    part = parts.add_parser("suggestions", help="latency of a suggestion")
    part.set_defaults(run=suggestions)
    part.add_argument("--runs", type=int, default=10_000, help="earlier trials")
    part.add_argument("--live", type=int, default=1_000)
    part.add_argument("--suggestions", type=int, default=200)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
