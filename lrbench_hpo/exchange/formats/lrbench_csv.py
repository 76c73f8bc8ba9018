"""Runs from LRBench-style CSV: per cent, one row a policy, drops with ``;`` between."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name, printable
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.errors import RecordError, UnknownNameError, why
from lrbench_hpo.exchange.files import Line
from lrbench_hpo.exchange.formats.csv_table import cells_of
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW
from lrbench_hpo.exchange.rows import UNKNOWN_TIME, ExchangeError, Found, Rejected, numbered
from lrbench_hpo.exchange.shares import as_share, without_shares
from lrbench_hpo.policies import ALL_FUNCTIONS, FUNCTIONS, LRPolicy
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.tasks import known_facts

SOURCE = "lrbench-csv"
_NEEDED = ("dataset", "model", "function", "k0", "top1")
_OPTIMIZER = ("optimizer", "momentum", "weight_decay")
_PER_CENT = {"top1": "top1", "top1_std": "top1_std", "top5": "top5"}
_AS_IT_IS = {"AC": "ac", "CD": "cd", "CDAC": "cdac", "LD": "loss_difference", "loss": "eval_loss"}
_NOTES = ("table", "n_runs", "flag", "note")
_KNOWN = {
    "dataset",
    "model",
    "framework",
    "function",
    "k0",
    "k1",
    "gamma",
    "p",
    "l",
    "n_iter_at_best",
    "max_iter",
    "epochs",
    "mean_best_epoch",
    "batch_size",
    "source",
    "table_as_cited",
    "iters_per_epoch",
    "init",
    "seed",
    "created_at",
    "split",
    *_OPTIMIZER,
    *_PER_CENT,
    *_AS_IT_IS,
    *_NOTES,
}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
# As in "SGD momentum 0.9 wd 1e-4".
_WORDS = re.compile(r"(momentum|wd|weight[_ ]decay)\s*+=?\s*+(\S+)", re.IGNORECASE)


def is_header(columns: Sequence[str]) -> bool:
    """Whether a file's first row names the columns of such a table.

    >>> is_header(["dataset", "model", "function", "k0", "top1"]), is_header(["step", "lr"])
    (True, False)
    """
    return {name.strip() for name in columns}.issuperset(_NEEDED)


def read(
    file: str, columns: Sequence[str], lines: Iterable[Line | Rejected]
) -> Iterator[Found | Rejected]:
    """The runs in the lines below a header; what they call per cent becomes shares.

    Iterations come from ``max_iter``, or from ``epochs`` where the data set's size and the batch
    size are known. Their ``source`` column is kept as a note. A row of the paper's tables is the
    one that every new database holds. If no Top-1 in the file is above 1, they are shares by
    mistake, and all are rejected.

    Args:
        file: its name.
        columns: the cells of its header.
        lines: of `InputFile.lines`, without the header.

    Raises:
        ExchangeError: for columns that are unknown, missing or there twice, before any row.
    """
    names = [name.strip() for name in columns]
    shown = printable(file)
    for name in names:
        if names.count(name) > 1:
            raise ExchangeError(f"{shown}: the column {name[:60]!r} is there twice")
        if name not in _KNOWN:
            raise ExchangeError(f"{shown}: unknown column {name[:60]!r}: no table of LRBench's")
    for name in _NEEDED:
        if name not in names:
            raise ExchangeError(f"{shown}: no column {name}: a row needs {', '.join(_NEEDED)}")
    return numbered(without_shares(_rows(file, names, lines)))


def _rows(
    file: str, names: list[str], lines: Iterable[Line | Rejected]
) -> Iterator[tuple[Found | Rejected, Rejected | None]]:
    """The rows, each with what it is if all of them are shares."""
    for line in lines:
        if isinstance(line, Rejected):
            yield line, None
            continue
        try:
            cells = [cell.strip() for cell in cells_of(line.text)]
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise RecordError(f"expected {len(names)} cells, got {len(cells)}")
            run = _run({name: cell for name, cell in zip(names, cells, strict=True) if cell})
            _ = run.uid  # what cannot be hashed is refused here
            found = Found(_published().get(_key(run), run), place=line.place)
            share = as_share(file, line.place, "Such tables hold per cent: 93, not 0.93", line.text)
            yield found, share
        except (*BAD_ROW, InvalidOperation) as error:
            yield line.rejected(file, why(error)), None


@cache
def _published() -> Mapping[tuple[Any, ...], Run]:
    """The paper's rows, which every database has: imported again, they are no new evidence."""
    return {_key(run): run for run in paper_runs()}


def _key(run: Run) -> tuple[Any, ...]:
    task, metrics = run.task, run.metrics
    measured = tuple(metrics.get(name) for name in ("top1", "iterations_to_best"))
    names = canonical_name(task.dataset), canonical_name(task.model), run.notes.get("table")
    return (*names, run.policy.fingerprint, run.max_iterations, *measured)


