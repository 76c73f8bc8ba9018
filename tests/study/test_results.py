"""What is told to a study about a run."""

import math

import optuna
import pytest

from lrbench_hpo import create_study
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.study import results as outcomes
from lrbench_hpo.study.suggest import suggest_policy

MEMORY = "sqlite://"


def a_run(status="complete", **changes):
    fields = {
        "task": Task("digits", "mlp", batch_size=32),
        "policy": LRPolicy("FIX", k0=0.1),
        "max_iterations": 100,
        "status": status,
        "metrics": {"top1": 0.8, "iterations_to_best": 40, "loss_difference": -0.1},
        "curve": (CurvePoint(20, 0.1, 0.9, 0.8, 0.5),),
        "cost": {"seconds": 1.5},
        "notes": {"evaluation_samples": 360},
    }
    return Run(**{**fields, **changes})


def test_a_trial_keeps_what_is_known_of_its_run():
    study, run = optuna.create_study(), a_run()
    trial = study.ask()
    outcomes.note(trial, run, 0.7)
    kept = trial.user_attrs
    assert {name: kept[name] for name in run.metrics} == dict(run.metrics)
    assert (kept["status"], kept["score"], kept["run"]) == ("complete", 0.7, run.uid)
    assert (kept["cost"], kept["evaluation_samples"]) == ({"seconds": 1.5}, 360)
    assert kept == outcomes.attributes(run, "complete", 0.7)


def test_the_status_may_be_another_than_the_runs():
    """A trainer knows a run under way; only its host knows that it was cut."""
    assert outcomes.attributes(a_run("pruned"), "failed", 0.7)["status"] == "failed"


@pytest.mark.parametrize(
    ("status", "broken"),
    [("complete", 0.0), ("pruned", 0.0), ("failed", 0.0), ("diverged", 1.0)],
)
def test_only_divergence_breaks_the_constraint(status, broken):
    study = optuna.create_study()
    trial = study.ask()
    outcomes.note_divergence(trial, status)
    study.tell(trial, 0.0)
    assert study.trials[0].constraints == {outcomes.CONSTRAINT: broken}


def test_one_objective_is_the_score():
    assert outcomes.values(a_run(), 0.7, "score") == 0.7
    assert outcomes.values(a_run("diverged", metrics={}), -1.0, "score") == -1.0


def test_several_objectives_are_floats():
    """With whole numbers TPE raises at its next suggestion."""
    told = outcomes.values(a_run(), 0.7, "pareto")
    assert told == (0.8, 40.0, 0.1)
    assert all(type(value) is float for value in told)


def test_what_is_not_known_counts_as_worst_but_for_the_gap():
    assert outcomes.values(a_run(metrics={"top1": 0.8}), 0.7, "pareto") == (0.8, 100.0, 0.0)


def test_a_diverged_run_is_dominated_by_any_other():
    study = create_study("digits", "mlp", database=MEMORY, objective="pareto", seed=0)
    worst = a_run(
        metrics={"top1": 0.1, "iterations_to_best": 100, "loss_difference": 2.5},
    )
    for run in (a_run("diverged", metrics={"top1": math.nan}), worst):
        trial = study.ask()
        suggest_policy(trial)
        outcomes.note(trial, run, -1.0)
        study.tell(trial, outcomes.values(run, -1.0, "pareto"))
    assert [trial.number for trial in study.best_trials] == [1]


# Who won


def told(*ends):
    study = optuna.create_study(direction="maximize")
    for status, score in ends:
        trial = study.ask()
        if status != "failed":
            outcomes.note(trial, a_run(status), score)
        state = {"pruned": "PRUNED", "failed": "FAIL"}.get(status, "COMPLETE")
        value = score if state == "COMPLETE" else None
        study.tell(trial, value, optuna.trial.TrialState[state])
    return study


def test_the_best_score_wins_and_cut_or_diverged_ones_come_last():
    study = told(
        *(("complete", 0.5), ("pruned", 0.9), ("complete", 0.7), ("diverged", -1.0)),
        *(("failed", None), ("complete", 0.7)),
    )
    assert [trial.number for trial in outcomes.ranked_trials(study)] == [2, 5, 0, 1, 3]
    assert outcomes.winner(study).number == 2


@pytest.mark.parametrize(
    "ends", [(), (("pruned", 0.9),), (("diverged", -1.0),), (("failed", None),)]
)
def test_without_a_finished_trial_nobody_wins(ends):
    assert outcomes.winner(told(*ends)) is None


def test_what_was_tested_belongs_to_one_winner():
    study = told(("complete", 0.5), ("complete", 0.7))
    first, second = study.trials
    assert outcomes.tested(study, second) is None
    study.set_user_attr("test", {"trial": 1, "top1": 0.69})
    assert outcomes.tested(study, second) == {"trial": 1, "top1": 0.69}
    assert outcomes.tested(study, first) is None
