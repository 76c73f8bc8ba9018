"""Wall time until a search has a policy within the seeds' noise of the best known one.

On two cores, with the same images, budget of a training, validation split and target accuracy:

* ``optuna``: the usual loop (`benchmarks.search_time.plain`), TPE and MedianPruner as they
  come, two processes of one thread that share the study;
* ``ray``: the same loop and space as a trainable, OptunaSearch and ASHAScheduler as they come, two
  trials at once, actors reused;
* ``ours``: `lrbench_hpo.create_study` and `lrbench_hpo.optimize`, with a new LR database that holds
  the published rows;
* ``ours`` with one part changed: see `benchmarks.search_time.methods`.

The methods take turns, seed by seed, each in a process of its own for as long as the cap (ours: a
quarter of it). Whenever a training has ended that is better than all before it, its policy is
noted. All noted policies are then trained again, by one trainer with the seeds of the reference: a
search is over when the best policy that it knew of reaches the target in the mean, however lucky
its own seed was. One that does not within the cap counts as "longer than the cap".

Everything is kept as it ends; the same command goes on where it stopped.

    python -m benchmarks.search_time --data DIR       # reference, searches, judgement, report
    python -m benchmarks.search_time --report-only    # judgement and report
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmarks import json_lines
from benchmarks.search_time.jobs import Job
from benchmarks.search_time.judge import Judge
from benchmarks.search_time.methods import MAIN, METHODS, ONE_THREAD, SHARE_OF_CAP
from benchmarks.search_time.report import report
from benchmarks.search_time.tasks import TASKS, Reference, reference
from lrbench_hpo import LRPolicy

RESULTS = "searches.jsonl"
DEFAULT_FOLDER = Path("search_time_results")
_GRACE = 60.0  # seconds beyond the cap, for starting and ending a search
Key = tuple[str, str, int, float]


def key(row: dict[str, Any]) -> Key:
    return row["task"], row["method"], row["seed"], row["cap"]


def one(args: argparse.Namespace) -> None:
    """One search; its result is the last line on stdout."""
    warnings.simplefilter("ignore")
    task = TASKS[args.tasks[0]]
    method, seed = args.methods[0], args.one
    data = task.data(args.results)
    job = Job(task, data, seed, args.cap, args.trials, args.results)
    print(json.dumps(METHODS[method](job)), flush=True)


def searched(args: argparse.Namespace, task: str, method: str, seed: int, cap: float) -> Any:
    """The result of a search in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search_time", "--results", str(args.results)]
    command += ["--tasks", task, "--methods", method, "--one", str(seed), "--cap", str(cap)]
    command += ["--trials", str(args.trials)]
    threads = {"OMP_NUM_THREADS": "1"} if method in ONE_THREAD else {}
    started = time.monotonic()
    # A session of its own, so that what it started ends with it.
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **threads},
    )
    try:
        out, errors = child.communicate(timeout=cap + _GRACE)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    if child.returncode != 0 or not out.strip():
        raise SystemExit(f"{task}, {method}, seed {seed} failed:\n{errors[-3000:]}")
    row = {"task": task, "method": method, "seed": seed, "cap": cap}
    whole = round(time.monotonic() - started, 1)
    return {**row, **json.loads(out.strip().splitlines()[-1]), "whole": whole}


def jobs(args: argparse.Namespace) -> list[Key]:
    """All searches asked for, those of a seed one after the other."""
    return [
        (task, method, seed, args.cap * SHARE_OF_CAP.get(method, 1.0))
        for seed in range(args.seeds)
        for task in args.tasks
        for method in args.methods
        if method in MAIN or seed < args.variant_seeds
    ]


def run(args: argparse.Namespace) -> None:
    """Do the searches that are missing, in turns."""
    file = args.results / RESULTS
    done = {key(row) for row in json_lines.read(file) if "found" in row}  # older ones say less
    columns = TextColumn("{task.description:40.40}"), BarColumn(), MofNCompleteColumn()
    # Two threads that train one network wait for each other: whatever draws takes its time.
    with Progress(*columns, refresh_per_second=0.5) as progress:
        bar = progress.add_task("", total=len(jobs(args)))
        for job in jobs(args):
            progress.update(bar, description=f"{job[0]}, seed {job[2]}: {job[1]}")
            if job not in done:
                row = searched(args, *job)
                json_lines.append(file, row)
                progress.console.print(_line(row))
            progress.advance(bar)


def _line(row: dict[str, Any]) -> str:
    counts = f"{row['trials']} trials, {row['iterations']:,} iterations"
    found = ", ".join(f"{each['top1']:.4f} at {each['seconds']:.1f} s" for each in row["found"])
    return f"{row['task']}, seed {row['seed']}, {row['method']}: {counts}; {found}"


def judged(args: argparse.Namespace, references: dict[str, Reference]) -> list[dict[str, Any]]:
    """The searches asked for, with when each had found what it looked for."""
    known = {key(row): row for row in json_lines.read(args.results / RESULTS) if "found" in row}
    rows = []
    for job in jobs(args):
        if job in known:
            row, target = known[job], references[job[0]].target
            judge = Judge(TASKS[job[0]], args.results)
            seconds = judge.when_found(row, target, references[job[0]].noise)
            rows.append({**row, "target": target, "seconds": seconds})
    return rows


def _printed(name: str, known: Reference) -> Reference:
    best = LRPolicy.from_dict(known.policies[0]["policy"])
    print(f"{name}: best known {best} with {known.policies[0]['mean']:.4f}, deviation of a seed")
    print(f"  {known.noise:.4f}, target {known.target:.4f}", flush=True)
    return known


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
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if args.one is not None:
        one(args)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        references = {
            name: _printed(name, reference(TASKS[name], args.results, args.data))
            for name in args.tasks
        }
        if not args.report_only:
            run(args)
        rows = judged(args, references)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on")
    print(report(rows, args.tasks, args.methods, args.against))


if __name__ == "__main__":
    main()
