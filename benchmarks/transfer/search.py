"""One search of the transfer benchmark: live training, and judges with other seeds."""

from __future__ import annotations

import json
import signal
import sqlite3
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import optuna

from benchmarks.transfer.methods import SEED_OFFSET, start
from benchmarks.transfer.scores import CONFIRMING, JUDGES
from benchmarks.transfer.tasks import TASKS
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import score_run
from lrbench_hpo.study import results as outcomes

TRIALS = 30

Job = tuple[str, str, int]  # method, task, seed


class Trainings:
    """Trainings done so far, shared by all processes: each is done once.

    Args:
        folder: the results' folder.
    """

    def __init__(self, folder: Path) -> None:
        # isolation_level None: each statement is a transaction of its own.
        self._file = sqlite3.connect(folder / "trainings.db", timeout=60, isolation_level=None)
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS trainings "
            "(task TEXT, policy TEXT, seed INTEGER, run TEXT, PRIMARY KEY (task, policy, seed))"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def run(self, name: str, policy: LRPolicy, seed: int) -> Run:
        """The run of a policy on a task: stored, or trained now."""
        key = (name, policy.fingerprint, seed)
        query = "SELECT run FROM trainings WHERE task = ? AND policy = ? AND seed = ?"
        if (row := self._file.execute(query, key).fetchone()) is not None:
            return Run.from_dict(json.loads(row[0]))
        task = TASKS[name]
        run = task.trainer().train(policy, task.budget, seed=seed).run
        values = (*key, json.dumps(run.to_dict()))
        self._file.execute("INSERT OR IGNORE INTO trainings VALUES (?, ?, ?, ?)", values)
        return run

    def mean(self, name: str, policy: LRPolicy, seeds: Sequence[int]) -> float:
        """The mean score of a policy over some seeds."""
        return statistics.fmean(score_run(self.run(name, policy, seed)) for seed in seeds)


def start_worker() -> None:
    """Prepare a process of the pool: Ctrl-C is for the main process, and warnings are known."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def search(job: Job, folder: Path) -> dict[str, Any]:
    """Search once and judge every incumbent; return what the report needs, in JSON types."""
    method, name, seed = job
    with Trainings(folder) as trainings:
        begun = start(method, name, seed)
        scores: list[float] = []
        seconds: list[float] = []
        sources: list[str] = []
        incumbents: list[dict[str, Any]] = []
        for number in range(1, TRIALS + 1):
            asked = time.perf_counter()
            trial = begun.study.ask()
            policy = begun.suggest(trial)
            seconds.append(time.perf_counter() - asked)
            run = trainings.run(name, policy, seed + SEED_OFFSET)
            score = score_run(run)
            if begun.notes_outcome:
                outcomes.note(trial, run, score)
            sources.append(_source(trial.user_attrs))
            begun.study.tell(trial, score)
            if not scores or score > max(scores):
                judged = trainings.mean(name, policy, JUDGES)
                incumbents.append({"trial": number, "judged": judged, "policy": policy.to_dict()})
            scores.append(score)
    test = begun.study.user_attrs.get("range_test")
    return {
        "task": name,
        "method": method,
        "seed": seed,
        # The range test costs as many trials as its iterations are budgets.
        "charge": test["iterations"] / TASKS[name].budget if test else 0.0,
        "suggestion_ms": round(1000 * statistics.median(seconds), 2),
        "scores": scores,
        "incumbents": incumbents,
        "sources": sources,
    }


def _source(attributes: dict[str, Any]) -> str:
    suggestion = attributes.get("suggestion")
    return str(suggestion.get("source")) if isinstance(suggestion, dict) else ""


def best_known(name: str, results: Sequence[dict[str, Any]], folder: Path, count: int = 5) -> float:
    """The mean of the task's best incumbent over the confirming seeds.

    Args:
        name: the task.
        results: of `search`, any tasks.
        folder: the results' folder.
        count: how many of the best by the judges' seeds are confirmed.
    """
    judged = {
        LRPolicy.from_dict(entry["policy"]): entry["judged"]
        for result in results
        if result["task"] == name
        for entry in result["incumbents"]
    }
    best = sorted(judged, key=lambda policy: -judged[policy])[:count]
    with Trainings(folder) as trainings:
        return max((trainings.mean(name, policy, CONFIRMING) for policy in best), default=-1.0)
