"""A study that somebody else runs: every trial is told once, whatever happened to it."""

import math
import pickle
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from lrbench_hpo import create_study
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import TrialOutcome, report
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.study import results as outcomes
from lrbench_hpo.study.ask_tell import CROWD, AskTell
from lrbench_hpo.study.points import read_point
from lrbench_hpo.study.suggest import suggest_policy

MEMORY = "sqlite://"
OWN = {
    "decay": FloatDistribution(1e-5, 1e-1, log=True),
    "data/kind": CategoricalDistribution(("a", "b")),
}
METRICS = {"top1": 0.8, "iterations_to_best": 40.0, "loss_difference": -0.1}


def made(own=None, objective="score", sign=1, **options):
    options = {"seed": 0, "max_iterations": 100, **options}
    study = create_study("digits", "mlp", database=MEMORY, objective=objective, **options)
    return AskTell(study, own or {}, sign=sign)


def end(status="complete", value=0.7, iteration=100, metrics=METRICS, run=None):
    return TrialOutcome(status, metrics, 100, iteration, value, run)


def states(trials):
    return [trial.state.name for trial in trials.study.get_trials(deepcopy=False)]


def asked(trials):
    """Trials that were asked for, without those that wait in the queue."""
    return [t for t in trials.study.trials if t.state != TrialState.WAITING]


# Asking


def test_a_suggestion_is_the_studys():
    trials, twin = made(), made()
    for number in range(12):
        policy, values = trials.ask(f"t{number}")
        trial = twin.study.ask()
        assert policy == suggest_policy(trial)
        assert values == {}
        trials.tell(f"t{number}", end(value=0.1 * (number % 7)))
        twin.study.tell(trial, 0.1 * (number % 7))
    sources = [trial.user_attrs["source"] for trial in asked(trials)]
    assert sources == [trial.user_attrs["source"] for trial in asked(twin)]


def test_ones_own_parameters_are_searched_along():
    trials = made(OWN)
    for number in range(12):
        _, values = trials.ask(f"t{number}")
        assert set(values) == set(OWN)
        assert 1e-5 <= values["decay"] <= 1e-1
        assert values["data/kind"] in {"a", "b"}
        trials.tell(f"t{number}", end())
    assert all(set(OWN) <= set(trial.params) for trial in asked(trials))


def test_the_same_id_gets_the_same_answer_until_it_is_told():
    trials = made(OWN)
    first = trials.ask("t")
    assert trials.ask("t") == first
    assert trials.live == ("t",)
    assert len(asked(trials)) == 1


def test_trials_know_the_hosts_id_and_their_policy():
    trials = made()
    policy, _ = trials.ask("host-7")
    [trial] = asked(trials)
    assert trial.user_attrs["trial_id"] == "host-7"
    assert LRPolicy.from_dict(trial.user_attrs["policy"]) == policy


def test_a_crowd_of_live_trials_is_asked_for_with_another_sampler():
    """TPE counts live trials as bad ones, and reading a thousand of them is slow."""
    usual = optuna.samplers.RandomSampler(seed=0)
    crowded = optuna.samplers.RandomSampler(seed=1)
    study = create_study("digits", "mlp", database=MEMORY, sampler=usual)
    trials = AskTell(study, {}, crowded=crowded)
    for number in range(CROWD + 1):
        trials.ask(f"t{number}")
        assert study.sampler is usual
    trials.ask("one more")
    assert study.sampler is crowded
    trials.tell("t0", end())
    trials.tell("t1", end())
    trials.ask("and again")
    assert study.sampler is usual


def test_without_a_sampler_for_crowds_the_studys_own_stays():
    trials = made()
    usual = trials.study.sampler
    for number in range(CROWD + 3):
        trials.ask(f"t{number}")
    assert trials.study.sampler is usual


# Telling


@pytest.mark.parametrize(
    ("told", "state", "value"),
    [
        (end(), TrialState.COMPLETE, 0.7),
        (end("pruned", iteration=40), TrialState.PRUNED, 0.7),
        (end("pruned", None, None, {}), TrialState.PRUNED, None),
        (end("diverged", -1.0), TrialState.COMPLETE, -1.0),
        (end("diverged", None), TrialState.PRUNED, None),
        (end("failed", None, None, {}), TrialState.FAIL, None),
        (end("failed", 0.5), TrialState.FAIL, None),
    ],
)
def test_how_it_ended_is_the_trials_state(told, state, value):
    trials = made()
    trials.ask("t")
    trials.tell("t", told)
    [trial] = asked(trials)
    assert (trial.state, trial.value) == (state, value)
    assert trial.user_attrs["status"] == told.status
    assert trials.live == ()


def test_a_cut_trial_counts_at_the_iteration_it_reached():
    trials = made()
    trials.ask("t")
    trials.report("t", 20, 0.4)
    trials.tell("t", end("pruned", 0.6, 40))
    [trial] = asked(trials)
    assert trial.intermediate_values == {20: 0.4, 40: 0.6}
    assert trial.state == TrialState.PRUNED


