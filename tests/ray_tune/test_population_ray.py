"""Trials of Ray that are populations: every policy recorded and stored once, as if alone."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import pytest
import ray
import torch
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Repeater

from lrbench_hpo import LRPolicy, ScoreWeights, connect
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.ray_tune.on_worker import best_weights
from lrbench_hpo.ray_tune.population_trial import PopulationTrial
from lrbench_hpo.ray_tune.record_runs import RecordRuns
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.ray_tune.stored_trials import EXPERIMENT, PLACE, TRIAL
from lrbench_hpo.ray_tune.trainable import Train
from lrbench_hpo.records.member_reports import members_in
from lrbench_hpo.records.reports import run_in
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import Trainer, load_data

# Workers cannot import this file: what is defined here travels whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MEMORY = "sqlite://"
BUDGET = 40
K = 3
CONFIG = {"dataset": "digits", "model": "lenet", "max_iterations": BUDGET, "executor": "stream"}
EXPLODES = LRPolicy("FIX", k0=1000.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the trials have, for numbers that are equal and not just close."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(**options):
    given = {"max_iterations": BUDGET, "database": MEMORY, "population": K, "seed": 0, **options}
    return LRBenchSearcher("digits", "lenet", **given)


@functools.cache
def trainer():
    recipe = recipe_for("digits", "lenet", max_iterations=BUDGET)
    return Trainer(load_data("digits"), "lenet", recipe, device="cpu")


@functools.cache
def alone(policy):
    return trainer().train(policy, BUDGET).run


def policies_of(config):
    return [LRPolicy.from_dict(each) for each in config["lr_policies"]]


def searched(place, searcher, *, trainable=Train, count=2, config=None, **options):
    """A real experiment; its trials, and what is stored of them."""
    file = pathlib.Path(place, "lr.db")
    # One process for all trials, as each takes seconds to load torch.
    given = {"reuse_actors": True, "max_concurrent_trials": 1, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        done = tune.run(
            trainable,
            config={**CONFIG, "early_stopping": False, **(config or {})},
            search_alg=searcher,
            num_samples=count,
            callbacks=[RecordRuns(f"sqlite:///{file}"), *given.pop("callbacks", ())],
            storage_path=str(place),
            name="search",
            verbose=0,
            raise_on_failed_trial=False,
            **given,
        )
    return done.trials, stored(file)


def stored(file):
    with connect(file) as db:
        return list(reversed(db.find(source="local", curves=True)))


def in_study(searcher):
    return [t for t in searcher.study.trials if t.state != TrialState.WAITING]


def places(runs):
    return [(run.notes[TRIAL], run.notes[PLACE]) for run in runs]


class Driven:
    """One trial as Ray runs it, without Ray."""

    def __init__(self, searcher, trial_id="t", **options):
        self.searcher, self.trial_id = searcher, trial_id
        self.config = searcher.suggest(trial_id)
        options = {"executor": "stream", "early_stopping": False, **options}
        self.trial = PopulationTrial(
            trainer(), policies_of(self.config), BUDGET, weights=ScoreWeights(), **options
        )
        self.count = 0
        self.last = None

    def step(self):
        self.trial.step()
        self.count += 1
        self.last = {
            **self.trial.report(),
            "done": self.trial.finished,
            "training_iteration": self.count,
        }
        if not self.trial.finished:
            self.searcher.on_trial_result(self.trial_id, self.last)

    def end(self, **how):
        self.searcher.on_trial_complete(trial_id=self.trial_id, result=self.last, **how)

    def run(self):
        while not self.trial.finished:
            self.step()
        self.end()
        return self


# As Ray calls the searcher


def test_the_policies_of_a_trial_differ_and_the_same_id_gets_the_same():
    searcher = made()
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert set(first) == {"lr_policies", "dataset", "model", "max_iterations"}
    policies = [*policies_of(first), *policies_of(second)]
    assert len(set(policies)) == 2 * K
    assert len({frozenset(each) for each in first["lr_policies"]}) == 1
    assert searcher.suggest("a") == first
    assert (searcher.live, searcher.numbers("b")) == (("a", "b"), (3, 4, 5))
    assert [trial.user_attrs["member"] for trial in in_study(searcher)] == [0, 1, 2] * 2
    assert {trial.user_attrs["trial_id"] for trial in in_study(searcher)} == {"a", "b"}


def test_policies_are_told_one_by_one_as_they_end():
    mine = [EXPLODES, LRPolicy("FIX", k0=0.02), LRPolicy("NSTEP", k0=0.02, gamma=0.1, l=[30])]
    searcher = made(points_to_evaluate=mine)
    driven = Driven(searcher)
    driven.step()
    states = [trial.state for trial in in_study(searcher)]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    assert in_study(searcher)[0].user_attrs["status"] == "diverged"
    driven.run()
    for trial, policy in zip(in_study(searcher), mine, strict=True):
        assert trial.value == score_run(alone(policy))
        assert trial.user_attrs["policy"] == policy.to_dict()
        assert trial.user_attrs["status"] == alone(policy).status
        if policy != EXPLODES:
            seen = {p.iteration for p in alone(policy).curve}
            assert set(trial.intermediate_values) == seen
    assert searcher.live == ()
    assert searcher._trials.outcomes._last == {}


@pytest.mark.parametrize(
    ("how", "state"),
    [({}, TrialState.PRUNED), ({"error": True}, TrialState.FAIL)],
)
def test_what_is_under_way_ends_with_its_trial(how, state):
    steady = [LRPolicy("FIX", k0=0.02), LRPolicy("FIX", k0=0.01)]
    searcher = made(points_to_evaluate=[EXPLODES, *steady])
    driven = Driven(searcher)
    for _ in range(4):
        driven.step()
    driven.end(**how)
    states = [trial.state for trial in in_study(searcher)]
    assert states == [TrialState.COMPLETE, state, state]
    assert searcher.live == ()


def test_a_trial_that_time_ran_out_for_is_settled():
    searcher = made()
    driven = Driven(searcher)
    for _ in range(3):
        driven.step()
    searcher.settle()
    assert all(trial.state.is_finished() for trial in in_study(searcher))
    assert searcher.live == ()


def test_losers_are_pruned_trials():
    hopeless = [LRPolicy("FIX", k0=1e-7), LRPolicy("FIX", k0=2e-7)]
    good = [LRPolicy("FIX", k0=0.02), LRPolicy("FIX", k0=0.03), LRPolicy("FIX", k0=0.01)]
    searcher = made(points_to_evaluate=[*good, *hopeless], population=5)
    Driven(searcher, early_stopping=True).run()
    states = [trial.state for trial in in_study(searcher)]
    assert states[3:] == [TrialState.PRUNED] * 2
    assert TrialState.COMPLETE in states[:3]
    assert [trial.user_attrs["status"] for trial in in_study(searcher)[3:]] == ["pruned"] * 2


def test_results_that_are_known_train_no_policy():
    policies = [LRPolicy("FIX", k0=0.02), LRPolicy("FIX", k0=0.01)]
    searcher = made(points_to_evaluate=policies)
    searcher.recall({policies[1]: alone(policies[1])})
    suggested = policies_of(searcher.suggest("a"))
    assert suggested[0] == policies[0]
    assert policies[1] not in suggested
    assert len(set(suggested)) == K
    assert searcher.recalled == [1]
    assert in_study(searcher)[1].value == score_run(alone(policies[1]))
    assert searcher.numbers("a") == (0, 2, 3)


def test_several_objectives():
    searcher = made(objective="pareto", points_to_evaluate=[EXPLODES])
    assert searcher.suggest("t")["early_stopping"] is False
    Driven(searcher).run()
    trials = in_study(searcher)
    assert [len(trial.values) for trial in trials] == [3] * K
    assert 0 not in {trial.number for trial in searcher.study.best_trials}
    runs = [alone(LRPolicy.from_dict(trial.user_attrs["policy"])) for trial in trials[1:]]
    assert [trial.values[0] for trial in trials[1:]] == [run.metrics["top1"] for run in runs]
    searcher.suggest("next")


def test_a_limit_counts_trials_of_ray():
    searcher = made()
    searcher.set_max_concurrency(2)
    assert searcher.suggest("a") is not None
    driven = Driven(searcher, "b")
    assert searcher.suggest("c") is None
    driven.run()
    assert searcher.suggest("c") is not None


def test_known_results_come_one_by_one():
    searcher = made()
    policy = LRPolicy("FIX", k0=0.02)
    searcher.add_evaluated_point(policy, 0.75)
    searcher.suggest("a")
    [known] = [trial for trial in in_study(searcher) if trial.state == TrialState.COMPLETE]
    assert (known.value, known.user_attrs["policy"]) == (0.75, policy.to_dict())


def test_it_is_saved_and_goes_on(tmp_path):
    """A restored trial's first report repeats those that came after the searcher was saved."""
    searcher = made()
    driven = Driven(searcher)
    driven.step()
    searcher.save(str(tmp_path / "searcher.pkl"))
    driven.run()
    again = made()
    again.suggest("other")
    again.restore(str(tmp_path / "searcher.pkl"))
    assert again.live == ("t",)
    again.on_trial_complete(trial_id="t", result=driven.last)
    assert [t.value for t in in_study(again)] == [t.value for t in in_study(searcher)]
    assert again.suggest("next") == searcher.suggest("next")


