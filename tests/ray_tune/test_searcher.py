"""The searcher, called as Ray calls it."""

import copy
import math
import os
import pickle
import re
import subprocess
import sys
import warnings

import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.search import ConcurrencyLimiter, Repeater, Searcher

import lrbench_hpo
from lrbench_hpo import LRPolicy, connect
from lrbench_hpo.database import Database
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.policies import ALL_FUNCTIONS
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.study import results as outcomes
from lrbench_hpo.study.settings import StudySettings

MEMORY = "sqlite://"
CONFIG = {"dataset": "digits", "model": "mlp", "max_iterations": 300}
KEYS = set(LRPolicy("FIX", k0=0.1).to_dict())


def made(**options):
    return LRBenchSearcher("digits", "mlp", max_iterations=300, database=MEMORY, **options)


def last(score, iteration=300, **more):
    return {"score": score, "iteration": iteration, "training_iteration": 3, "done": True, **more}


def finish(searcher, trial_id, score=0.5, **more):
    suggestion = searcher.suggest(trial_id)
    searcher.on_trial_complete(trial_id=trial_id, result=last(score, **more), error=False)
    return suggestion


def asked(searcher):
    return [t for t in searcher.study.trials if t.state != TrialState.WAITING]


# Suggestions


def test_it_needs_no_argument(tmp_path, monkeypatch):
    monkeypatch.setenv("LRBENCH_DATABASE_URL", f"sqlite:///{tmp_path / 'lr.db'}")
    searcher = LRBenchSearcher()
    assert isinstance(searcher, Searcher)
    assert (searcher.metric, searcher.mode) == ("score", "max")
    suggestion = searcher.suggest("t")
    assert set(suggestion) == {"lr_policy", "max_iterations"}
    assert LRPolicy.from_dict(suggestion["lr_policy"])(0) > 0
    searcher.on_trial_complete(trial_id="t", result={"score": 0.5, "done": True})
    assert not (tmp_path / "lr.db").exists()  # a task without a name has no evidence


def test_it_is_at_the_packages_front():
    assert lrbench_hpo.LRBenchSearcher is LRBenchSearcher


def test_the_config_names_the_task():
    searcher = LRBenchSearcher(database=MEMORY)
    assert searcher.set_search_properties("score", "max", {"dataset": "cifar10", **CONFIG})
    assert searcher.settings.task.model == "mlp"
    assert searcher.suggest("t")["max_iterations"] == 300
    assert set(searcher.suggest("t")) == {"lr_policy", "max_iterations"}


def test_the_trainable_gets_what_only_the_searcher_knows():
    searcher = made(batch_size=64, score_weights={"iterations": 0.5})
    searcher.set_search_properties("score", "max", {"model": "MLP"})
    suggestion = searcher.suggest("t")
    assert suggestion["dataset"] == "digits"
    assert suggestion["batch_size"] == 64
    assert suggestion["score_weights"] == {"iterations": 0.5, "loss_difference": 0.01}
    assert "model" not in suggestion
    assert "optimizer" not in suggestion


def test_data_that_is_an_object_has_no_name_and_no_evidence(tmp_path):
    searcher = LRBenchSearcher(database=tmp_path / "lr.db")
    searcher.set_search_properties("score", "max", {"dataset": object(), "model": len})
    searcher.suggest("t")
    assert (searcher._ready().ask_tell.settings.task.dataset, os.listdir(tmp_path)) == (
        "unnamed",
        [],
    )


@pytest.mark.parametrize("function", ALL_FUNCTIONS)
def test_every_function_has_the_same_keys(function):
    """Keys that come and go would be columns of NaN, and ambiguous names of folders."""
    searcher = made(functions=[function], seed=0)
    for number in range(3):
        suggestion = finish(searcher, f"t{number}")
        assert set(suggestion) == {"lr_policy", "dataset", "model", "max_iterations"}
        assert set(suggestion["lr_policy"]) == KEYS
        assert LRPolicy.from_dict(suggestion["lr_policy"]).function == function


def test_domains_of_ones_own_come_in_their_levels():
    searcher = made(seed=0)
    config = {
        **CONFIG,
        "decay": tune.loguniform(1e-5, 1e-1),
        "data": {"crop": tune.randint(0, 5), "flip": True},
    }
    assert searcher.set_search_properties("score", "max", config)
    for number in range(15):
        suggestion = finish(searcher, f"t{number}")
        assert 1e-5 <= suggestion["decay"] <= 1e-1
        assert set(suggestion["data"]) == {"crop"}
        assert suggestion["data"]["crop"] in range(5)
    assert {"decay", "data/crop"} <= set(searcher.study.best_params)