def test_a_trial_has_the_attributes_of_its_run():
    """The same as `Objective` leaves, so that tables and plots read either."""
    run = Run(
        task=Task("digits", "mlp", batch_size=32),
        policy=LRPolicy("FIX", k0=0.1),
        max_iterations=100,
        status="complete",
        metrics=METRICS,
        curve=(CurvePoint(100, 0.1, 0.9, 0.8, 0.8),),
        cost={"seconds": 1.5},
    )
    result = report(run, ScoreWeights(), finished=True)
    trials = made()
    trials.ask("t")
    trials.tell("t", TrialOutcome.from_report(result, "complete", "score", 100))
    # But for the run's id: whoever stores it adds notes, and with them the id is another.
    told = {**outcomes.attributes(run, "complete", result["score"]), "run": None}
    attributes = asked(trials)[0].user_attrs
    assert {name: attributes[name] for name in told} == told
    assert outcomes.winner(trials.study).number == 0


def test_without_a_run_the_reported_metrics_are_kept():
    trials = made()
    trials.ask("t")
    trials.tell("t", end())
    attributes = asked(trials)[0].user_attrs
    assert {name: attributes[name] for name in METRICS} == METRICS
    assert (attributes["status"], attributes["score"]) == ("complete", 0.7)


@pytest.mark.parametrize(("status", "broken"), [("complete", 0.0), ("diverged", 1.0)])
def test_divergence_breaks_the_constraint(status, broken):
    trials = made()
    trials.ask("t")
    trials.tell("t", end(status))
    assert asked(trials)[0].constraints == {outcomes.CONSTRAINT: broken}


def test_a_restarted_trial_may_report_the_same_again():
    trials = made()
    trials.ask("t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            trials.report("t", 20, 0.4)
    trials.tell("t", end())
    assert asked(trials)[0].intermediate_values == {20: 0.4, 100: 0.7}


def test_what_nobody_asked_for_is_not_told():
    trials = made()
    before = states(trials)
    trials.report("unknown", 20, 0.4)
    trials.tell("unknown", end())
    assert states(trials) == before


def test_a_second_end_changes_nothing():
    trials = made()
    trials.ask("t")
    trials.tell("t", end())
    trials.tell("t", end("pruned", 0.1))
    trials.tell("t", end("failed", None))
    [trial] = asked(trials)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)


def test_a_failed_trial_that_is_run_again_gets_its_value():
    """Optuna's ended trials never change: its result is one of its own, with the same point."""
    trials = made(OWN)
    trials.ask("t")
    trials.report("t", 20, 0.4)
    trials.tell("t", end("failed", None, None, {}))
    trials.tell("t", end("failed", None, None, {}))
    assert [trial.state.name for trial in asked(trials)] == ["FAIL"]
    trials.tell("t", end(value=0.9))
    trials.tell("t", end(value=0.1))
    first, second = asked(trials)
    assert (first.state.name, second.state.name, second.value) == ("FAIL", "COMPLETE", 0.9)
    assert (first.params, first.distributions) == (second.params, second.distributions)
    for name in ("trial_id", "policy", "source"):
        assert first.user_attrs[name] == second.user_attrs[name]
    assert second.user_attrs["status"] == "complete"


def test_a_failed_trial_that_is_run_again_and_cut():
    trials = made()
    trials.ask("t")
    trials.tell("t", end("failed", None, None, {}))
    trials.tell("t", end("pruned", 0.6, 40))
    again = asked(trials)[-1]
    assert (again.state, again.intermediate_values) == (TrialState.PRUNED, {40: 0.6})


def test_a_failed_trial_that_is_run_again_under_another_id():
    trials = made(OWN)
    configs = {}
    for trial_id in ("good", "bad", "live"):
        policy, values = trials.ask(trial_id)
        levels = {f"lr_policy/{name}": value for name, value in policy.to_dict().items()}
        configs[trial_id] = {**levels, **values, "dataset": "digits"}
    trials.tell("good", end())
    trials.tell("bad", end("failed", None, None, {}))
    for other in ({}, configs["good"], configs["live"], {**configs["bad"], "decay": 0.5}):
        assert not trials.adopt("new", other)
    assert trials.adopt("new", configs["bad"])
    assert trials.number("bad") is None
    trials.tell("new", end(value=0.9))
    again = asked(trials)[-1]
    assert (again.value, again.user_attrs["trial_id"]) == (0.9, "new")
    assert again.params == asked(trials)[1].params
    assert not trials.adopt("newer", configs["bad"])


def test_mode_min_is_told_as_its_negative():
    trials = made(sign=-1)
    for number, loss in enumerate((0.5, 0.2, 0.9)):
        trials.ask(f"t{number}")
        trials.report(f"t{number}", 20, loss)
        trials.tell(f"t{number}", end(value=loss))
    assert trials.study.best_trial.number == 1
    assert trials.study.best_trial.intermediate_values == {20: -0.2, 100: -0.2}
    assert outcomes.winner(trials.study).number == 1


