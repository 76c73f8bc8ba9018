"""``db show RUN``: one run in full, with its origin and its curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from lrbench_hpo import checks
from lrbench_hpo.cli import tables
from lrbench_hpo.database import Database, Origin
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.records.run import CurvePoint, Run

_ROWS = 12  # of a curve's table
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60  # bars of a curve's picture


def show(db: Database, prefix: str, *, as_json: bool) -> None:
    """Print the one run whose uid starts with a prefix.

    Raises:
        UnknownNameError: when there is no such run, or more than one.
    """
    run, origin = _the_one(db, prefix)
    if as_json:
        known = None if origin is None else origin.to_dict()
        click.echo(json.dumps({"uid": run.uid, "run": run.to_dict(), "origin": known}, indent=2))
        return
    console = tables.console()
    console.print(tables.table(f"Run {run.uid}", ("what", "value"), _facts(run, origin)))
    for title, values in (
        ("Metrics", run.metrics),
        ("Cost", run.cost),
        ("Environment", run.environment),
        ("Notes", run.notes),
    ):
        if values:
            rows = [(name, _value(value)) for name, value in values.items()]
            console.print(tables.table(title, ("name", "value"), rows))
    if run.curve:
        title = f"Curve: {_rows_of(len(run.curve))}"
        columns = (">iteration", ">LR", ">training loss", ">evaluation loss", ">Top-1")
        console.print(tables.table(title, columns, _curve_rows(run.curve)))
        console.print(tables.table("", ("curve", "from start to end", ">range"), _bars(run.curve)))


def _the_one(db: Database, prefix: str) -> tuple[Run, Origin | None]:
    found = db.lookup(prefix.lower(), limit=5)
    if len(found) == 1:
        return found[0]
    if not found:
        hint = "lrbench-hpo db show lists runs with the beginning of their uids"
        raise UnknownNameError(f"no run's uid starts with {prefix!r}: {hint}")
    some = ", ".join(run.uid for run, _ in found)
    raise UnknownNameError(f"several runs' uids start with {prefix!r}: give more of it: {some}")


def _facts(run: Run, origin: Origin | None) -> Iterator[tuple[str, str]]:
    for name, value in run.task.to_dict().items():
        if value is not None:
            yield f"task: {name.replace('_', ' ')}", _value(value)
    yield "policy", str(run.policy)
    yield "budget", f"{run.max_iterations:,} iterations"
    yield "seed", "-" if run.seed is None else str(run.seed)
    yield "split", run.split
    yield "status", run.status
    yield "source", run.source
    yield "created at", run.created_at
    steps = () if origin is None else origin.steps
    for number, step in enumerate(steps):
        parts = [f"{step.who}, {step.at}, lrbench_hpo {step.version}"]
        parts += [f"from {step.file}"] if step.file else []
        parts += [f"SHA-256 {step.checksum}"] if step.checksum else []
        yield "before that" if number else "stored by", ", ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    plain = checks.json_types(dict(value) if isinstance(value, Mapping) else value)
    return json.dumps(plain, ensure_ascii=False)


def _rows_of(points: int) -> str:
    return f"{points} points" if points <= _ROWS else f"{_ROWS} of {points:,} points"


def _curve_rows(curve: Sequence[CurvePoint]) -> Iterator[tuple[str, ...]]:
    for point in _spread(curve, _ROWS):
        yield (
            f"{point.iteration:,}",
            tables.number(point.lr, ".4g"),
            tables.number(point.train_loss, ".4g"),
            tables.number(point.eval_loss, ".4g"),
            tables.share(point.top1),
        )


def _bars(curve: Sequence[CurvePoint]) -> Iterator[tuple[str, str, str]]:
    """One line of bars for each field that has values; the LR on a logarithmic scale."""
    names = {"lr": "LR (log)", "train_loss": "training loss", "eval_loss": "evaluation loss"}
    for field, name in {**names, "top1": "Top-1"}.items():
        values = [getattr(point, field) for point in _spread(curve, _WIDTH)]
        known = [value for value in values if value is not None and (value > 0 or field != "lr")]
        if known:
            low, high = min(known), max(known)
            yield name, bars(values, log=field == "lr"), f"{low:.4g} to {high:.4g}"


def bars(values: Sequence[float | None], *, log: bool = False) -> str:
    """Draw values as a line of bars, and a missing value as a blank.

    >>> bars([0.0, None, 0.5, 1.0])
    '▁ ▅█'
    >>> bars([1e-4, 1e-2, 1.0], log=True)
    '▁▅█'
    """
    known = [value for value in values if value is not None and (value > 0 or not log)]
    scaled = [math.log(value) for value in known] if log else known
    low, high = min(scaled, default=0.0), max(scaled, default=0.0)
    heights = iter(scaled)
    line = ""
    for value in values:
        if value is None or (log and value <= 0):
            line += " "
            continue
        # Halves first: the distance between two huge numbers is infinite.
        share = (next(heights) / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0
        line += _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
    return line


def _spread(curve: Sequence[CurvePoint], count: int) -> list[CurvePoint]:
    """Pick at most `count` points at even distances, among them the first and the last."""
    if len(curve) <= count:
        return list(curve)
    step = (len(curve) - 1) / (count - 1)
    return [curve[round(number * step)] for number in range(count)]
