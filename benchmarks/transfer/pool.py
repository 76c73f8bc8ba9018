"""Measures the random policies of the transfer benchmark, and stores them as they are shipped.

For every task 320 random policies of `space.yaml` are trained with seed 0; the best 64 of
them and 32 others with the seeds 1 and 2 too, because the best of 320 single scores is mostly
lucky; and the best 8 by those two, and the best 16 at seed 0, with four more seeds, which tell how
good the best really is.

    python -m benchmarks.transfer.pool                      # those that are not there yet
    python -m benchmarks.transfer.pool --force digits-mlp-sgd
    python -m benchmarks.transfer.pool --summary
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import multiprocessing
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.transfer.scores import (
    BEST,
    CONFIRMED,
    CONFIRMING,
    FIRST,
    JUDGES,
    PoolScores,
    best_judged,
    fair_sample,
)
from benchmarks.transfer.tasks import POOLS, TASKS, pool, search_space
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.shipped import SOURCE
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.records.run import CurvePoint, Run
from lrbench_hpo.records.score import score_run
from lrbench_hpo.study.suggest import suggest_in

POLICIES, OTHERS = 320, 32
CREATED_AT = "2026-11-22T00:00:00Z"
METRICS = ("top1", "top5", "ac", "cd", "cdac", "loss_difference", "train_loss", "eval_loss")


def random_policies(name: str) -> list[LRPolicy]:
    """Random policies of the benchmark's space, the same at every call."""
    task = TASKS[name]
    sampler = optuna.samplers.RandomSampler(seed=zlib.crc32(name.encode()))
    study = optuna.create_study(sampler=sampler)
    space, scale = search_space(task), Scale(task.budget, 1.0)
    return [rounded(suggest_in(study.ask(), space, scale)) for _ in range(POLICIES)]


def rounded(policy: LRPolicy) -> LRPolicy:
    """The policy with six significant digits: what is stored is what was trained."""
    fields = policy.to_dict()
    for name in ("k0", "k1", "gamma", "p"):
        if isinstance(value := fields.get(name), float):
            fields[name] = _digits(value, 6)
    return LRPolicy.from_dict(fields)


def _digits(value: float | None, digits: int) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def train(job: tuple[str, LRPolicy, int]) -> Run:
    """One training, as it is stored: without what tells only of the machine."""
    name, policy, seed = job
    torch.set_num_threads(1)
    run = TASKS[name].trainer().train(policy, TASKS[name].budget, seed=seed).run
    metrics = {key: _digits(run.metrics.get(key), 6) for key in METRICS}
    metrics["iterations_to_best"] = run.metrics.get("iterations_to_best")
    return dataclasses.replace(
        run,
        metrics=metrics,
        curve=tuple(_point(point) for point in run.curve),
        cost={"seconds": _digits(run.cost["seconds"], 3)},
        environment={"device": "cpu", "precision": "float32", "threads": 1},
        source=SOURCE,
        created_at=CREATED_AT,
    )


def _point(point: CurvePoint) -> CurvePoint:
    return dataclasses.replace(
        point, train_loss=_digits(point.train_loss, 4), eval_loss=_digits(point.eval_loss, 4)
    )


def measure(name: str, runs: Sequence[Run], workers: Any) -> list[Run]:
    """All runs of a task's pool; those given are not trained again."""
    policies = random_policies(name)
    by_key = {policy.fingerprint: policy for policy in policies}
    done = {(run.policy.fingerprint, run.seed): run for run in runs}

    def trained(keys: Sequence[str], seeds: Sequence[int]) -> list[Run]:
        wanted = [(key, seed) for seed in seeds for key in keys]
        missing = [(name, by_key[key], seed) for key, seed in wanted if (key, seed) not in done]
        for run in workers.imap(train, missing, chunksize=4):
            done[run.policy.fingerprint, run.seed] = run
            print(f"\r{name}: {len(done)} runs ", end="", file=sys.stderr, flush=True)
        return [done[key] for key in wanted]

    first = trained(list(by_key), [FIRST])
    order = [run.policy.fingerprint for run in sorted(first, key=score_run, reverse=True)]
    chance = np.random.default_rng(zlib.crc32(name.encode()))
    others = chance.choice(order[BEST:], OTHERS, replace=False).tolist()
    judged = trained([*order[:BEST], *others], JUDGES)
    best = best_judged(first + judged, CONFIRMED)
    return first + judged + trained(list(dict.fromkeys([*best, *fair_sample(first)])), CONFIRMING)


def write(name: str, runs: Sequence[Run]) -> None:
    """Store a pool in the package's exchange format; the same runs give the same bytes."""
    POOLS.mkdir(exist_ok=True)
    header = json.dumps({"format": jsonl.FORMAT, "version": jsonl.VERSION})
    lines = [header]
    for run in runs:
        row = json.loads(jsonl.line_of(run, None))
        # A hash a line would be a third of the file; gzip has its own.
        lines.append(json.dumps({"run": row["run"]}, separators=(",", ":")))
    content = gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0)
    unfinished = POOLS / f"{name}.tmp"
    unfinished.write_bytes(content)
    unfinished.replace(POOLS / f"{name}.jsonl.gz")
    print(f"\r{name}: {len(runs)} runs, {len(content) / 1000:.0f} kB", file=sys.stderr, flush=True)


def summary(name: str) -> str:
    """One row of a Markdown table of what is in a pool."""
    scores = PoolScores.of(pool(name))
    seconds = np.median([run.cost["seconds"] or 0.0 for run in pool(name)])
    fixed = max((run for run in pool(name) if run.policy.function == "FIX"), key=score_run)
    return (
        f"| {name} | {seconds:.2f} | {scores.best:.4f} | {scores.median:.4f} | {scores.top:.4f} | "
        f"{scores.noise:.4f} | {fixed.policy.k0:.3g} ({score_run(fixed):.4f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="all by default")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--summary", action="store_true", help="only show what is there")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    there = [name for name in args.tasks if (POOLS / f"{name}.jsonl.gz").exists()]
    if args.summary:
        print("| task | s/run | best mean | median | top 5 % | seed sd | best FIX |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(summary(name) for name in there))
        return
    with multiprocessing.get_context("spawn").Pool(args.workers) as workers:
        for name in args.tasks:
            known = () if args.force or name not in there else pool(name)
            runs = measure(name, known, workers)
            if runs != list(known):
                write(name, runs)


if __name__ == "__main__":
    main()
