"""LR policies from similar tasks' results: the sampler of the package lrbench-hpo."""

from lrbench_hpo import suggest_policy
from lrbench_hpo.study.sampler import LRBenchSampler

__all__ = ["LRBenchSampler", "suggest_policy"]
