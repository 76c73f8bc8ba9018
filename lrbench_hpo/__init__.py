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
    from lrbench_hpo.errors import LRBenchError
    from lrbench_hpo.explanation import Explanation, explain
    from lrbench_hpo.fitting import fit_policy
    from lrbench_hpo.leaderboard import Leaderboard, leaderboards
    from lrbench_hpo.lr_range import RangeTest, read_range_test
    from lrbench_hpo.objective import Objective
    from lrbench_hpo.policies import (
        LRPolicy,
        compose,
        knee,
        one_cycle,
        sgdr,
        warmup,
        warmup_stable_decay,
    )
    from lrbench_hpo.population_search import optimize
    from lrbench_hpo.prior import Recommendation, recommend
    from lrbench_hpo.pruner import LRMinimaPruner
    from lrbench_hpo.range_testing import range_test
    from lrbench_hpo.ranking import ScoreWeights, rank_policies, score
    from lrbench_hpo.record_runs import RecordRuns
    from lrbench_hpo.records import Run, Task
    from lrbench_hpo.sampler import LRBenchSampler
    from lrbench_hpo.searcher import LRBenchSearcher
    from lrbench_hpo.space import SearchSpace
    from lrbench_hpo.space_files import load_space
    from lrbench_hpo.study import create_study
    from lrbench_hpo.suggest import suggest_policy
    from lrbench_hpo.trainable import train
    from lrbench_hpo.training import range_test_on
    from lrbench_hpo.waiting import RunStore

_HOME = {
    "Database": "database",
    "Explanation": "explanation",
    "LRBenchError": "errors",
    "LRBenchSampler": "sampler",
    "LRBenchSearcher": "searcher",
    "LRMinimaPruner": "pruner",
    "LRPolicy": "policies",
    "Leaderboard": "leaderboard",
    "Objective": "objective",
    "Origin": "database",
    "RangeTest": "lr_range",
    "Recommendation": "prior",
    "RecordRuns": "record_runs",
    "Run": "records",
    "RunStore": "waiting",
    "ScoreWeights": "ranking",
    "SearchSpace": "space",
    "Task": "records",
    "compose": "policies",
    "connect": "database",
    "create_study": "study",
    "explain": "explanation",
    "fit_policy": "fitting",
    "knee": "policies",
    "leaderboards": "leaderboard",
    "load_space": "space_files",
    "one_cycle": "policies",
    "optimize": "population_search",
    "range_test": "range_testing",
    "range_test_on": "training",
    "rank_policies": "ranking",
    "read_range_test": "lr_range",
    "recommend": "prior",
    "score": "ranking",
    "sgdr": "policies",
    "suggest_policy": "suggest",
    "train": "trainable",
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lrbench-hpo")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
