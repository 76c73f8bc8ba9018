"""What a prior wants of most runs: the policy, and how good it was. Whole runs take much longer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import reading, tables
from lrbench_hpo.database.failures import BadRowError, left_out
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.database.rows import BAD_VALUE
from lrbench_hpo.errors import why
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Task
from lrbench_hpo.records.score import score

_MEASURED = ("top1", "iterations_to_best", "loss_difference")
_COLUMNS = ("id", "policy", "max_iterations", "split", "status", "source", *_MEASURED)


@dataclass(frozen=True)
class Outcome:
    """What a run showed.

    Attributes:
        policy: its LR policy.
        max_iterations: its budget, in iterations.
        score: `lrbench_hpo.score` with its default weights; None if it diverged.
    """

    policy: LRPolicy
    max_iterations: int
    score: float | None


def is_evidence(split: str, status: str, source: str) -> bool:
    """Whether a run is evidence: it ended by itself, and was not measured on its own test split.

    A pruned run shows less than its policy can do, a failed one nothing. Own policies are
    selected on validation; the papers selected on test, and say so.

    Args:
        split: where it was measured.
        status: how it ended.
        source: who measured it.

    >>> is_evidence("test", "complete", "ann"), is_evidence("validation", "diverged", "ann")
    (False, True)
    """
    selected = split == "validation" or (split == "test" and source == PAPER)
    return selected and status in {"complete", "diverged"}


def outcomes(
    connection: sa.Connection, tasks: Sequence[Task], limit: int, sources: Sequence[str] | None
) -> list[Outcome]:
    """`Database.outcomes`."""
    columns = [tables.runs.c[name] for name in _COLUMNS]
    found = []
    for row in reading.best_then_newest(connection, columns, tasks, limit, sources):
        if is_evidence(row["split"], row["status"], row["source"]):
            with left_out():
                found.append(_outcome(row))
    return found


def _outcome(row: sa.RowMapping) -> Outcome:
    try:
        budget = checks.whole("run.max_iterations", row["max_iterations"])
        policy = _policy(row["policy"])
        measured = {name: row[name] for name in _MEASURED}
        known = None if row["status"] == "diverged" else score(max_iterations=budget, **measured)
    except BAD_VALUE as error:
        raise BadRowError(f"run {row['id']}", why(error)) from None
    return Outcome(policy, budget, known)


@lru_cache(maxsize=4096)  # the same policies come again with other seeds, and at the next reading
def _policy(text: str) -> LRPolicy:
    return LRPolicy.from_dict(json.loads(text))
