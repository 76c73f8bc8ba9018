"""Learning-rate policy tuning for Optuna and Ray Tune, warm-started from past results.

>>> import lrbench_hpo
>>> policy = lrbench_hpo.LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
>>> policy(0)
0.0001

The names below are loaded when they are first used: torch, optuna and ray take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrbench_hpo.database import Database, Origin, connect
    from lrbench_hpo.database.leaderboard import Leaderboard, leaderboards
    from lrbench_hpo.database.run_store import RunStore
    from lrbench_hpo.errors import LRBenchError
    from lrbench_hpo.lr_range.climb import range_test_on
    from lrbench_hpo.lr_range.reading import read_range_test
    from lrbench_hpo.lr_range.stored import range_test
    from lrbench_hpo.policies import (
        LRPolicy,
        compose,
        knee,
        one_cycle,
        sgdr,
        warmup,
        warmup_stable_decay,
    )
    from lrbench_hpo.policies.fitting import fit_policy
    from lrbench_hpo.policies.space import SearchSpace
    from lrbench_hpo.policies.space_files import load_space
    from lrbench_hpo.prior.question import recommend
    from lrbench_hpo.prior.recommendation import Recommendation
    from lrbench_hpo.ray_tune.record_runs import RecordRuns
    from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
    from lrbench_hpo.ray_tune.trainable import train
    from lrbench_hpo.records.range_test import RangeTest
    from lrbench_hpo.records.ranking import rank_policies
    from lrbench_hpo.records.run import Run, Task
    from lrbench_hpo.records.score import ScoreWeights, score
    from lrbench_hpo.study.create import create_study
    from lrbench_hpo.study.explanation import Explanation, explain
    from lrbench_hpo.study.objective import Objective
    from lrbench_hpo.study.population import optimize
    from lrbench_hpo.study.pruner import LRMinimaPruner
    from lrbench_hpo.study.sampler import LRBenchSampler
    from lrbench_hpo.study.suggest import suggest_policy

__version__: str

_HOME = {
    "Database": "database",
    "Explanation": "study.explanation",
    "LRBenchError": "errors",
    "LRBenchSampler": "study.sampler",
    "LRBenchSearcher": "ray_tune.searcher",
    "LRMinimaPruner": "study.pruner",
    "LRPolicy": "policies",
    "Leaderboard": "database.leaderboard",
    "Objective": "study.objective",
    "Origin": "database",
    "RangeTest": "records.range_test",
    "Recommendation": "prior.recommendation",
    "RecordRuns": "ray_tune.record_runs",
    "Run": "records.run",
    "RunStore": "database.run_store",
    "ScoreWeights": "records.score",
    "SearchSpace": "policies.space",
    "Task": "records.run",
    "compose": "policies",
    "connect": "database",
    "create_study": "study.create",
    "explain": "study.explanation",
    "fit_policy": "policies.fitting",
    "knee": "policies",
    "leaderboards": "database.leaderboard",
    "load_space": "policies.space_files",
    "one_cycle": "policies",
    "optimize": "study.population",
    "range_test": "lr_range.stored",
    "range_test_on": "lr_range.climb",
    "rank_policies": "records.ranking",
    "read_range_test": "lr_range.reading",
    "recommend": "prior.question",
    "score": "records.score",
    "sgdr": "policies",
    "suggest_policy": "study.suggest",
    "train": "ray_tune.trainable",
    "warmup": "policies",
    "warmup_stable_decay": "policies",
}

__all__ = [
    "Database",
    "Explanation",
    "LRBenchError",
    "LRBenchSampler",
    "LRBenchSearcher",
    "LRMinimaPruner",
    "LRPolicy",
    "Leaderboard",
    "Objective",
    "Origin",
    "RangeTest",
    "Recommendation",
    "RecordRuns",
    "Run",
    "RunStore",
    "ScoreWeights",
    "SearchSpace",
    "Task",
    "compose",
    "connect",
    "create_study",
    "explain",
    "fit_policy",
    "knee",
    "leaderboards",
    "load_space",
    "one_cycle",
    "optimize",
    "range_test",
    "range_test_on",
    "rank_policies",
    "read_range_test",
    "recommend",
    "score",
    "sgdr",
    "suggest_policy",
    "train",
    "warmup",
    "warmup_stable_decay",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


# Hidden from type checkers, which would believe that any name is there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("lrbench-hpo")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
