"""What a trial reports, and what its last report says of how it ended."""

import json
import math

import numpy as np
import pytest

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import (
    COSTS,
    KNOWN_METRICS,
    METRICS,
    RUN,
    TrialOutcome,
    best_evaluation,
    final_status,
    finite,
    position,
    report,
    run_in,
)
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.records.score import ScoreWeights, score_run

POLICIES = (
    LRPolicy("FIX", k0=0.1),
    LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[50, 80]),
    LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.999, l=20),
)


def a_run(policy=POLICIES[0], **changes):
    fields = {
        "task": Task("digits", "mlp", batch_size=32),
        "policy": policy,
        "max_iterations": 100,
        "status": "pruned",
        "metrics": {"top1": 0.8, "iterations_to_best": 40, "loss_difference": 0.1},
        "curve": (CurvePoint(20, 0.1, 0.9, 0.8, 0.5), CurvePoint(40, 0.2, 0.4, 0.5, 0.8)),
        "cost": {"seconds": 1.5},
    }
    return Run(**{**fields, **changes})


# What a report holds


def test_a_report_says_how_far_and_how_good():
    run = a_run()
    told = report(run, ScoreWeights(), finished=False)
    assert told["score"] == score_run(run, ScoreWeights())
    assert (told["iteration"], told["lr"], told["max_iterations"]) == (40, 0.2, 100)
    assert (told["progress"], told["status"], told["seconds"]) == (0.4, "running", 1.5)
    assert set(METRICS) <= set(told)
    assert told["top5"] is None


def test_weights_change_only_the_score():
    run = a_run()
    plain, dear = (report(run, ScoreWeights(iterations=w), finished=True) for w in (0.005, 0.5))
    assert dear.pop("score") < plain.pop("score")
    assert dear == plain


@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_a_finished_run_says_how_it_ended(status):
    assert report(a_run(status=status), ScoreWeights(), finished=True)["status"] == status


def test_every_policy_and_status_reports_the_same_keys():
    """Keys that come and go would be columns with holes in a host's table of trials."""
    diverged = a_run(status="diverged", metrics={}, curve=(CurvePoint(20),))
    reports = [report(a_run(policy), ScoreWeights(), finished=False) for policy in POLICIES]
    reports.append(report(diverged, ScoreWeights(), finished=True))
    assert len({tuple(told) for told in reports}) == 1


def test_a_report_is_flat_json_with_the_run_in_it():
    run = a_run(POLICIES[1])
    told = report(run, ScoreWeights(), finished=False)
    assert not any(isinstance(value, (dict, list)) for value in told.values())
    assert run_in(json.loads(json.dumps(told))) == run


def test_other_peoples_reports_hold_no_run():
    assert run_in({"score": 0.9}) is None
    assert run_in({RUN: None}) is None


# Numbers that anybody may report


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.float64(3), np.int64(3)])
def test_numbers_of_all_makes(value):
    known = finite(value)
    assert known == 3.0
    assert type(known) is float


@pytest.mark.parametrize(
    "value", [None, math.nan, math.inf, -math.inf, np.float64("nan"), True, "3", [3]]
)
def test_what_is_no_finite_number(value):
    assert finite(value) is None


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({}, None),
        ({"iteration": 400, "training_iteration": 2}, 400),
        ({"iteration": None, "training_iteration": 2}, 2),
        ({"iteration": math.nan, "training_iteration": 2}, 2),
        ({"iteration": -1, "training_iteration": 2}, 2),
        ({"iteration": 0, "training_iteration": 1}, 0),
        ({"iteration": np.int64(7)}, 7),
    ],
)
def test_how_far_a_report_is(result, expected):
    assert position(result) == expected


def test_the_end_keeps_known_metrics_only():
    end = TrialOutcome.from_report(
        {"score": 0.7, "top1": 0.8, "top5": None, "eval_loss": math.nan, "mine": 3, "iteration": 9},
        "pruned",
        "score",
        100,
    )
    assert (end.status, end.value, end.iteration, end.max_iterations) == ("pruned", 0.7, 9, 100)
    assert end.metrics == {"top1": 0.8, "eval_loss": None}
    assert end.run is None


def test_the_end_takes_the_metrics_of_the_run():
    run = a_run(metrics={"top1": 0.8, "iterations_to_best": 40, "epochs": 2.0})
    last = report(run, ScoreWeights(), finished=False)
    end = TrialOutcome.from_report(last, "pruned", "top1", 100)
    assert end.run == run
    assert end.metrics == run.metrics
    assert end.value == 0.8