def test_the_same_seed_gives_the_same_suggestions():
    def suggestions(seed):
        searcher = made(seed=seed)
        return [finish(searcher, f"t{n}", 0.1 * (n % 7))["lr_policy"] for n in range(14)]

    assert suggestions(1) == suggestions(1)
    assert suggestions(1) != suggestions(2)


def test_points_of_ones_own_come_first_and_exactly():
    """Ray's OptunaSearch ignores them for a conditional space."""
    policies = [
        LRPolicy("SINEXP", k0=1 / 3e4, k1=1 / 7, gamma=0.99, l=77),
        LRPolicy("FIX", k0=1e-7),  # these two are the same point at the space's edge
        LRPolicy("FIX", k0=2e-7),
        LRPolicy("NSTEP", k0=0.1, gamma=0.5, l=[10, 200]),
    ]
    searcher = made(
        points_to_evaluate=[
            policies[0],
            {"lr_policy": policies[1], "data": {"decay": 0.25}},
            policies[2].to_dict(),
            {"lr_policy": policies[3].to_dict()},
        ]
    )
    config = {"data": {"decay": tune.uniform(0, 1)}}
    searcher.set_search_properties("score", "max", config)
    found = [finish(searcher, f"t{number}") for number in range(5)]
    assert [LRPolicy.from_dict(each["lr_policy"]) for each in found[:4]] == policies
    assert found[1]["data"] == {"decay": 0.25}
    assert [t.user_attrs["source"] for t in asked(searcher)[:4]] == ["given by hand"] * 4
    assert asked(searcher)[4].user_attrs["source"].startswith("peak published")


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (5, "points_to_evaluate[0]=5"),
        ({"decay": 0.5}, "points_to_evaluate[0]="),
        (LRPolicy("SIG", k0=0.1, gamma=0.1, l=7), "SIG is not in the search space"),
        ({"lr_policy": LRPolicy("FIX", k0=0.1), "decay": 7}, "decay=7: outside its range"),
    ],
)
def test_a_point_that_is_none_is_refused_at_the_start(point, says):
    searcher = made(points_to_evaluate=[point])
    with pytest.raises(LRBenchError, match=re.escape(says)):
        searcher.set_search_properties("score", "max", {"decay": tune.uniform(0, 1)})


def test_many_live_trials_swap_the_sampler():
    searcher = made(seed=0)
    for number in range(203):
        searcher.suggest(f"t{number}")
    assert searcher.study.sampler is searcher._trials.ask_tell._samplers[1]
    assert searcher._trials.ask_tell._samplers[0] is not searcher._trials.ask_tell._samplers[1]
    for number in range(203):
        searcher.on_trial_complete(trial_id=f"t{number}", result=last(0.5))
    searcher.suggest("one more")
    assert searcher.study.sampler is searcher._trials.ask_tell._samplers[0]


def test_a_sampler_of_ones_own_is_never_swapped():
    searcher = made(sampler=optuna.samplers.RandomSampler(seed=0))
    mine = searcher._sampler
    for number in range(203):
        searcher.suggest(f"t{number}")
    assert searcher.study.sampler is mine


# What Ray tells about trials


@pytest.mark.parametrize(
    ("result", "error", "state", "value"),
    [
        (last(0.5), False, TrialState.COMPLETE, 0.5),
        (last(0.5, 200), False, TrialState.PRUNED, 0.5),
        (last(0.5, status="complete"), False, TrialState.COMPLETE, 0.5),
        (last(0.5, status="running"), False, TrialState.PRUNED, 0.5),
        (last(math.nan), False, TrialState.PRUNED, None),
        (last(math.inf), False, TrialState.PRUNED, None),
        (last(-1.0, 40, status="diverged"), False, TrialState.COMPLETE, -1.0),
        (None, False, TrialState.FAIL, None),
        ({}, False, TrialState.FAIL, None),
        (None, True, TrialState.FAIL, None),
        (last(0.5), True, TrialState.FAIL, None),
    ],
)
def test_how_a_trial_ended(result, error, state, value):
    searcher = made()
    searcher.suggest("t")
    searcher.on_trial_complete(trial_id="t", result=result, error=error)
    [trial] = asked(searcher)
    assert (trial.state, trial.value) == (state, value)
    diverged = result is not None and trial.user_attrs["status"] == "diverged"
    assert trial.constraints[outcomes.CONSTRAINT] == float(diverged)
    searcher.suggest("next")


