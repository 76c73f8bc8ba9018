"""Whatever dies, every trial is accounted for: stored once, in the study once, and none twice."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import psutil
import pytest
import ray
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import lrbench_hpo
from lrbench_hpo import LRBenchSearcher, LRPolicy, RecordRuns

# Workers cannot import this file: what is defined here travels whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIG = {"dataset": "digits", "model": "mlp", "max_iterations": 200, "resources": {"cpu": 1}}
OPTIONS = {
    "max_concurrent_trials": 2,
    "max_failures": 3,
    "raise_on_failed_trial": False,
    "reuse_actors": True,
    "verbose": 0,
}


class Kill(tune.Callback):
    """Does something to the process of the first trial that `choose` accepts, while it trains."""

    def __init__(self, deed, choose=lambda pid: True):
        self.deed = deed
        self.choose = choose
        self.victim = None

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self.victim is None and result["training_iteration"] == 2 and self.choose(result["pid"]):
            assert not result["done"]
            self.victim = trial.trial_id
            self.deed(result["pid"])


def search(tmp_path, trainable=lrbench_hpo.train, *, count, callbacks=(), config=CONFIG, **options):
    """Run a search; its trials, its searcher, and what it stored."""
    file = tmp_path / "lr.db"
    searcher = LRBenchSearcher(database=file, seed=0, **options)
    recorder = RecordRuns(file, folder=tmp_path / "waiting", metric="score")
    done = tune.run(
        trainable,
        search_alg=searcher,
        callbacks=[recorder, *callbacks],
        config=config,
        num_samples=count,
        storage_path=str(tmp_path / "results"),
        **OPTIONS,
    )
    assert recorder.waiting == ()
    return done.trials, searcher, stored(file)


def stored(file):
    with lrbench_hpo.connect(file) as db:
        return db.find(source="local", curves=True)


def asked_for(searcher):
    """The study's trials but for known-good points that wait for a further one to take them."""
    known = searcher.study.get_trials(deepcopy=False)
    return [trial for trial in known if trial.state != TrialState.WAITING]


def accounted_for(trials, searcher, runs):
    """Every trial ended, and is stored and in the study once; no policy was tried twice."""
    ids = sorted(trial.trial_id for trial in trials)
    assert sorted(run.notes["ray_trial"] for run in runs) == ids
    in_study = asked_for(searcher)
    assert sorted(trial.user_attrs["trial_id"] for trial in in_study) == ids
    assert TrialState.RUNNING not in {trial.state for trial in in_study}
    assert max(Counter(run.policy for run in runs).values()) == 1
    assert {trial.user_attrs["trial_id"]: trial.user_attrs["status"] for trial in in_study} == {
        run.notes["ray_trial"]: run.status for run in runs
    }


def all_complete(runs):
    return {(run.status, run.curve[-1].iteration) for run in runs} == {("complete", 200)}


@pytest.mark.slow
def test_a_worker_is_killed_in_the_middle_of_a_trial(cluster, tmp_path):
    kill = Kill(lambda pid: os.kill(pid, signal.SIGKILL))
    trials, searcher, runs = search(tmp_path, count=4, callbacks=[kill])
    accounted_for(trials, searcher, runs)
    assert all_complete(runs)
    assert {t.trial_id for t in trials if t.num_failures} == {kill.victim}


@ray.remote(num_cpus=1)
class Busy:
    pass


@pytest.mark.slow
def test_a_node_is_lost_in_the_middle_of_a_trial(cluster, tmp_path):
    def raylet_of(pid):
        return psutil.Process(pid).parent()

    def node_of(pid):
        for node in cluster.worker_nodes:
            if node.all_processes["raylet"][0].process.pid == raylet_of(pid).pid:
                return node
        return None  # the first node, which the test is connected to

    def lose(pid):
        workers = raylet_of(pid).children(recursive=True)  # they outlive it for a moment
        cluster.remove_node(node_of(pid), allow_graceful=False)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    here = NodeAffinitySchedulingStrategy(cluster.head_node.node_id, soft=False)
    busy = Busy.options(scheduling_strategy=here).remote()  # so all trials run on the others
    ray.get(busy.__ray_ready__.remote())
    kill = Kill(lose, node_of)
    trials, searcher, runs = search(tmp_path, count=4, callbacks=[kill])
    accounted_for(trials, searcher, runs)
    assert all_complete(runs)
    assert {t.trial_id for t in trials if t.num_failures} == {kill.victim}
    assert len(cluster.worker_nodes) == 1


