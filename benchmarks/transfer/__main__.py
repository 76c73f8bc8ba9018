"""How many trials a search needs to a good LR policy on a new task, beside the known ways.

Real training on eight small tasks (`tasks.py`). One is held out; what was measured of the
others (the runs that come with the package, about 320 random policies each) is the LR database.
Every method has 30 trials. Its best policy so far is judged by two trainings with seeds that no
search has, and compared with the random policies, judged likewise; the maximum that a search itself
saw would be luck. See docs/benchmarks.md.

    python -m benchmarks.transfer                        # run what is missing, then report
    python -m benchmarks.transfer run --methods tpe,ours --tasks digits-mlp-sgd --seeds 3
    python -m benchmarks.transfer report --plot transfer.png

Ctrl-C keeps what is done; the same command goes on. MNIST and CIFAR-10 (JPEG) are read from
LRBENCH_DATA.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Small networks: one thread each, before torch is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import json_lines
from benchmarks.transfer import methods
from benchmarks.transfer.report import Results, plot, tables
from benchmarks.transfer.search import Job, best_known, search, start_worker
from benchmarks.transfer.tasks import TASKS

CHEAP = [name for name, task in TASKS.items() if task.cheap]
SEEDS = {True: 10, False: 3}  # on cheap tasks, and on the others
RESULTS, BEST = "results.jsonl", "best_known.json"
DEFAULT_FOLDER = Path("transfer_results")


def planned(args: argparse.Namespace) -> list[Job]:
    """The searches asked for: seed by seed, so that a run cut short is a smaller experiment."""
    everywhere = [*methods.MAIN] if args.methods is None else args.methods
    cheap_only = [*methods.TWISTED, *methods.ABLATIONS] if args.methods is None else []
    jobs = []
    for seed in range(args.seeds or max(SEEDS.values())):
        for name in args.tasks:
            cheap = TASKS[name].cheap
            if args.seeds is None and seed >= SEEDS[cheap]:
                continue
            chosen = everywhere + (cheap_only if cheap else [])
            jobs += [(method, name, seed) for method in chosen]
    return jobs


def stored(folder: Path) -> list[dict[str, Any]]:
    """The finished searches, the last of each kind."""
    rows = json_lines.read(folder / RESULTS)
    return list({(row["method"], row["task"], row["seed"]): row for row in rows}.values())


def run(args: argparse.Namespace) -> None:
    """Do the searches that are not done yet."""
    args.out.mkdir(parents=True, exist_ok=True)
    done = {(r["method"], r["task"], r["seed"]) for r in stored(args.out)}
    jobs = [job for job in planned(args) if args.force or job not in done]
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.workers, start_worker) as workers:
        arriving = workers.imap_unordered(partial(search, folder=args.out), jobs)
        for number, result in enumerate(arriving, start=1):
            json_lines.append(args.out / RESULTS, result)
            left = (time.monotonic() - started) / number * (len(jobs) - number) / 60
            line = f"{number} of {len(jobs)}, {left:.0f} min left: {result['method']}"
            print(f"\r{line:60.60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    _confirm(args.out)


def _confirm(folder: Path) -> None:
    results = stored(folder)
    best = {name: best_known(name, results, folder) for name in {r["task"] for r in results}}
    (folder / BEST).write_text(json.dumps(best), encoding="utf-8")


def report(args: argparse.Namespace) -> None:
    """Print the tables, and draw the plot."""
    found = [r for r in stored(args.out) if r["task"] in args.tasks]
    if args.methods is not None:
        found = [r for r in found if r["method"] in args.methods]
    if not found:
        sys.exit(f"{args.out}: no results yet: python -m benchmarks.transfer run --out {args.out}")
    order = [*methods.MAIN, *methods.ABLATIONS, *methods.TWISTED]
    found.sort(key=lambda r: order.index(r["method"]) if r["method"] in order else len(order))
    file = args.out / BEST
    best = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results = Results(found, best)
    print(tables(results, CHEAP))
    if args.plot:
        plot(results, args.plot)


def _names(known: Sequence[str]) -> Any:
    def read(text: str) -> list[str]:
        for name in (names := text.split(",")):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: expected some of {', '.join(known)}")
        return names

    return read


def _methods(text: str) -> list[str]:
    for name in (names := text.split(",")):
        if not methods.is_known(name):
            known = ", ".join([*methods.MAIN, *methods.ABLATIONS])
            twists = ", ".join(filter(None, methods.TWISTS))
            raise argparse.ArgumentTypeError(f"{name!r}: expected {known}; after a colon {twists}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", nargs="?", choices=("run", "report"), help="both by default")
    parser.add_argument("--tasks", type=_names(list(TASKS)), default=list(TASKS))
    parser.add_argument("--methods", type=_methods, help="all by default")
    parser.add_argument("--seeds", type=int, help="default: 10 on cheap tasks, 3 on the others")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="the results' folder")
    parser.add_argument("--force", action="store_true", help="search again what is done")
    parser.add_argument("--workers", type=int, default=2, help="processes; default 2")
    parser.add_argument("--plot", type=Path, help="draw the regrets into this file")
    args = parser.parse_args()
    if args.do != "report":
        try:
            run(args)
        except KeyboardInterrupt:
            sys.exit("\nstopped; the same command goes on")
    if args.do != "run":
        report(args)


if __name__ == "__main__":
    main()