def test_a_trial_that_is_stopped_between_reports_counts_what_it_reported():
    """Ray tells nothing at all about the end of a paused trial."""
    searcher = made()
    searcher.suggest("t")
    searcher.on_trial_result("t", last(0.4, 100, training_iteration=1, done=False))
    searcher.on_trial_complete(trial_id="t")
    [trial] = asked(searcher)
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {100: 0.4})


@pytest.mark.parametrize("value", [None, "high", "absent"])
def test_a_report_without_the_metric_is_a_failure_and_said_once(value):
    result = last(value, loss=0.3)
    if value == "absent":
        del result["score"]
    searcher = made()
    searcher.suggest("a")
    searcher.suggest("b")
    if value == "high":
        searcher.on_trial_complete(trial_id="a", result=result)
    else:
        with pytest.warns(UserWarning, match=r"'score' is not in .* numbers: .*loss") as told:
            searcher.on_trial_complete(trial_id="a", result=result)
        assert "\n" not in str(told[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            searcher.on_trial_complete(trial_id="b", result=result)
    assert asked(searcher)[0].state == TrialState.FAIL


def test_without_iterations_a_cut_trial_is_told_from_a_finished_one():
    """Ray shows a searcher no report that a scheduler answers with "stop"."""
    searcher = made()
    for trial_id, seen in (("finished", 2), ("cut", 1)):
        searcher.suggest(trial_id)
        for number in range(1, seen + 1):
            result = {"score": 0.1 * number, "training_iteration": number, "done": False}
            searcher.on_trial_result(trial_id, result)
        end = {"score": 0.2, "training_iteration": 2, "done": True}
        searcher.on_trial_complete(trial_id=trial_id, result=end)
    finished, cut = asked(searcher)
    assert (finished.state, cut.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert finished.intermediate_values == cut.intermediate_values == {1: 0.1, 2: 0.2}


def test_the_experiments_stopping_criteria_make_a_trial_whole():
    searcher = made()
    searcher.set_search_properties("score", "max", CONFIG, stop={"training_iteration": 2})
    searcher.suggest("t")
    result = {"score": 0.2, "training_iteration": 2, "done": True}
    searcher.on_trial_complete(trial_id="t", result=result)
    assert asked(searcher)[0].state == TrialState.COMPLETE


@pytest.mark.parametrize("result", [{"score": 0.5, "iteration": -1}, {"loss": 1.0}, {}])
def test_odd_reports_stop_nothing(result):
    searcher = made()
    searcher.suggest("t")
    searcher.on_trial_result("t", result)
    searcher.on_trial_result("unknown", last(0.1))
    searcher.on_trial_complete(trial_id="unknown", result=last(0.1))
    searcher.on_trial_complete(trial_id="t", result=last(0.5))
    assert [trial.value for trial in asked(searcher)] == [0.5]


@pytest.mark.parametrize("numbers", [True, False], ids=["with iterations", "without"])
def test_a_failed_trial_that_is_run_again_gets_its_value(numbers):
    searcher = made()
    first = searcher.suggest("t")
    searcher.on_trial_complete(trial_id="t", error=True)
    end = last(0.7)
    if not numbers:
        del end["iteration"]
    searcher.on_trial_result("t", {**end, "done": False})
    searcher.on_trial_complete(trial_id="t", result=end)
    failed, again = asked(searcher)
    assert (failed.state, again.state, again.value) == (TrialState.FAIL, TrialState.COMPLETE, 0.7)
    assert again.params == failed.params
    assert again.user_attrs["policy"] == first["lr_policy"]
    assert searcher.number("t") == again.number
    assert searcher._trials.outcomes._last == {}


@pytest.mark.parametrize("end", [last(math.nan), None], ids=["NaN", "errors"])
@pytest.mark.parametrize("objective", ["score", "pareto"])
def test_twenty_of_twenty_bad_trials_stop_nothing(end, objective):
    searcher = made(objective=objective, seed=0)
    for number in range(20):
        searcher.suggest(f"t{number}")
        result = end and {**end, "top1": math.nan}
        searcher.on_trial_complete(trial_id=f"t{number}", result=result, error=end is None)
    assert len(asked(searcher)) == 20
    assert not [t for t in searcher.study.trials if t.state == TrialState.RUNNING]
    assert outcomes.winner(searcher.study) is None
    finish(searcher, "good", top1=0.6)
    assert outcomes.winner(searcher.study).number == 20


def test_mode_min():
    searcher = made(metric="loss", mode="min")
    for number, loss in enumerate((0.5, 0.2, 0.9)):
        searcher.suggest(f"t{number}")
        result = {"loss": loss, "iteration": 300, "training_iteration": 1, "done": True}
        searcher.on_trial_complete(trial_id=f"t{number}", result=result)
    assert searcher.study.best_trial.number == outcomes.winner(searcher.study).number == 1


def test_several_objectives_inside_one_number_outside():
    searcher = made(objective="pareto", seed=0)
    for number in range(24):
        searcher.suggest(f"t{number}")
        more = {"top1": 0.9 - 0.01 * number, "iterations_to_best": 300 - number}
        searcher.on_trial_result(f"t{number}", last(0.5, 100, done=False, **more))
        reached = 100 if number % 3 == 0 else 300  # one in three is cut
        searcher.on_trial_complete(trial_id=f"t{number}", result=last(0.5, reached, **more))
    states = [trial.state for trial in asked(searcher)]
    assert states.count(TrialState.PRUNED) == 8
    assert searcher.metric == "score"
    front = {trial.number for trial in searcher.study.best_trials}
    assert front == {n for n in range(24) if n % 3}


def test_several_objectives_need_top1():
    searcher = made(objective="pareto")
    searcher.suggest("t")
    with pytest.warns(UserWarning, match="'top1' is not in"):
        searcher.on_trial_complete(trial_id="t", result=last(0.5))
    assert asked(searcher)[0].state == TrialState.FAIL


def test_settling_ends_what_ray_never_ended():
    searcher = made()
    searcher.settle()
    for trial_id in ("reported", "whole", "silent", "done"):
        searcher.suggest(trial_id)
    searcher.on_trial_result("reported", last(0.4, 100, done=False))
    searcher.on_trial_result("whole", last(0.4, 300, done=False))
    searcher.on_trial_complete(trial_id="done", result=last(0.5))
    searcher.settle()
    searcher.settle()
    states = [trial.state.name for trial in asked(searcher)]
    assert states == ["PRUNED", "COMPLETE", "FAIL", "COMPLETE"]
    assert asked(searcher)[0].user_attrs["score"] == 0.4


def test_settling_several_objectives():
    searcher = made(objective="pareto")
    searcher.suggest("t")
    searcher.on_trial_result("t", last(0.4, 100, done=False, top1=0.5))
    searcher.settle()
    assert asked(searcher)[0].state == TrialState.PRUNED


# Known results


@pytest.mark.parametrize("before", [True, False])
def test_known_results_of_a_conditional_space(before):
    """Ray's OptunaSearch refuses them for a conditional space."""
    searcher = made(seed=0)
    if not before:
        searcher.set_search_properties("score", "max", CONFIG)
    searcher.add_evaluated_point({"lr_policy": LRPolicy("FIX", k0=0.05).to_dict()}, 0.9)
    searcher.add_evaluated_point(LRPolicy("COS", k0=0.01, k1=0.1, l=100), 0.2, pruned=True)
    searcher.add_evaluated_point({"lr_function": "EXP", "EXP.peak": 1, "EXP.end": 0.1}, 0, True)
    searcher.add_evaluated_point(LRPolicy("FIX", k0=0.1), 0.3, intermediate_values=[0.1, 0.3])
    searcher.add_evaluated_point(LRPolicy("FIX", k0=0.9), math.nan)
    for number in range(15):
        finish(searcher, f"t{number}", 0.1)
    told = [t for t in searcher.study.trials if t.user_attrs.get("source") == "known result"]
    assert [t.state.name for t in told] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "PRUNED"]
    assert [t.value for t in told] == [0.9, None, None, 0.3, None]
    assert told[3].intermediate_values == {1: 0.1, 2: 0.3}
    assert [t.user_attrs["status"] for t in told[3:]] == ["complete", "diverged"]
    assert searcher.study.best_trial.number == told[0].number


def test_a_known_result_with_values_of_ones_own():
    searcher = made()
    searcher.set_search_properties("score", "max", {"data": {"decay": tune.uniform(0, 1)}})
    point = {"lr_policy": LRPolicy("FIX", k0=0.05), "data": {"decay": 0.25}}
    searcher.add_evaluated_point(point, 0.9)
    assert searcher.study.best_params["data/decay"] == 0.25


def test_a_known_result_of_several_objectives_is_several_numbers():
    searcher = made(objective="pareto")
    policy = LRPolicy("FIX", k0=0.05)
    report = {"score": 0.7, "top1": 0.9, "iterations_to_best": 100, "loss_difference": -0.5}
    searcher.add_evaluated_point(policy, report)
    searcher.set_search_properties("score", "max", CONFIG)
    assert searcher.study.best_trials[0].values == [0.9, 100.0, 0.5]
    assert outcomes.winner(searcher.study).user_attrs["score"] == 0.7
    for value in (0.9, {"score": 0.7}):
        with pytest.raises(StudyError, match="lacks 'top1': give a mapping with score, top1"):
            searcher.add_evaluated_point(policy, value)
    assert len(searcher.study.best_trials) == 1


def test_a_known_result_that_is_no_point_is_refused_and_forgotten():
    searcher = made()
    searcher.set_search_properties("score", "max", CONFIG)
    for point in ({"lr": 0.1}, LRPolicy("SIG", k0=0.1, gamma=0.1, l=7)):
        with pytest.raises(StudyError, match="add_evaluated_point"):
            searcher.add_evaluated_point(point, 0.5)
    searcher.add_evaluated_point(LRPolicy("FIX", k0=0.05), 0.5)
    assert len([t for t in searcher.study.trials if t.state.is_finished()]) == 1


# Input that cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": ["a", "b"]}, "objective='pareto'"),
        ({"mode": ["max", "min"]}, "objective='pareto'"),
        ({"mode": "up"}, "mode='up'"),
        ({"objective": "scor"}, "did you mean score"),
        ({"score_weights": {"speed": 1}}, "speed"),
        ({"functions": ["SINNEXP"]}, "did you mean SINEXP"),
        ({"seed": -1}, "seed=-1"),
        ({"optimizer": "sgdd"}, "did you mean sgd"),
        ({"search_space": "no.yaml"}, "no.yaml"),
        ({"reference_lr": -1.0}, "reference_lr"),
    ],
)
def test_bad_input_is_one_line(options, says):
    with pytest.raises(LRBenchError, match=re.escape(says)) as caught:
        made(**options).set_search_properties(None, None, CONFIG)
    assert "\n" not in str(caught.value)