COUNT = 10
DRIVER = """
    import json
    import sys
    import lrbench_hpo
    import ray
    from ray import tune
    from lrbench_hpo import LRBenchSearcher, RecordRuns

    address, folder = sys.argv[1:]
    ray.init(address=address, log_to_driver=False)
    searcher = LRBenchSearcher(database=f"{{folder}}/lr.db", seed=0)
    done = tune.run(
        lrbench_hpo.train,
        name="one",
        resume="AUTO",
        search_alg=searcher,
        callbacks=[RecordRuns(f"{{folder}}/lr.db", folder=f"{{folder}}/waiting")],
        config={config},
        num_samples={count},
        storage_path=f"{{folder}}/results",
        **{options},
    )
    for trial in done.trials:
        print("@trial", trial.trial_id, trial.status, json.dumps(trial.config["lr_policy"]))
    for trial in searcher.study.trials:
        if trial.state.name != "WAITING":
            print("@study", trial.user_attrs["trial_id"], trial.state.name)
"""


def kill_after(command, file, ended):
    """Run a driver until so many trials are stored, and kill it; what is stored then."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not file.exists() or len(stored(file)) < ended:
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    return stored(file)


@pytest.mark.slow
def test_the_driver_is_killed_twice_and_the_experiment_goes_on(cluster, tmp_path):
    program, file = tmp_path / "driver.py", tmp_path / "lr.db"
    text = DRIVER.format(config=CONFIG, options=OPTIONS, count=COUNT)
    program.write_text(textwrap.dedent(text))
    command = [sys.executable, "-P", program, cluster.address, tmp_path]
    before = []
    for ended in (1, 4):
        earlier, before = before, kill_after(command, file, ended)
        assert {run.uid for run in earlier} <= {run.uid for run in before}
        assert len(before) < COUNT
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    lines = [line.split(maxsplit=3) for line in again.stdout.splitlines()]
    trials = {line[1]: line[2] for line in lines if line and line[0] == "@trial"}
    policies = {LRPolicy.from_dict(json.loads(line[3])) for line in lines if line[:1] == ["@trial"]}
    in_study = [line[1:] for line in lines if line and line[0] == "@study"]
    runs = stored(file)
    assert len(trials) == COUNT
    assert set(trials.values()) == {"TERMINATED"}
    assert sorted(in_study) == sorted([trial_id, "COMPLETE"] for trial_id in trials)
    # A trial that ended after Ray's last snapshot is asked for again, and may get another policy,
    # as more results are known by then: all that is stored are theirs, and what was there.
    assert len(policies) == COUNT
    stored_policies = [run.policy for run in runs]
    assert len(stored_policies) == len(set(stored_policies))
    assert set(stored_policies) == policies | {run.policy for run in before}
    assert all_complete(runs)
    assert {run.uid for run in before} <= {run.uid for run in runs}


WHOLE = {"score": 0.5, "iteration": 200}
# By k0 of a trial's policy: its reports, and the status that it ends with.
BEHAVIOURS = {
    0.1: ([OSError], "failed"),
    0.2: ([{"score": 0.5, "top1": 0.5, "iteration": 20}, OSError], "failed"),
    0.3: ([{"score": math.nan, "iteration": 200}], "diverged"),
    0.4: ([{"iteration": 200}], "failed"),
    0.5: ([WHOLE], "complete"),
}


def behaves(config):
    for act in BEHAVIOURS[config["lr_policy"]["k0"]][0]:
        if act is OSError:
            raise OSError("no space left on device")
        tune.report(act)


def test_trainables_that_break_harm_no_other(local_ray, tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIONS, "max_failures", 0)
    trials, searcher, runs = search(
        tmp_path,
        behaves,
        count=len(BEHAVIOURS),
        config={"dataset": "digits", "model": "own", "max_iterations": 200},
        points_to_evaluate=[LRPolicy("FIX", k0=k0) for k0 in BEHAVIOURS],
    )
    accounted_for(trials, searcher, runs)
    expected = {k0: status for k0, (_, status) in BEHAVIOURS.items()}
    assert {run.policy.k0: run.status for run in runs} == expected
    in_study = {trial.user_attrs["policy"]["k0"]: trial for trial in asked_for(searcher)}
    assert {k0: trial.user_attrs["status"] for k0, trial in in_study.items()} == expected
    for k0, trial in in_study.items():
        assert (trial.state == TrialState.FAIL) == (expected[k0] == "failed")


@pytest.mark.slow
def test_all_of_twenty_trials_diverge(local_ray, tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIONS, "max_concurrent_trials", 1)  # one process for all
    config = {**CONFIG, "weight_decay": 1e3}  # each update makes the weights larger
    trials, searcher, runs = search(tmp_path, count=20, config=config, reference_lr=30.0)
    accounted_for(trials, searcher, runs)
    assert {run.status for run in runs} == {"diverged"}
    assert {trial.status for trial in trials} == {"TERMINATED"}
