"""Runs from what other people's trainables report: nothing invented, nothing that breaks a rule."""

import math
import pickle

import pytest

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.records.reported_runs import Reports, diverged, reported_run

POLICY = LRPolicy("FIX", k0=0.1)


def reports_of(*results):
    reports = Reports()
    for count, result in enumerate(results, 1):
        reports.add({"training_iteration": count, **result})
    return reports


def run_of(reports, config=None, status="complete", result=None, **fields):
    names = {"dataset": "digits", "model": "mlp"}
    return reported_run(
        config or {}, POLICY, reports, status, **names, result=result or {}, **fields
    )


def test_metrics_are_those_of_the_best_report_and_the_curve_has_them_all():
    reports = reports_of(
        {"iteration": 10, "top1": 0.5, "train_loss": 1.0, "eval_loss": 1.5, "lr": 0.1, "other": 7},
        {"iteration": 20, "top1": 0.8, "train_loss": 0.5, "eval_loss": 0.75},
        {"iteration": 30, "top1": 0.8, "train_loss": 0.25, "eval_loss": math.nan},
    )
    run = run_of(reports, budget=30)
    assert run.metrics == {
        "top1": 0.8,
        "train_loss": 0.5,
        "eval_loss": 0.75,
        "loss_difference": 0.25,
        "iterations_to_best": 20,
        "final_top1": 0.8,
    }
    assert [(p.iteration, p.lr, p.top1) for p in run.curve] == [
        (10, 0.1, 0.5),
        (20, None, 0.8),
        (30, None, 0.8),
    ]
    assert run.curve[-1].eval_loss is None
    assert pickle.loads(pickle.dumps(reports)) == reports  # noqa: S301


def test_a_trainable_that_keeps_the_best_itself_is_believed():
    first = {"iteration": 10, "top1": 0.9, "iterations_to_best": 10}
    run = run_of(reports_of(first, {**first, "iteration": 20, "ac": 0.5}), budget=20)
    assert (run.metrics["iterations_to_best"], run.metrics["ac"]) == (10, 0.5)


def test_a_trial_that_goes_back_to_a_checkpoint_reports_again():
    reports = reports_of(*({"iteration": i, "top1": 0.1 * i} for i in (1, 2, 3, 2, 3, 4)))
    assert [point.iteration for point in run_of(reports).curve] == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [97.5, -0.1, "0.9", None, True, [0.9], math.inf])
def test_values_that_are_no_top1_are_left_out(value):
    reports = reports_of({"iteration": 10, "top1": value, "ac": 0.5})
    run = run_of(reports)
    assert run.metrics == {"ac": 0.5}
    assert ("per cent" in reports.complaints.get("top1", "")) == (value in (97.5, -0.1))


def test_counted_reports_are_no_iterations_unless_nothing_else_is_known():
    reports = reports_of({"top1": 0.5}, {"top1": 0.6})
    unknown = run_of(reports)
    assert (unknown.max_iterations, len(unknown.curve)) == (2, 2)
    assert unknown.metrics["iterations_to_best"] == 2
    known = run_of(reports, budget=1000)
    assert (known.max_iterations, known.curve) == (1000, ())
    assert known.metrics == {"top1": 0.6, "final_top1": 0.6}


def test_a_budget_that_was_exceeded_is_as_large_as_what_was_done():
    run = run_of(reports_of({"iteration": 50, "iterations_to_best": 70}), budget=30)
    assert run.max_iterations == 50
    assert "iterations_to_best" not in run.metrics


def test_what_the_config_says_of_the_task_counts_where_it_makes_sense():
    config = {"batch_size": 50, "optimizer": "Lion", "momentum": "high", "weight_decay": [1]}
    task = run_of(Reports(), {**config, "task": {"init": "zeros", "colour": "red"}}).task
    assert (task.batch_size, task.optimizer, task.init) == (50, "lion", "zeros")
    assert (task.num_classes, task.momentum) == (10, 0.9)


def test_cost_and_split_come_from_the_last_report():
    result = {"time_total_s": 3.5, "rss_mib": 100.0, "gpu_percent": math.nan, "split": "test"}
    run = run_of(Reports(), result=result, status="failed", seed=3)
    assert run.cost == {"seconds": 3.5, "rss_mib": 100.0}
    assert (run.split, run.status, run.seed, run.curve) == ("test", "failed", 3, ())


def test_very_many_reports_are_thinned_and_the_best_stays():
    reports = reports_of(*({"iteration": i, "top1": 0.9 if i == 777 else 0.5} for i in range(7000)))
    run = run_of(reports, budget=7000)
    assert len(run.curve) <= 2000
    assert run.metrics["iterations_to_best"] == 777
    assert run.curve[-1].iteration == 6999


def test_a_report_with_a_loss_that_is_no_number_diverged():
    assert diverged({"eval_loss": math.nan})
    assert diverged({"mine": math.inf}, "mine")
    assert not diverged({"mine": math.inf, "train_loss": None, "loss": "nan"})


def test_bad_names_are_refused():
    with pytest.raises(LRBenchError, match=r"task\.dataset"):
        reported_run({}, POLICY, Reports(), "failed", dataset="", model="mlp", result={})