def test_a_connection_is_refused(tmp_path):
    with (
        connect(tmp_path / "lr.db") as db,
        pytest.raises(StudyError, match="database's URL or file"),
    ):
        LRBenchSearcher(database=db)


@pytest.mark.parametrize(
    ("metric", "mode", "says"),
    [
        ("acc", "max", "metric='score' in LRBenchSearcher, 'acc' in the experiment"),
        ("score", "min", "mode='max' in LRBenchSearcher, 'min' in the experiment"),
        (["a", "b"], "max", "expected one name"),
        ("score", ["max"], "expected 'max' or 'min'"),
    ],
)
def test_metric_and_mode_are_given_once(metric, mode, says):
    searcher = made(metric="score", mode="max")
    with pytest.raises(StudyError, match=re.escape(says)):
        searcher.set_search_properties(metric, mode, CONFIG)


def test_metric_and_mode_come_from_either():
    for options, told in (
        ({"metric": "loss", "mode": "min"}, (None, None)),
        ({"metric": "loss", "mode": "min"}, ("loss", "min")),
        ({}, ("loss", "min")),
        ({"metric": "loss"}, (None, "min")),
    ):
        searcher = made(**options)
        searcher.set_search_properties(*told, CONFIG)
        assert (searcher.metric, searcher.mode) == ("loss", "min")