@pytest.mark.parametrize("population", [None, K + 1])
def test_another_population_does_not_go_on(tmp_path, population):
    searcher = made()
    searcher.suggest("a")
    searcher.save(str(tmp_path / "searcher.pkl"))
    other = made(population=population)
    other.suggest("a")
    other.restore(str(tmp_path / "searcher.pkl"))
    with pytest.raises(StudyError, match=f"population={K}, not {population}"):
        other.suggest("b")


@pytest.mark.parametrize("population", [0, -1, True, "8", 2.0, [4]])
def test_a_number_of_policies_that_is_none(population):
    with pytest.raises(LRBenchError, match=r"population=.*expected a whole number") as caught:
        LRBenchSearcher(population=population)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"weight_decay": tune.loguniform(1e-5, 1e-2)}, "config['weight_decay'] is a domain"),
        ({"lr_policies": []}, "config has 'lr_policies' already"),
        ({"lr_policy": {}}, "config has 'lr_policy' already"),
    ],
)
def test_a_config_that_cannot_be_searched_with_a_population(config, says):
    with pytest.raises(StudyError, match=re.escape(says)):
        made().set_search_properties("score", "max", config)


def test_a_trainable_that_knows_no_populations_is_told_so_once():
    searcher = made()
    last = {"score": 0.5, "iteration": BUDGET, "training_iteration": 1, "done": True}
    searcher.suggest("a")
    with pytest.warns(UserWarning, match="no 'members' in a trial's reports"):
        searcher.on_trial_complete(trial_id="a", result=last)
    searcher.suggest("b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searcher.on_trial_complete(trial_id="b", result=last)
    assert {trial.state for trial in in_study(searcher)} == {TrialState.FAIL}


# On a cluster


class KillWorker(tune.Callback):
    """Kills the process of a trial at its third report, once."""

    def __init__(self):
        self.killed = None

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self.killed is None and result["training_iteration"] == 3:
            self.killed = result["pid"]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.slow
def test_a_search_whose_worker_is_killed(local_ray, tmp_path):
    """All policies are recorded and stored once, with the numbers that they have alone."""
    searcher, killer = made(points_to_evaluate=[EXPLODES]), KillWorker()
    trials, runs = searched(
        tmp_path,
        searcher,
        config={"checkpoint_seconds": 0},
        callbacks=[killer],
        max_failures=1,
    )
    assert killer.killed is not None
    assert [trial.status for trial in trials] == ["TERMINATED"] * 2
    policies = [policy for trial in trials for policy in policies_of(trial.config)]
    assert len(set(policies)) == 2 * K
    expected = {(trial.trial_id, place) for trial in trials for place in range(K)}
    assert len(runs) == 2 * K
    assert set(places(runs)) == expected
    assert len({run.notes[EXPERIMENT] for run in runs}) == 1
    for run in runs:
        [trial] = [trial for trial in trials if trial.trial_id == run.notes[TRIAL]]
        assert run.policy == policies_of(trial.config)[run.notes[PLACE]]
        known = alone(run.policy)
        assert (run.status, run.curve) == (known.status, known.curve)
        assert dict(run.metrics) == dict(known.metrics)
    assert [run.status for run in runs].count("diverged") == 1
    assert len(in_study(searcher)) == 2 * K
    for trial in in_study(searcher):
        policy = LRPolicy.from_dict(trial.user_attrs["policy"])
        assert trial.state == TrialState.COMPLETE
        assert trial.value == score_run(alone(policy))
    with trials[0].checkpoint.as_directory() as folder:
        best = max(policies_of(trials[0].config), key=lambda policy: score_run(alone(policy)))
        expected = trainer().train(best, BUDGET).state
        found = best_weights(folder)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


class StopsAtThird(FIFOScheduler):
    """Stops a trial at its third report, as ASHA stops one that is behind."""

    def on_trial_result(self, tune_controller, trial, result):
        return self.STOP if result["training_iteration"] == 3 else self.CONTINUE


def test_what_a_scheduler_cuts_is_pruned(local_ray, tmp_path):
    searcher = made(points_to_evaluate=[LRPolicy("FIX", k0=0.02), LRPolicy("FIX", k0=0.01)])
    [trial], runs = searched(tmp_path, searcher, count=1, scheduler=StopsAtThird())
    assert trial.status == "TERMINATED"
    assert places(runs) == [(trial.trial_id, place) for place in range(len(runs))]
    assert len(runs) >= 2
    for run in runs:
        assert run.status == "pruned"
        assert run.curve == alone(run.policy).curve[: len(run.curve)]
    states = [trial.state for trial in in_study(searcher)]
    assert states[:2] == [TrialState.PRUNED] * 2
    assert TrialState.RUNNING not in states


def test_several_trials_of_a_repeater_are_no_population(local_ray, tmp_path):
    with pytest.raises(Exception, match="Repeater tells the mean of several trials"):
        searched(tmp_path, Repeater(made(metric="score"), repeat=2), max_concurrent_trials=0)


@pytest.mark.parametrize("how", ["ERRORED_ONLY", "RESTART_ERRORED_ONLY"])
def test_a_failed_trial_that_is_run_again(local_ray, how, tmp_path):
    """Somebody's own trainable; the driver is another one after the failure."""
    repaired = tmp_path / "repaired"

    def train(config):
        reports = [
            {"member": place, "score": policy["k0"], "iteration": BUDGET, "status": "complete"}
            for place, policy in enumerate(config["lr_policies"])
        ]
        tune.report({"score": reports[0]["score"], "iteration": 10, "members": reports[:1]})
        if not repaired.exists():
            raise RuntimeError("not repaired yet")
        tune.report({"score": reports[1]["score"], "iteration": BUDGET, "members": reports[1:]})

    searcher = made()
    [failed], runs = searched(tmp_path, searcher, trainable=train, count=1)
    assert failed.status == "ERROR"
    assert [run.status for run in runs] == ["complete", "failed", "failed"]
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert [trial.state for trial in in_study(searcher)] == states

    repaired.touch()
    fresh = made()
    [trial], runs = searched(tmp_path, fresh, trainable=train, count=1, resume=f"AUTO+{how}")
    assert trial.status == "TERMINATED"
    assert (trial.trial_id == failed.trial_id) == (how == "ERRORED_ONLY")
    again = [fresh.study.trials[number] for number in fresh.numbers(trial.trial_id)]
    assert [each.user_attrs["policy"] for each in again] == trial.config["lr_policies"]
    assert [each.value for each in again] == [p["k0"] for p in trial.config["lr_policies"]]
    assert fresh.live == ()
    complete = [run for run in runs if run.status == "complete"]
    assert sorted(run.policy.k0 for run in complete) == sorted(each.value for each in again)


# A driver of its own process, which is killed; a second one goes on.
DRIVER = """
import sys
import ray
from ray import tune
from lrbench_hpo.ray_tune.record_runs import RecordRuns
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.ray_tune.trainable import Train

address, folder = sys.argv[1:]
ray.init(address=address, log_to_driver=False)

class Say(tune.Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        print("ended", result["ended"], flush=True)

tune.run(
    Train,
    config={"dataset": "digits", "model": "mlp", "max_iterations": 300, "executor": "stream",
            "checkpoint_seconds": 0, "early_stopping": False},
    search_alg=LRBenchSearcher("digits", "mlp", seed=0, population=3, database="sqlite://"),
    num_samples=2, max_concurrent_trials=1, reuse_actors=True, verbose=0, metric="score",
    mode="max", callbacks=[RecordRuns(f"sqlite:///{folder}/lr.db"), Say()], storage_path=folder,
    name="search", resume="AUTO",
)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0.2")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-P", "-W", "ignore", "-c", DRIVER, address, str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = []
        for line in first.stdout:
            said += [int(line.split()[1])] if line.startswith("ended") else []
            if len(said) == 9:
                break
        time.sleep(0.3)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert said[-1] < K
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200, check=False)
    assert again.returncode == 0
    trials = tune.ExperimentAnalysis(str(tmp_path / "search")).trials
    assert [trial.status for trial in trials] == ["TERMINATED"] * 2
    runs = stored(tmp_path / "lr.db")
    assert sorted(places(runs)) == sorted((t.trial_id, i) for t in trials for i in range(3))
    searcher = LRBenchSearcher()
    searcher.restore_from_dir(str(tmp_path / "search"))
    assert sorted(t.value for t in in_study(searcher)) == sorted(score_run(run) for run in runs)
    whole = Trainer(load_data("digits"), "mlp", recipe_for("digits", "mlp"), device="cpu")
    run = next(run for run in runs if places([run])[0] == (trials[0].trial_id, 0))
    assert run.curve == whole.train(run.policy, 300).run.curve
    last = members_in(trials[0].last_result)
    assert [run_in(last[place]).uid for place in range(3)]
