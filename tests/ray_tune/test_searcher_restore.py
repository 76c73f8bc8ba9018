"""Searches that were broken off go on without a repeated or a lost suggestion."""

import signal
import subprocess
import sys
import time
import warnings
from pickle import UnpicklingError

import pytest
import ray
from optuna.trial import TrialState
from ray import tune

from lrbench_hpo import LRPolicy, create_study, suggest_policy
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.study.policy_search import FIRST_ROWS

pytestmark = pytest.mark.usefixtures("local_ray")

MEMORY = "sqlite://"
TASK = {"max_iterations": 400, "database": MEMORY}
COUNT = 14

# A driver of its own process; it says when a trial is done, and is killed after some. Its metric
# is not ``score``, which Ray would otherwise ask a limiter of live trials for.
DRIVER = """
import pathlib, sys, time
import ray
from ray import tune
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher

what, address, folder, at_once = sys.argv[1:]
ray.init(address=address, log_to_driver=False)

hold = pathlib.Path(folder) / "hold"

def train(config):
    while hold.exists():
        time.sleep(0.05)
    tune.report({"acc": min(1.0, config["lr_policy"]["k0"]), "iteration": 400})

class Say(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        print("done", flush=True)

if what == "start":
    tuner = tune.Tuner(
        train,
        param_space={"dataset": "digits"},
        tune_config=tune.TuneConfig(
            search_alg=LRBenchSearcher(model="mlp", seed=5, max_iterations=400,
                                       database="sqlite://"),
            metric="acc", mode="max", num_samples=14, reuse_actors=True,
            max_concurrent_trials=int(at_once),
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=folder, callbacks=[Say()], verbose=0
        ),
    )
else:
    tuner = tune.Tuner.restore(folder + "/search", trainable=train)
tuner.fit()
"""


def driver(what, folder, at_once):
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-P", "-W", "ignore", "-c", DRIVER, what, address, folder, at_once]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)


def restored(folder):
    """The searcher and its trials from an experiment's files; none while those are half written."""
    searcher = LRBenchSearcher()
    try:
        searcher.restore_from_dir(str(folder))
        return searcher, searcher.study.trials
    except (OSError, EOFError, RuntimeError, UnpicklingError):
        return searcher, []


def uninterrupted():
    study = create_study("digits", "mlp", seed=5, **TASK)

    def objective(trial):
        policy = suggest_policy(trial)
        value = min(1.0, policy.k0)
        trial.report(value, 400)
        return value

    study.optimize(objective, n_trials=COUNT)
    return [trial.user_attrs["policy"] for trial in study.trials]


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_killed_driver(at_once, tmp_path, monkeypatch):
    """Its successor is a process of its own, with nothing but the files."""
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "1")
    folder, hold = tmp_path / "search", tmp_path / "hold"
    first = driver("start", tmp_path, at_once)
    try:
        said = 0
        for line in first.stdout:
            said += line.startswith("done")
            if said == 7:
                hold.touch()  # those that start now wait
                break
        # Not in the middle of Ray's writing, which is no single step.
        while sum(t.state == TrialState.COMPLETE for t in restored(folder)[1]) < 7:
            time.sleep(0.1)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert said == 7
    hold.unlink()
    second = driver("restore", tmp_path, at_once)
    assert second.communicate(timeout=120)[0].count("done") <= COUNT
    assert second.returncode == 0

    found = tune.ExperimentAnalysis(str(folder)).trials
    assert [trial.status for trial in found] == ["TERMINATED"] * COUNT
    searcher, trials = restored(folder)
    assert len(trials) == COUNT
    policies = [trial.user_attrs["policy"] for trial in trials]
    trials = {trial.user_attrs["trial_id"]: trial for trial in trials}
    assert set(trials) == {trial.trial_id for trial in found}
    assert searcher._trials.live == ()
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    for trial in found:
        told = trials[trial.trial_id]
        assert told.user_attrs["policy"] == trial.config["lr_policy"]
        assert told.value == trial.last_result["acc"]
    whole = uninterrupted()
    if at_once == 1:
        assert policies == whole
    else:  # what came in between is known at other times, so later ones differ
        assert policies[:FIRST_ROWS] == whole[:FIRST_ROWS]
        assert len({str(policy) for policy in policies}) == COUNT


@pytest.mark.parametrize("how", ["ERRORED_ONLY", "RESTART_ERRORED_ONLY"])
def test_a_failed_trial_that_is_run_again_gets_its_value(how, tmp_path):
    """Resumed under its id, or restarted under a new one that no searcher is ever told."""
    repaired = tmp_path / "repaired"

    def train(config):
        if config["lr_policy"]["k0"] == 0.2 and not repaired.exists():
            raise RuntimeError("not repaired yet")
        tune.report({"score": config["lr_policy"]["k0"]})

    policies = [LRPolicy("FIX", k0=value) for value in (0.1, 0.2, 0.3)]

    def search(searcher, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return tune.run(
                train,
                name="search",
                search_alg=searcher,
                config={"dataset": "digits"},
                num_samples=4,
                max_concurrent_trials=1,
                storage_path=str(tmp_path),
                raise_on_failed_trial=False,
                reuse_actors=True,
                verbose=0,
                **options,
            )

    searcher = LRBenchSearcher(model="mlp", seed=5, points_to_evaluate=policies, **TASK)
    done = search(searcher)
    [failed] = [trial.trial_id for trial in done.trials if trial.status == "ERROR"]
    states = [trial.state.name for trial in searcher.study.trials[:4]]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]

    repaired.touch()
    fresh = LRBenchSearcher(model="mlp", points_to_evaluate=policies, **TASK)
    done = search(fresh, resume=f"AUTO+{how}")
    assert [trial.status for trial in done.trials] == ["TERMINATED"] * 4
    trials = [t for t in fresh.study.trials if t.state != TrialState.WAITING]
    assert sorted(t.state.name for t in trials) == [*["COMPLETE"] * 4, "FAIL"]
    [mine] = [t.trial_id for t in done.trials if t.config["lr_policy"]["k0"] == 0.2]
    assert (mine == failed) == (how == "ERRORED_ONLY")
    again = fresh.study.trials[fresh.number(mine)]
    assert (again.state, again.value) == (TrialState.COMPLETE, 0.2)
    assert again.user_attrs["trial_id"] == mine
    assert LRPolicy.from_dict(again.user_attrs["policy"]) == policies[1]
    assert fresh._trials.live == ()