def test_a_contradiction_of_searcher_and_config_is_refused():
    with pytest.raises(StudyError, match="dataset='digits' in LRBenchSearcher, 'mnist' in config"):
        made().set_search_properties("score", "max", {"dataset": "mnist"})
    with pytest.raises(StudyError, match="max_iterations=300 in LRBenchSearcher, 400 in config"):
        made().set_search_properties("score", "max", {"max_iterations": 400})


def test_a_config_with_a_policy_is_refused():
    with pytest.raises(StudyError, match="has 'lr_policy' already"):
        made().set_search_properties("score", "max", {"lr_policy": {}})


def test_a_second_experiment_goes_on_with_the_same_task_only():
    searcher = LRBenchSearcher(database=MEMORY, seed=0)
    config = {**CONFIG, "decay": tune.uniform(0, 1)}
    assert searcher.set_search_properties("score", "max", config)
    first = finish(searcher, "t0")
    assert searcher.set_search_properties("score", "max", config)
    assert finish(searcher, "t1") != first
    assert not searcher.set_search_properties("score", "max", CONFIG)  # Ray says the rest
    for other in ({"dataset": "mnist"}, {"max_iterations": 400}):
        with pytest.raises(StudyError, match="give it once"):
            searcher.set_search_properties("score", "max", {**config, **other})
    with pytest.raises(StudyError, match="metric='score'"):
        searcher.set_search_properties("loss", "max", config)
    assert len(asked(searcher)) == 2