# Several objectives


def test_several_objectives_take_the_reported_metrics():
    trials = made(objective="pareto")
    trials.ask("t")
    trials.report("t", 20, 0.4)
    trials.tell("t", end())
    assert asked(trials)[0].values == [0.8, 40.0, 0.1]


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (end("pruned", iteration=40), "PRUNED"),
        (end("diverged", None, metrics={}), "COMPLETE"),
        (end("failed", None, metrics={}), "FAIL"),
    ],
)
def test_what_was_cut_is_on_no_front_and_stops_no_suggestion(told, state):
    """TPE raises at its next suggestion for a pruned trial with reports, or whole numbers."""
    trials = made(objective="pareto")
    for number in range(24):
        trials.ask(f"t{number}")
        trials.report(f"t{number}", 20, 0.4)
        trials.tell(f"t{number}", told if number % 2 else end())
    assert states(trials)[1::2] == [state] * 12
    assert all(trial.number % 2 == 0 for trial in trials.study.best_trials)


# Known results


def known(trials, **changes):
    point = read_point(
        "p", LRPolicy("FIX", k0=0.05), trials.settings.space, trials.settings.scale, trials.own
    )
    trials.add(point, end(**changes), {1: 0.4, 2: 0.7})


def test_a_known_result_is_a_trial():
    trials = made()
    known(trials)
    trial = trials.study.trials[-1]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.4, 2: 0.7}
    assert trial.user_attrs["source"] == "known result"
    assert LRPolicy.from_dict(trial.user_attrs["policy"]) == LRPolicy("FIX", k0=0.05)


def test_known_results_teach_the_sampler():
    """All of them the same function: next to it the sampler looks."""
    trials = made(functions=["FIX"], seed=3)
    for peak in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0) * 4:
        point = read_point(
            "p",
            {"lr_function": "FIX", "FIX.peak": peak},
            trials.settings.space,
            trials.settings.scale,
        )
        trials.add(point, end(value=1 - abs(math.log(peak))))
    for number in range(15):
        trials.ask(f"t{number}")
        trials.tell(f"t{number}", end("failed", None))
    drawn = [
        t.params["FIX.peak"]
        for t in asked(trials)
        if t.user_attrs["source"] == "sampler LRBenchSampler"
    ]
    near = [peak for peak in drawn if 0.2 < peak < 5]
    assert len(drawn) >= 10
    assert len(near) > 0.8 * len(drawn)


def test_conditional_known_results_of_all_functions():
    """Ray's OptunaSearch refuses them for a conditional space."""
    trials = made(OWN)
    space, scale = trials.settings.space, trials.settings.scale
    for number in range(20):
        policy, _ = trials.ask(f"t{number}")
        trials.tell(f"t{number}", end())
        point = read_point("p", {"lr_policy": policy, "decay": 0.01}, space, scale, OWN)
        trials.add(point, end("pruned", 0.3, 40))
    ended_trials = [t for t in trials.study.trials if t.state.is_finished()]
    assert len(ended_trials) == 40
    assert {t.state.name for t in ended_trials} == {"COMPLETE", "PRUNED"}


def test_more_drops_than_the_space_has_can_be_known():
    trials = made(functions=["NSTEP"])
    point = read_point(
        "p",
        LRPolicy("NSTEP", k0=0.1, gamma=0.5, l=list(range(10, 100, 10))),
        trials.settings.space,
        trials.settings.scale,
    )
    trials.add(point, end())
    assert trials.study.trials[-1].state == TrialState.COMPLETE


def test_known_results_of_mode_min():
    trials = made(sign=-1)
    known(trials, value=0.7)
    known(trials, status="pruned", value=0.2, iteration=2)
    first, second = trials.study.trials[-2:]
    assert first.value == -0.7
    assert first.intermediate_values == {1: -0.4, 2: -0.7}
    assert second.state == TrialState.PRUNED


def test_known_results_in_a_pareto_study_hold_no_reports():
    trials = made(objective="pareto")
    for _ in range(12):
        known(trials)
        known(trials, status="pruned", iteration=2)
    for number in range(12):
        trials.ask(f"t{number}")
        trials.tell(f"t{number}", end())
    assert not any(trial.intermediate_values for trial in trials.study.trials)


# Saving


def test_it_pickles_in_the_middle_and_goes_on_alike():
    trials = made(OWN)
    for number in range(14):
        trials.ask(f"t{number}")
        if number < 12:
            trials.tell(f"t{number}", end(value=0.05 * number))
    twin = pickle.loads(pickle.dumps(trials))  # noqa: S301
    assert twin.live == trials.live == ("t12", "t13")
    for number in range(12, 22):
        mine, theirs = trials.ask(f"t{number}"), twin.ask(f"t{number}")
        assert mine == theirs
        for each in (trials, twin):
            each.tell(f"t{number}", end(value=0.4))
    assert [t.params for t in asked(trials)] == [t.params for t in asked(twin)]
    assert len(asked(twin)) == len(asked(trials)) == 22
