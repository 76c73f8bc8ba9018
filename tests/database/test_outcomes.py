"""``Database.outcomes``: what a prior reads of many runs."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lrbench_hpo.database import Database, Outcome
from lrbench_hpo.database.outcomes import is_evidence
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import SPLITS, STATUSES, Run, Task
from lrbench_hpo.records.score import WORST_SCORE, score_run


def outcome_of(run: Run) -> Outcome:
    return Outcome(
        run.policy, run.max_iterations, score_run(run) if run.status == "complete" else None
    )


def says(run: Run) -> bool:
    return is_evidence(run.split, run.status, run.source)


def mixed(make_run) -> list[Run]:
    """Runs of every status, split and source, some without what a score is made of."""
    kinds = [(status, split, s) for status in STATUSES for split in SPLITS for s in ("ann", "ben")]
    return [
        make_run(
            number,
            status=status,
            split=split,
            source=source,
            policy=LRPolicy("FIX", k0=0.001 * (1 + number % 7)),
            max_iterations=1000 + number,
            metrics=[
                {"top1": number / 100, "iterations_to_best": 900, "loss_difference": -0.1},
                {"top1": number / 100},
                {},
            ][number // 5 % 3],
        )
        for number, (status, split, source) in enumerate(3 * kinds)
    ]


@pytest.mark.parametrize("limit", [1, 2, 15, 40, 1000])
@pytest.mark.parametrize("sources", [None, ["ann"], ["ben", "cid"], []])
def test_they_are_those_of_evidence_in_its_order(db: Database, make_run, limit, sources) -> None:
    runs = mixed(make_run)
    db.add(*runs)
    task = runs[0].task
    wanted = [outcome_of(run) for run in db.evidence(task, limit, sources) if says(run)]
    assert db.outcomes([task], limit, sources) == wanted
    if limit == 1000 and sources is None:
        counted = sum(1 for run in runs if says(run))
        assert len(wanted) == counted == 12
        assert {outcome.score for outcome in wanted} >= {None, WORST_SCORE}


def test_tasks_that_differ_in_their_reference_lr_are_one(db: Database, make_run) -> None:
    tasks = [dataclasses.replace(make_run().task, reference_lr=lr) for lr in (None, 0.1, 0.2)]
    db.add(*(make_run(n, task=task, metrics={"top1": n / 9}) for n, task in enumerate(tasks)))
    assert len(db.outcomes(tasks, 10)) == 3
    assert len(db.outcomes(tasks[:1], 10)) == 1
    assert db.outcomes([Task("never", "seen")], 10) == []


def test_published_rows_count_though_they_are_of_the_test_split(db: Database) -> None:
    [task] = [task for task in db.tasks() if task.model == "LeNet"]
    found = db.outcomes([task], 100, [PAPER])
    assert len(found) == len(db.find("mnist", "lenet"))
    assert all(outcome.score is not None and outcome.score > 0.98 for outcome in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("policy = 'nonsense'", "not JSON|Expecting value"),
        ("policy = '[]'", "policy"),
        ('policy = \'{"function": "FIX", "k0": -1}\'', "k0=-1"),
        ("top1 = 93.1", "top1=93.1"),
        ("iterations_to_best = 5000", "iterations_to_best=5000"),
        ("max_iterations = 0", "max_iterations=0"),
    ],
)
def test_a_row_that_breaks_a_rule_is_left_out(
    db: Database, make_run, database_url, sql, change, says
) -> None:
    db.add(*(make_run(n, metrics={"top1": 0.5 + n / 10}) for n in range(3)))
    sql(database_url, f"UPDATE lrbench_runs SET {change} WHERE seed = 1")  # noqa: S608
    with pytest.warns(UserWarning, match=f"breaks a rule: .*({says}).*; it is left out"):
        found = db.outcomes([make_run().task], 10)
    assert found == [outcome_of(make_run(n, metrics={"top1": 0.5 + n / 10})) for n in (2, 0)]


def test_a_score_that_was_not_finite_is_the_worst(db: Database, make_run) -> None:
    db.add(make_run(1, metrics={"top1": 0.9, "loss_difference": math.inf}))
    [found] = db.outcomes([make_run().task], 10)
    [run] = db.evidence(make_run().task, 10)
    assert found.score == score_run(run)