def _run(row: Mapping[str, str]) -> Run:
    task = _task(row)
    per_epoch = _per_epoch(row, task)
    metrics = {
        ours: _finite(name, row[name], float(Decimal(_checked(name, row[name])) / 100))
        for name, ours in _PER_CENT.items()
        if name in row
    }
    metrics |= {ours: _number(name, row[name]) for name, ours in _AS_IT_IS.items() if name in row}
    if "n_iter_at_best" in row:
        metrics["iterations_to_best"] = _whole("n_iter_at_best", row["n_iter_at_best"])
    elif "mean_best_epoch" in row and per_epoch is not None:
        epoch = _number("mean_best_epoch", row["mean_best_epoch"])
        metrics["iterations_to_best"] = round(epoch * per_epoch)
    return Run(
        task=task,
        policy=_policy(row),
        max_iterations=_budget(row, per_epoch),
        seed=_whole("seed", row["seed"]) if "seed" in row else None,
        split=row.get("split", "test"),  # LRBench measures on the test split
        metrics=metrics,
        source=SOURCE,
        created_at=row.get("created_at", UNKNOWN_TIME),
        notes=_notes(row),
    )


def _notes(row: Mapping[str, str]) -> dict[str, Any]:
    notes: dict[str, Any] = {name: row[name] for name in _NOTES if name in row}
    if "n_runs" in row:
        notes["n_runs"] = _whole("n_runs", row["n_runs"])
    if "source" in row:
        notes["from"] = row["source"]
    return notes


def _task(row: Mapping[str, str]) -> Task:
    for name in ("dataset", "model", "function", "k0", "top1"):
        if name not in row:
            raise RecordError(f"{name} is missing: a row needs {', '.join(_NEEDED)}")
    fields = known_facts(row["dataset"], row["model"]) | _optimizer(row)
    fields |= {name: row.get(name) for name in ("framework", "init")}
    if "batch_size" in row:
        fields["batch_size"] = _whole("batch_size", row["batch_size"])
    return Task(
        row["dataset"],
        row["model"],
        **fields,
    )


def _optimizer(row: Mapping[str, str]) -> dict[str, Any]:
    text = row.get("optimizer", "")
    fields: dict[str, Any] = {}
    for word, value in _WORDS.findall(text):
        name = "momentum" if word.lower() == "momentum" else "weight_decay"
        fields[name] = _number(name, value)
    if name := _WORDS.sub("", text).strip(" ,;"):
        fields["optimizer"] = name
    for column in ("momentum", "weight_decay"):
        if column in row:
            fields[column] = _number(column, row[column])
    return fields


def _per_epoch(row: Mapping[str, str], task: Task) -> float | None:
    """Iterations of an epoch, if they are known."""
    if "iters_per_epoch" in row:
        return _number("iters_per_epoch", row["iters_per_epoch"])
    if task.num_train is None or task.batch_size is None:
        return None
    return math.ceil(task.num_train / task.batch_size)


def _budget(row: Mapping[str, str], per_epoch: float | None) -> int:
    if "max_iter" in row:
        return _whole("max_iter", row["max_iter"])
    if "epochs" not in row:
        raise RecordError("max_iter is missing: add that column, or epochs and batch_size")
    if per_epoch is None:
        raise RecordError("epochs cannot be told in iterations: add a column iters_per_epoch")
    return max(1, round(_number("epochs", row["epochs"]) * per_epoch))


def _policy(row: Mapping[str, str]) -> LRPolicy:
    if row["function"] not in FUNCTIONS:
        raise UnknownNameError.among("LR function", row["function"][:60], ALL_FUNCTIONS)
    values: dict[str, Any] = {
        name: _number(name, row[name]) for name in ("k0", "k1", "gamma", "p") if name in row
    }
    if "l" in row:
        steps = [_number("l", step) for step in row["l"].split(";") if step.strip()]
        values["l"] = steps if row["function"] == "NSTEP" else _only(row["l"], steps)
    return LRPolicy(row["function"], **values)


def _only(text: str, steps: list[float]) -> float:
    if len(steps) != 1:
        checks.refuse("l", text, "expected one number: only NSTEP takes several")
    return steps[0]


def _checked(name: str, cell: str) -> str:
    if len(cell) > 40 or not _NUMBER.fullmatch(cell.strip()):
        checks.refuse(name, cell, "expected a number")
    return cell.strip()


def _number(name: str, cell: str) -> float:
    return _finite(name, cell, float(_checked(name, cell)))


def _finite(name: str, cell: str, value: float) -> float:
    if not math.isfinite(value):
        checks.refuse(name, cell, "expected a finite number")
    return value


def _whole(name: str, cell: str) -> int:
    value = _number(name, cell)
    if not float(value).is_integer():
        checks.refuse(name, cell, "expected a whole number")
    return int(value)
