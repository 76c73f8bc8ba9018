"""The published LRBench results, which every new database holds.

Source of the figures: Wu et al. 2019, "Demystifying Learning Rate Policies for High Accuracy
Training of Deep Neural Networks", arXiv 1908.06477; the tables are named in each run's notes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run, Task

SOURCE = "lrbench-paper"
PUBLISHED = "2019-08-18T00:00:00Z"  # the day of the preprint: the same in every database
ASSUMED_HALF_CYCLE = 2_000  # of TRI2 rows printed without l; the value of Tables VIII and IX

_PER_CENT = {"top1": "top1", "top1_std": "top1_std", "top5": "top5"}
_AS_PRINTED = {"AC": "ac", "CD": "cd", "CDAC": "cdac", "LD": "loss_difference"}


def paper_runs() -> list[Run]:
    """The paper's 61 rows, shares instead of per cent, flags and notes kept.

    >>> len(paper_runs())
    61
    """
    return list(_paper_runs())


@cache
def _paper_runs() -> tuple[Run, ...]:
    tasks = {(row["dataset"], row["model"]): _task(row) for row in _read("paper_tasks.csv")}
    rows = _read("paper_rows.csv")
    return tuple(_run(row, tasks[row["dataset"], row["model"]]) for row in rows)


@cache
def published_uids() -> frozenset[str]:
    """The uids of the paper's rows, by which they are known wherever they come from."""
    return frozenset(run.uid for run in paper_runs())


def claims_paper(source: str) -> bool:
    """Whether a source is the paper's, however it is written.

    >>> claims_paper("LRBench paper"), claims_paper("local")
    (True, False)
    """
    return canonical_name(source) == canonical_name(SOURCE)


def refuse_false_claim(source: str, uid: str | None = None) -> None:
    """Refuse the paper's name for what is not in it: published rows count without being asked for.

    Raises:
        RecordError: for such a source.
    """
    if claims_paper(source) and uid not in published_uids():
        checks.refuse("source", source, "the published rows' alone: take another name")


def _read(name: str) -> Iterator[dict[str, str]]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


def _task(row: Mapping[str, str]) -> Task:
    texts = ("dataset", "model", "framework", "optimizer", "init")
    wholes = ("num_classes", "num_train", "num_parameters", "batch_size")
    numbers = ("momentum", "weight_decay", "reference_lr")
    fields: dict[str, Any] = {name: row[name] for name in texts}
    fields |= {name: int(row[name]) for name in wholes}
    fields |= {name: float(row[name]) for name in numbers}
    channels, height, width = row["image_shape"].split("x")
    return Task(**fields, image_shape=(int(channels), int(height), int(width)))


def _run(row: Mapping[str, str], task: Task) -> Run:
    notes: dict[str, Any] = {
        "table": row["table"],
        "table_as_cited": row["table_as_cited"],
        "policy_from": row["source"],
        "n_runs": int(row["n_runs"]) if row["n_runs"] else None,
        "flags": row["flag"].split(";") if row["flag"] else [],
        "note": row["note"] or None,
    }
    if row["function"] == "TRI2" and not row["l"]:
        notes["l_assumed"] = True
    return Run(
        task=task,
        policy=_policy(row),
        max_iterations=int(row["max_iter"]),
        split="test",  # the paper selects on test, and these are its figures
        metrics=_metrics(row),
        source=SOURCE,
        created_at=PUBLISHED,
        notes=notes,
    )


def _policy(row: Mapping[str, str]) -> LRPolicy:
    numbers: dict[str, Any] = {
        name: float(row[name]) for name in ("k0", "k1", "gamma", "p") if row[name]
    }
    steps: Any = [int(step) for step in row["l"].split(";") if step]
    if row["function"] != "NSTEP":
        steps = steps[0] if steps else None
    if row["function"] == "TRI2" and steps is None:
        steps = ASSUMED_HALF_CYCLE
    return LRPolicy(row["function"], l=steps or None, **numbers)


def _metrics(row: Mapping[str, str]) -> dict[str, float | None]:
    shares = {
        name: float(Decimal(row[column]) / 100) for column, name in _PER_CENT.items() if row[column]
    }
    printed = {name: float(row[column]) for column, name in _AS_PRINTED.items() if row[column]}
    reached = row["n_iter_at_best"]
    if reached:
        printed["iterations_to_best"] = int(reached)
    return {**shares, **printed}
