"""Learning-rate policies: frozen values made of the LR functions of LRBench, numpy only."""

from __future__ import annotations

from lrbench_hpo.policies.composition import (
    compose,
    knee,
    one_cycle,
    sgdr,
    warmup,
    warmup_stable_decay,
)
from lrbench_hpo.policies.function import LRFunction
from lrbench_hpo.policies.policy import LRPolicy
from lrbench_hpo.policies.table import ALL_FUNCTIONS, COMPOSED, DEFAULT_FUNCTIONS, FUNCTIONS

__all__ = [
    "ALL_FUNCTIONS",
    "COMPOSED",
    "DEFAULT_FUNCTIONS",
    "FUNCTIONS",
    "LRFunction",
    "LRPolicy",
    "compose",
    "knee",
    "one_cycle",
    "sgdr",
    "warmup",
    "warmup_stable_decay",
]