def test_the_study_is_there_once_its_task_is_known():
    assert StudySettings.known_to(made().study)
    searcher = LRBenchSearcher(database=MEMORY)
    with pytest.raises(StudyError, match="has not begun"):
        searcher.study  # noqa: B018
    searcher.set_search_properties("score", "max", CONFIG)
    assert StudySettings.of(searcher.study).task.dataset == CONFIG["dataset"]


def test_without_ray_it_is_one_line(start_without):
    out = start_without("ray", "import lrbench_hpo; lrbench_hpo.LRBenchSearcher")
    assert out == "ray is not installed: pip install 'lrbench-hpo[ray]'"


@pytest.fixture
def start_without():
    def start(missing, code):
        lines = f"""
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
try:
    {code}
except ImportError as error:
    print(error)
"""
        command = [sys.executable, "-P", "-c", lines]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return start


# Ray's wrappers


def test_a_limit_of_live_trials():
    searcher = made()
    limited = ConcurrencyLimiter(searcher, max_concurrent=2)
    limited.set_search_properties("score", "max", CONFIG)
    assert limited.suggest("a")
    assert limited.suggest("b")
    assert limited.suggest("c") is None
    limited.on_trial_complete("a", result=last(0.5))
    assert limited.suggest("c")
    assert limited.suggest("d") is None
    assert len(asked(searcher)) == 3


def test_a_limit_does_not_keep_the_result_of_a_trial_that_is_run_again():
    searcher = made()
    limited = ConcurrencyLimiter(searcher, max_concurrent=2)
    limited.suggest("a")
    limited.on_trial_complete("a", error=True)
    limited.on_trial_complete("a", result=last(0.5))
    assert [trial.state.name for trial in asked(searcher)] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("failed", [None, 0, 2])
def test_of_repeated_trials_the_mean_is_told(failed):
    """One trial of the study for each group; Ray passes on the error of the last one only."""
    searcher = made()
    repeated = Repeater(searcher, repeat=3)
    repeated.set_search_properties("score", "max", CONFIG)
    configs = [repeated.suggest(f"t{number}") for number in range(4)]
    assert [config["__trial_index__"] for config in configs] == [0, 1, 2, 0]
    assert configs[0]["lr_policy"] == configs[2]["lr_policy"] != configs[3]["lr_policy"]
    for number, score in enumerate((0.2, 0.4, 0.9)):
        result = None if number == failed else last(score)
        repeated.on_trial_complete(f"t{number}", result=result, error=number == failed)
    first, second = asked(searcher)
    mean = {None: 0.5, 0: 0.65, 2: 0.3}[failed]
    assert (first.state, first.value) == (TrialState.COMPLETE, pytest.approx(mean))
    assert first.user_attrs["trial_id"] == "t0"
    assert second.state == TrialState.RUNNING


