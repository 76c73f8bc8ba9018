"""Stored runs of a task, ranked within groups that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import Database, opened
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.records.ranking import PolicyResult, Ranked, rank_policies, results_by_policy
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import ScoreWeights, score_run

MOST_RUNS = 20_000  # the newest of a task that are read: a few seconds of work
_TOP1_ONLY = ScoreWeights(iterations=0, loss_difference=0)
_MEASURES: Mapping[str, Callable[[Run], float]] = {
    "score": score_run,
    "top1": lambda run: score_run(run, _TOP1_ONLY),
}


@dataclass(frozen=True)
class Leaderboard:
    """Policies with the same task, budget, split and origin, best first.

    Attributes:
        title: what they have in common.
        ranked: the policies; those within the noise of the best of their group share its rank.
    """

    title: str
    ranked: Sequence[Ranked]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "title": self.title,
            "ranked": [
                {
                    "rank": entry.rank,
                    "policy": entry.policy.to_dict(),
                    "score": entry.mean,
                    "std": entry.std,
                    "runs": entry.n,
                }
                for entry in self.ranked
            ],
        }


def leaderboards(
    dataset: str,
    model: str,
    *,
    database: str | Path | Database | None = None,
    limit: int | None = None,
    by: str = "score",
) -> list[Leaderboard]:
    """Rank what is stored of a task, noise-aware, newest group first.

    Only runs with the same optimizer, momentum, weight decay, batch size, budget, split and source
    are compared. Pruned runs are left out. Of a task with very many runs the newest 20,000 count.

    Args:
        dataset: name of the data set.
        model: name of the model.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        limit: policies in a group at most.
        by: ``score``, or ``top1`` alone.

    Raises:
        UnknownNameError: when nothing is stored of that task, or for another measure.

    >>> board = leaderboards("mnist", "lenet", database="sqlite://", by="top1")[0]
    >>> [(entry.rank, entry.policy.function) for entry in board.ranked[:4]]
    [(1, 'SIN2'), (1, 'COS'), (1, 'SIN'), (4, 'TRI2')]
    """
    if by not in _MEASURES:
        raise UnknownNameError.among("measure", by, _MEASURES)
    with opened(database) as db:
        runs = db.find(dataset, model, limit=MOST_RUNS)
        if not runs:
            known = dict.fromkeys(f"{t.dataset} {t.model}" for t in db.tasks())
            raise UnknownNameError.among(
                "task", f"{dataset} {model}", known, "Nothing is stored of it: tune it first"
            )
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        task = run.task
        recipe = (task.optimizer, task.momentum, task.weight_decay, task.batch_size)
        same = (run.source, *recipe, run.max_iterations, run.split)
        groups.setdefault(same, []).append(run)
    return [
        Leaderboard(_title(group[0]), rank_policies(_results(group, by), _samples(group))[:limit])
        for group in groups.values()
    ]


def _title(run: Run) -> str:
    task = run.task
    return (
        f"{canonical_name(task.dataset)} / {canonical_name(task.model)}, {run.source}: "
        f"{run.max_iterations:,} iterations, batch {task.batch_size}, {task.optimizer}, "
        f"{run.split} split"
    )


def _results(runs: Iterable[Run], by: str) -> list[PolicyResult]:
    """One result a policy: published means with their deviation, own runs gathered over seeds."""
    measure = _MEASURES[by]
    published: dict[str, PolicyResult] = {}
    seeds: dict[tuple[str, int | None, str], Run] = {}
    for run in runs:
        key = run.policy.fingerprint
        count = _count(run, "n_runs")
        if run.status == "pruned":
            continue
        if run.source == PAPER or count is not None:
            result = PolicyResult(run.policy, measure(run), run.metrics.get("top1_std"), count or 1)
            if key not in published or result.n > published[key].n:
                published[key] = result
        else:
            # The same seed again gives the same numbers: it is no second opinion.
            again = "" if run.seed is not None else run.uid
            seeds.setdefault((key, run.seed, again), run)
    own = results_by_policy((run.policy, measure(run)) for run in seeds.values())
    return [*published.values(), *own]


def _samples(runs: Iterable[Run]) -> int | None:
    """How many samples the runs were evaluated on, where it is recorded."""
    counts = (_count(run, "evaluation_samples") for run in runs)
    return min((count for count in counts if count is not None), default=None)


def _count(run: Run, note: str) -> int | None:
    """A number among a run's notes, which may hold anything."""
    value = run.notes.get(note)
    return value if isinstance(value, int) and value >= 1 else None