def test_the_end_of_a_trial_without_reports():
    end = TrialOutcome.from_report({}, "failed", "score", 100)
    assert (end.value, end.iteration, end.metrics, end.run) == (None, None, {}, None)


# How a trial ended


@pytest.mark.parametrize("finished", ["complete", "diverged"])
def test_the_trainers_own_word_counts(finished):
    told = report(a_run(status=finished), ScoreWeights(), finished=True)
    assert final_status({**told, "done": True}, metric="score", budget=100) == finished


def test_a_run_that_was_under_way_is_pruned_however_it_ended():
    told = report(a_run(), ScoreWeights(), finished=False)
    for done in (True, False):
        for cut in (True, False):
            assert final_status({**told, "done": done}, budget=100, cut=cut) == "pruned"


def test_an_error_is_a_failure_whatever_was_reported():
    told = report(a_run(status="complete"), ScoreWeights(), finished=True)
    assert final_status(told, error=True) == "failed"
    assert final_status(None, error=True) == "failed"


@pytest.mark.parametrize("result", [None, {}])
def test_nothing_reported_is_no_result(result):
    assert final_status(result, metric="score", budget=100) == "pruned"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.9, "complete"),
        (np.float32(0.9), "complete"),
        (math.nan, "diverged"),
        (math.inf, "diverged"),
        (-math.inf, "diverged"),
        (np.float64("nan"), "diverged"),
        (None, "failed"),
        ("high", "failed"),
    ],
)
def test_the_metric_decides(value, expected):
    last = {"score": value, "iteration": 100, "done": True}
    assert final_status(last, metric="score") == expected


def test_without_a_metric_only_the_iteration_tells():
    assert final_status({"iteration": 99, "done": True}, budget=100) == "pruned"
    assert final_status({"iteration": 100, "done": True}, budget=100) == "complete"
    assert final_status({"iteration": 101, "done": True}, budget=100) == "complete"


@pytest.mark.parametrize("cut", [True, False])
def test_the_iteration_tells_cut_from_finished(cut):
    """A trial that ASHA cut completes with done=True like any other."""
    early = {"score": 0.5, "iteration": 40, "training_iteration": 2, "done": True}
    whole = {**early, "iteration": 100}
    assert final_status(early, metric="score", budget=100, cut=cut) == "pruned"
    assert final_status(whole, metric="score", budget=100, cut=cut) == "complete"


def test_without_iterations_the_way_it_ended_tells():
    last = {"score": 0.5, "training_iteration": 2, "done": True}
    assert final_status(last, metric="score", budget=100, cut=False) == "complete"
    assert final_status(last, metric="score", budget=100, cut=True) == "pruned"
    assert final_status({**last, "done": False}, metric="score", budget=100) == "pruned"
    assert final_status(last, metric="score", budget=2, cut=True) == "complete"


def test_the_experiments_stopping_criteria_are_an_end():
    last = {"score": 0.5, "training_iteration": 2, "done": True}
    told = {"metric": "score", "budget": 100, "cut": True}
    assert final_status(last, stop={"training_iteration": 2}, **told) == "complete"
    assert final_status(last, stop={"training_iteration": 3}, **told) == "pruned"
    assert final_status(last, stop={"score": 0.5}, **told) == "complete"
    assert final_status(last, stop={"unknown": 0.5}, **told) == "pruned"


def test_a_mean_over_seeds_is_complete():
    """Ray's Repeater tells one number and nothing else."""
    assert final_status({"score": 0.5}, metric="score", budget=100, cut=False) == "complete"


def test_the_best_evaluation_is_the_first_with_the_highest_top1():
    curve = [CurvePoint(i, top1=top1) for i, top1 in enumerate((None, 0.0, 0.5, 0.9, 0.9, None))]
    assert best_evaluation(curve) is curve[3]
    assert best_evaluation(curve[:2]) is curve[1]
    assert best_evaluation(curve[:1]) is best_evaluation([]) is None
    reports = [{"top1": 0.5}, {"iteration": 2}]
    assert best_evaluation(reports, lambda each: each.get("top1")) is reports[0]


def test_names_of_metrics_and_costs():
    assert set(KNOWN_METRICS) - set(METRICS) == {"top1_std"}
    costs = dict.fromkeys(COSTS, 1.0)
    run = Run(Task("digits", "mlp"), POLICIES[0], 100, metrics=dict.fromkeys(KNOWN_METRICS, 0.5))
    assert set(run.metrics) == set(KNOWN_METRICS)
    assert set(report(a_run(cost=costs), ScoreWeights(), finished=True)) >= {*METRICS, *COSTS}