def test_a_group_of_which_all_failed_has_failed():
    searcher = made()
    repeated = Repeater(searcher, repeat=2)
    for number in range(2):
        repeated.suggest(f"t{number}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Ray's: the mean of nothing
        for number in range(2):
            repeated.on_trial_complete(f"t{number}", result=None, error=True)
    assert asked(searcher)[0].state == TrialState.FAIL


# Copies and files


def holds_a_connection(state):
    text = cloudpickle.dumps(state)
    return b"sqlalchemy" in text or b"psycopg" in text


def test_it_pickles_at_any_time_and_goes_on_alike(tmp_path):
    searcher = LRBenchSearcher(database=tmp_path / "lr.db", seed=0, points_to_evaluate=[])
    searcher = pickle.loads(pickle.dumps(searcher))  # noqa: S301
    searcher.set_search_properties("score", "max", {**CONFIG, "decay": tune.uniform(0, 1)})
    for number in range(12):
        finish(searcher, f"t{number}", 0.1 * (number % 5))
    searcher.suggest("live")
    searcher.on_trial_result("live", last(0.3, 100, done=False))
    twin = pickle.loads(pickle.dumps(searcher))  # noqa: S301
    for each in (searcher, twin):
        each.on_trial_complete(trial_id="live", result=last(0.4, 200))
    mine, theirs = ([finish(s, f"n{n}") for n in range(6)] for s in (searcher, twin))
    assert mine == theirs
    assert [t.params for t in asked(searcher)] == [t.params for t in asked(twin)]
    assert not holds_a_connection(searcher)


def test_a_file_of_the_middle_goes_on_without_a_repeated_or_lost_suggestion(tmp_path):
    def steps(searcher, numbers):
        return [finish(searcher, f"t{n}", 0.1 * (n % 5))["lr_policy"] for n in numbers]

    whole = steps(made(seed=4), range(16))
    searcher = made(seed=4)
    parts = steps(searcher, range(9))
    searcher.suggest("t9")
    searcher.save(str(tmp_path / "state"))
    steps(searcher, range(9, 12))  # what came after the file is not known to it
    fresh = LRBenchSearcher(database=MEMORY)
    fresh.set_search_properties("score", "max", CONFIG)
    fresh.restore(str(tmp_path / "state"))
    assert parts + steps(fresh, range(9, 16)) == whole
    assert len(asked(fresh)) == 16
    assert fresh.get_state().keys() == searcher.get_state().keys()


def test_no_password_is_in_a_file(tmp_path, monkeypatch):
    secret = "s3cret-word"  # noqa: S105
    url = f"postgresql://me:{secret}@localhost:1/lr?sslpassword={secret}"
    monkeypatch.setenv("LRBENCH_DATABASE_URL", url)
    for searcher in (LRBenchSearcher(database=url), LRBenchSearcher()):
        searcher.save(str(tmp_path / "state"))
        assert secret.encode() not in (tmp_path / "state").read_bytes()
        assert secret.encode() not in cloudpickle.dumps(searcher)
        assert secret not in str(searcher.get_state())
    assert b"postgresql://me@localhost:1/lr" in cloudpickle.dumps(LRBenchSearcher(database=url))


def test_a_copy_within_the_process_keeps_the_password():
    url = "postgresql://me:s3cret@localhost:1/lr"
    searcher = LRBenchSearcher(database=url, seed=1)
    twin = copy.deepcopy(searcher)
    assert twin._question.database == searcher._question.database == url
    twin._seed = 2
    assert searcher._seed == 1


def test_the_database_is_read_once_and_let_go(tmp_path, monkeypatch):
    opened, closed = [], []
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda db: (closed.append(db), close(db)))
    migrated = Database.__init__
    monkeypatch.setattr(
        Database,
        "__init__",
        lambda db, *given, **more: (opened.append(db), migrated(db, *given, **more))[0] and None,
    )
    searcher = LRBenchSearcher("digits", "mlp", database=tmp_path / "lr.db")
    searcher.set_search_properties("score", "max", CONFIG)
    for number in range(7):
        finish(searcher, f"t{number}")
    assert opened == closed
    assert len(opened) == 1


def test_ray_takes_reports_without_the_metric_also_after_a_restart(monkeypatch):
    """Ray's own check would end all trials, and it would ask a limiter for ``score``."""
    name = "TUNE_DISABLE_STRICT_METRIC_CHECKING"
    for change in (lambda s: made(), lambda s: pickle.loads(s), lambda s: made().set_state({})):  # noqa: S301
        state = pickle.dumps(made())
        monkeypatch.delenv(name)
        change(state)
        assert os.environ[name] == "1"
    monkeypatch.setenv(name, "0")
    made()
    assert os.environ[name] == "0"
