"""Wall time until a search has a policy within the seeds' noise of the best known one.

On two cores, with the same images, budget of a training, validation split and target accuracy:

* ``optuna``: the loop that people write (`search_time_plain.py`), TPE and MedianPruner as they
  come, two processes of one thread that share the study;
* ``ray``: the same loop and space as a trainable, OptunaSearch and ASHAScheduler as they come, two
  trials at once, actors reused;
* ``ours``: `lrbench_hpo.create_study` and `lrbench_hpo.optimize`, with a new LR database that holds
  the published rows;
* ``ours`` with one part changed: see `search_time_methods.py`.

The methods take turns, seed by seed. A search is over when a trial's validation Top-1 reaches the
target; one that does not within the cap counts as "longer than the cap". Every search is a process
of its own and is kept as it ends; the same command goes on where it stopped.

    python benchmarks/search_time.py --data DIR       # reference, searches, report
    python benchmarks/search_time.py --report-only
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# This folder holds a ray.py, which is not Ray.
sys.path[0] = str(Path(__file__).resolve().parents[1])
# Small networks: one thread a process, before torch is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from typing import Any  # noqa: E402

import optuna  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: E402

from benchmarks.search_time_jobs import Job  # noqa: E402
from benchmarks.search_time_methods import MAIN, METHODS  # noqa: E402
from benchmarks.search_time_plain import PlainSetup, top1_of  # noqa: E402
from benchmarks.search_time_report import report  # noqa: E402
from benchmarks.search_time_tasks import (  # noqa: E402
    SEEDS,
    TASKS,
    Reference,
    append,
    reference,
    stored,
)
from lrbench_hpo import LRPolicy  # noqa: E402

RESULTS = "searches.jsonl"
DEFAULT_FOLDER = Path("search_time_results")
_GRACE = 60.0  # seconds beyond the cap, for starting and ending a search
Key = tuple[str, str, int, float]


def key(row: dict[str, Any]) -> Key:
    return row["task"], row["method"], row["seed"], row["target"]


def one(args: argparse.Namespace) -> None:
    """One search; its result is the last line on stdout."""
    warnings.simplefilter("ignore")
    task = TASKS[args.tasks[0]]
    method, seed = args.methods[0], args.one
    data = task.data(args.results)
    job = Job(task, data, seed, args.target, args.cap, args.trials, args.results)
    print(json.dumps(METHODS[method](job)), flush=True)


def searched(args: argparse.Namespace, task: str, method: str, seed: int, target: float) -> Any:
    """The result of a search in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--results", str(args.results)]
    command += ["--tasks", task, "--methods", method, "--one", str(seed), "--target", repr(target)]
    command += ["--cap", str(args.cap), "--trials", str(args.trials)]
    started = time.monotonic()
    # A session of its own, so that what it started ends with it.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, said = child.communicate(timeout=args.cap + _GRACE)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    if child.returncode != 0 or not out.strip():
        raise SystemExit(f"{task}, {method}, seed {seed} failed:\n{said[-3000:]}")
    row = {"task": task, "method": method, "seed": seed, "target": target}
    measured = json.loads(out.strip().splitlines()[-1])
    return {**row, **measured, "cap": args.cap, "whole": round(time.monotonic() - started, 1)}


def referred(args: argparse.Namespace, name: str) -> Reference:
    """A task's reference, with its best policy in the loop that people write beside it."""
    task, file = TASKS[name], args.results / f"plain-{name}.jsonl"
    known = reference(task, args.results, args.data)
    best = LRPolicy.from_dict(known.policies[0]["policy"])
    done = {row["seed"]: row["top1"] for row in stored(file) if row["policy"] == best.fingerprint}
    setup = PlainSetup.of(task, task.data(args.results))
    for seed in sorted(set(SEEDS) - set(done)):
        done[seed] = top1_of(setup, best, seed)
        append(file, {"policy": best.fingerprint, "seed": seed, "top1": done[seed]})
    mean, plain = known.policies[0]["mean"], statistics.fmean(done[seed] for seed in SEEDS)
    print(
        f"{name}: best known {best} with {mean:.4f} (plain loop {plain:.4f}), deviation of a seed"
    )
    print(f"  {known.noise:.4f}, target {known.target:.4f}", flush=True)
    return known


def run(args: argparse.Namespace) -> None:
    """Measure what is missing: the reference first, then the searches in turns."""
    targets = {name: referred(args, name).target for name in args.tasks}
    file = args.results / RESULTS
    done = {key(row) for row in stored(file)}
    jobs = [
        (task, method, seed, targets[task])
        for seed in range(args.seeds)
        for task in args.tasks
        for method in args.methods
        if method in MAIN or seed < args.variant_seeds
    ]
    columns = TextColumn("{task.description:40.40}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(jobs))
        for task, method, seed, target in jobs:
            progress.update(bar, description=f"{task}, seed {seed}: {method}")
            if (task, method, seed, target) not in done:
                row = searched(args, task, method, seed, target)
                append(file, row)
                progress.console.print(_line(row))
            progress.advance(bar)


def _line(row: dict[str, Any]) -> str:
    took = f"> {row['cap']:.0f} s" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    counts = f"{row['trials']} trials, {row['iterations']:,} iterations, best {row['best']:.4f}"
    return f"{row['task']}, seed {row['seed']}, {row['method']}: {took}, {counts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with MNIST/raw and cifar10_jpeg.npz")
    parser.add_argument("--results", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variant-seeds", type=int, default=3, help="of ours, changed in one part")
    parser.add_argument("--cap", type=float, default=120.0, help="seconds of a search")
    parser.add_argument("--trials", type=int, default=60, help="of a search, at most")
    parser.add_argument("--against", choices=list(METHODS), default="ours", help="in the ratios")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # a seed
    parser.add_argument("--target", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if args.one is not None:
        one(args)
        return
    if not args.report_only:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            run(args)
        except KeyboardInterrupt:
            sys.exit("\nstopped; the same command goes on")
    print(report(stored(args.results / RESULTS), args.tasks, args.methods, args.against))


if __name__ == "__main__":
    main()
