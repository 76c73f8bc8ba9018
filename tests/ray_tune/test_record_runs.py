"""Trials of any searcher and trainable in the LR database, once, whatever goes wrong on the way."""

import contextlib
import json
import os
import pathlib
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import ray
from ray import cloudpickle, tune
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from lrbench_hpo import LRPolicy, ScoreWeights, connect
from lrbench_hpo.errors import DatabaseError, LRBenchError, StudyError
from lrbench_hpo.ray_tune.record_runs import RecordRuns
from lrbench_hpo.ray_tune.stored_trials import EXPERIMENT, TRIAL
from lrbench_hpo.records.reports import report
from lrbench_hpo.records.run import CurvePoint, Run, Task

# Workers cannot import this file: what is defined here travels whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
BUDGET = 40


@pytest.fixture(autouse=True)
def _own_places(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    monkeypatch.delenv("LRBENCH_DATABASE_URL", raising=False)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "lr.db"
    connect(file).close()
    return file


@pytest.fixture
def record(file):
    return RecordRuns(f"sqlite:///{file}?timeout=0.2")


def stored(file):
    with connect(file) as db:
        return list(reversed(db.find(source="local", curves=True)))


def fixed(lr):
    return LRPolicy("FIX", k0=lr).to_dict()


def policies(count):
    return tune.grid_search([fixed(0.01 * (i + 1)) for i in range(count)])


def searched(place, trainable, record, config=None, **options):
    """A real experiment with a trial for each of some policies."""
    given = {"dataset": "digits", "model": "mlp", "max_iterations": BUDGET, **(config or {})}
    return tune.run(
        trainable,
        config={"lr_policy": policies(3), **given},
        storage_path=str(pathlib.Path(place, "ray")),
        name="experiment",
        verbose=0,
        raise_on_failed_trial=False,
        # One process for all trials, as each takes a second or two to start.
        **{"callbacks": [record], "reuse_actors": True, "max_concurrent_trials": 1, **options},
    )


def plain(config):
    """A function of somebody's: four reports, in iterations."""
    for step in range(1, 5):
        time.sleep(config.get("pause", 0))
        top1 = 0.2 * step + config["lr_policy"]["k0"]
        losses = {"train_loss": 2 / step, "eval_loss": 2.5 / step}
        tune.report({"iteration": 10 * step, "top1": top1, "lr": 0.1, **losses})


class Whole(tune.Trainable):
    """Reports whole runs, as lrbench_hpo.train does."""

    def setup(self, config):
        self.iteration_now = 0

    def step(self):
        if self.config.get("raises"):
            raise ValueError("broken")
        time.sleep(self.config.get("pause", 0))
        self.iteration_now += 10
        finished = self.iteration_now == BUDGET
        curve = tuple(CurvePoint(i, 0.1, top1=0.01 * i) for i in range(10, self.iteration_now + 1))
        run = Run(
            Task("digits", "mlp"),
            LRPolicy.from_dict(self.config["lr_policy"]),
            BUDGET,
            seed=3,
            status="complete" if finished else "pruned",
            metrics={"top1": self.top1(), "iterations_to_best": self.iteration_now},
            curve=curve,
            notes={"evaluation_samples": 100},
        )
        return {**report(run, ScoreWeights(), finished=finished), "done": finished}

    def top1(self):
        return 0.01 * self.iteration_now + self.config["lr_policy"]["k0"]

    def reset_config(self, new_config):
        self.config = new_config
        self.iteration_now = 0
        return True

    def save_checkpoint(self, checkpoint_dir):
        with open(os.path.join(checkpoint_dir, "at.json"), "w") as file:
            json.dump(self.iteration_now, file)

    def load_checkpoint(self, checkpoint):
        with open(os.path.join(checkpoint, "at.json")) as file:
            self.iteration_now = json.load(file)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [plain, Whole])
def test_every_trial_is_stored_once(tmp_path, file, record, trainable):
    done = searched(tmp_path, trainable, record)
    runs = stored(file)
    assert {run.notes[TRIAL] for run in runs} == {trial.trial_id for trial in done.trials}
    assert len({run.notes[EXPERIMENT] for run in runs}) == 1
    assert len(runs) == 3
    for run in runs:
        assert run.status == "complete"
        assert (run.task.dataset, run.task.model, run.max_iterations) == ("digits", "mlp", BUDGET)
        assert run.curve[-1].iteration == run.metrics["iterations_to_best"] == BUDGET
    assert {run.policy.k0 for run in runs} == {0.01, 0.02, 0.03}
    if trainable is plain:
        best = runs[0]
        assert best.metrics["top1"] == pytest.approx(0.8 + best.policy.k0)
        assert best.metrics["loss_difference"] == pytest.approx(0.125)
        assert [point.iteration for point in best.curve] == [10, 20, 30, 40]
        assert best.cost["seconds"] > 0
    else:
        assert (runs[0].seed, runs[0].notes["evaluation_samples"]) == (3, 100)
    # The same object again is another experiment.
    searched(tmp_path / "again", trainable, record)
    assert len(stored(file)) == 6
    assert len({run.notes[EXPERIMENT] for run in stored(file)}) == 2


class Unlock(tune.Callback):
    """Ends another process's lock of the database once a result waits for it."""

    def __init__(self, record, other):
        self.record = record
        self.other = other

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self.record.waiting:
            self.other.rollback()


@pytest.mark.slow
def test_a_database_locked_during_the_search_stops_nothing(tmp_path, file, record, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.database.run_store._PAUSE", 0.5)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks = [record, Unlock(record, other)]
        done = searched(tmp_path, plain, record, {"pause": 0.2}, callbacks=callbacks)
    assert not other.in_transaction
    other.close()
    assert {trial.status for trial in done.trials} == {"TERMINATED"}
    assert Counter(run.notes[TRIAL] for run in stored(file)) == {
        trial.trial_id: 1 for trial in done.trials
    }
    assert any("locked by another process" in str(warning.message) for warning in caught)
    assert record.waiting == ()
    assert not list((tmp_path / "share" / "lrbench_hpo").glob("waiting-*"))


@pytest.mark.slow
def test_a_database_away_for_the_whole_search_gets_all_with_the_next(tmp_path, file, record):
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(UserWarning, match="3 results are not in the LR database yet"):
            searched(tmp_path, plain, record)
        assert len(record.waiting) == 3
        assert record.file.is_file()
    searched(tmp_path / "next", plain, RecordRuns(file))
    assert Counter(run.policy.k0 for run in stored(file)) == {0.01: 2, 0.02: 2, 0.03: 2}
    assert record.flush() == ()
    assert len(stored(file)) == 6


@pytest.mark.slow
def test_trials_that_fail_diverge_or_report_nothing_known(tmp_path, file, record):
    def odd(config):
        what = config["what"]
        if what == "raises":
            raise ValueError("broken at once")
        if what == "raises later":
            tune.report({"iteration": 10, "top1": 0.5})
            raise ValueError("broken later")
        if what == "nan":
            tune.report({"iteration": 10, "eval_loss": float("nan"), "score": float("nan")})
        if what == "unknown":
            tune.report({"mine": 1.0})

    cases = ["raises", "raises later", "nan", "unknown", "silent"]
    # One policy for all, so that nothing but the trial tells them apart.
    config = {"lr_policy": fixed(0.1), "what": tune.grid_search(cases)}
    done = searched(tmp_path, odd, record, config, metric="score", mode="max")
    by_case = {
        trial.config["what"]: [run for run in stored(file) if run.notes[TRIAL] == trial.trial_id]
        for trial in done.trials
    }
    assert {case: len(runs) for case, runs in by_case.items()} == dict.fromkeys(cases, 1)
    assert {case: runs[0].status for case, runs in by_case.items()} == {
        "raises": "failed",
        "raises later": "failed",
        "nan": "diverged",
        "unknown": "complete",
        "silent": "failed",
    }
    assert by_case["raises later"][0].curve == (CurvePoint(10, top1=0.5),)
    assert by_case["raises"][0].curve == ()


def test_a_metric_of_ones_own_tells_what_diverged_and_what_failed(tmp_path, file):
    def own(config):
        tune.report({"iteration": BUDGET, **config["reported"]})

    reported = [{"mine": 1.0}, {"mine": float("nan")}, {"other": 1.0}]
    config = {"lr_policy": fixed(0.1), "reported": tune.grid_search(reported)}
    searched(tmp_path, own, RecordRuns(file, metric="mine"), config, metric="mine", mode="max")
    assert Counter(run.status for run in stored(file)) == {
        "complete": 1,
        "diverged": 1,
        "failed": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [plain, Whole])
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: AsyncHyperBandScheduler("iteration", "top1", "max", max_t=BUDGET, grace_period=10),
        lambda: HyperBandScheduler("iteration", "top1", "max", max_t=BUDGET),
    ],
    ids=["asha", "hyperband"],
)
def test_what_a_scheduler_cuts_is_pruned(tmp_path, file, record, trainable, scheduler):
    worse_and_worse = [fixed(0.09 - 0.01 * i) for i in range(8)]
    config = {"lr_policy": tune.grid_search(worse_and_worse)}
    # HyperBand cuts nothing when fewer trials than its bracket are there at once.
    options = {"max_concurrent_trials": 8, "resources_per_trial": {"cpu": 2}}
    done = searched(tmp_path, trainable, record, config, scheduler=scheduler(), **options)
    runs = {run.notes[TRIAL]: run for run in stored(file)}
    assert len(stored(file)) == len(runs) == len(done.trials) == 8
    for trial in done.trials:
        reached = trial.last_result["iteration"]
        status = "complete" if reached == BUDGET else "pruned"
        assert runs[trial.trial_id].status == status
        assert runs[trial.trial_id].curve[-1].iteration == reached
    assert {run.status for run in runs.values()} == {"complete", "pruned"}


class Enough(tune.Stopper):
    """Ends an experiment as a time budget does, once a trial has reported something."""

    def __init__(self):
        self.reports = 0

    def __call__(self, trial_id, result):
        self.reports += 1
        return False

    def stop_all(self):
        return self.reports >= 2


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [plain, Whole])
@pytest.mark.parametrize("options", [{"stop": Enough}, {"time_budget_s": 3}])
def test_what_the_time_budget_ends_is_pruned(tmp_path, file, record, trainable, options):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    config = {"lr_policy": policies(4), "pause": 0.5}
    done = searched(tmp_path, trainable, record, config, **options)
    runs = {run.notes[TRIAL]: run for run in stored(file)}
    # Those that had not begun, or not reported, taught nothing.
    reported = [trial for trial in done.trials if "iteration" in trial.last_result]
    assert {trial.trial_id for trial in reported} == set(runs)
    assert len(stored(file)) == len(runs)
    for trial in reported:
        reached = trial.last_result["iteration"]
        assert runs[trial.trial_id].curve[-1].iteration == reached
        assert runs[trial.trial_id].status == ("complete" if reached == BUDGET else "pruned")
    if "stop" in options:
        assert "pruned" in {run.status for run in runs.values()}


@pytest.mark.slow
def test_retries_of_a_trial_are_one_run(tmp_path, file, record):
    def fragile(config):
        flag = config["flag"] + str(config["lr_policy"]["k0"])
        tune.report({"iteration": 10, "top1": 0.3})
        if not os.path.exists(flag):
            open(flag, "w").close()
            raise ValueError("once")
        tune.report({"iteration": BUDGET, "top1": 0.6})

    searched(tmp_path, fragile, record, {"flag": str(tmp_path / "flag")}, max_failures=2)
    assert [(run.status, len(run.curve)) for run in stored(file)] == [("complete", 2)] * 3


@pytest.mark.slow
def test_optuna_search_with_policies_in_its_config(tmp_path, file, record):
    config = {
        "lr_policy": {"function": "TRI", "k0": 0.001, "k1": tune.loguniform(0.01, 1), "l": 10},
        "seed": 5,
        "weight_decay": tune.uniform(0, 0.1),
        "batch_size": 50,
    }
    search = OptunaSearch(metric="top1", mode="max", seed=0)

    def named(config):
        tune.report({"iteration": BUDGET, "top1": config["lr_policy"]["k1"] / 2})

    searched(
        tmp_path,
        named,
        record,
        config,
        search_alg=search,
        num_samples=4,
    )
    runs = stored(file)
    assert len(runs) == 4
    assert {(run.policy.function, run.seed, run.task.batch_size) for run in runs} == {
        ("TRI", 5, 50)
    }
    assert len({run.task.weight_decay for run in runs}) == 4


def test_a_policy_from_ones_own_config_and_names_from_keywords(tmp_path, file):
    record = RecordRuns(
        file,
        dataset="flowers",
        model="vgg16",
        policy=lambda config: LRPolicy("FIX", k0=config["lr"]),
        source="team",
    )

    def own(config):
        tune.report({"top1": 0.5})
        tune.report({"top1": 0.6})

    config = {"lr": tune.grid_search([0.1, 0.2])}
    given = {"config": config, "callbacks": [record], "storage_path": str(tmp_path / "ray")}
    tune.run(own, **given, verbose=0, reuse_actors=True, max_concurrent_trials=1)
    with connect(file) as db:
        runs = db.find("flowers", "VGG-16", source="team", curves=True)
    assert sorted(run.policy.k0 for run in runs) == [0.1, 0.2]
    assert {(run.max_iterations, run.metrics["iterations_to_best"]) for run in runs} == {(2, 2)}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lr_policy": None}, "without an LR policy are not recorded"),
        ({"model": None}, "of an unknown model are not recorded"),
        ({"lr_policy": {"function": "SINNEXP"}}, "did you mean SINEXP"),
    ],
)
def test_a_trial_that_cannot_be_recorded_is_told_and_harms_nothing(
    tmp_path, file, record, config, says
):
    def own(config):
        tune.report({"top1": 0.5})

    with pytest.warns(UserWarning, match=says) as told:
        done = searched(tmp_path, own, record, {"lr_policy": fixed(0.1), **config}, num_samples=2)
    assert {trial.status for trial in done.trials} == {"TERMINATED"}
    assert stored(file) == []
    if "did you mean" not in says:
        assert sum(says in str(warning.message) for warning in told) == 1


def test_values_that_break_a_rule_are_told_and_left_out(tmp_path, file, record):
    def in_per_cent(config):
        tune.report({"iteration": BUDGET, "top1": 93.1, "eval_loss": np.float32(0.5)})

    with pytest.warns(UserWarning, match="reported top1 is left out: .*per cent"):
        searched(tmp_path, in_per_cent, record)
    assert [run.metrics for run in stored(file)] == [{"eval_loss": 0.5}] * 3


DRIVER = """
import os, sys, warnings
os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
sys.path.insert(0, {tests!r})
import ray
from ray import tune, cloudpickle
import test_record_runs as t
ray.init(address={address!r}, log_to_driver=False)
{code}
"""


def driver(code):
    """A driver in a process that can be killed."""
    address = ray.get_runtime_context().gcs_address
    code = textwrap.dedent(code)
    text = DRIVER.format(tests=os.path.dirname(__file__), address=address, code=code)
    return subprocess.Popen([sys.executable, "-c", text], env=os.environ.copy())


@contextlib.contextmanager
def killed_after(file, code, rows):
    """Run a driver until so many rows are stored, and kill it with all that is left of it."""
    process = driver(code)
    try:
        limit = time.monotonic() + 120
        while len(stored(file)) < rows and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    yield


SEARCH = """
t.searched({tmp!r}, t.{trainable}, t.RecordRuns({file!r}),
    {{"lr_policy": t.policies(6), "pause": 0.1}}, resume={resume}, max_failures=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["plain", "Whole"])
def test_a_killed_driver_that_resumes_stores_each_trial_once(tmp_path, file, trainable):
    code = SEARCH.format(tmp=str(tmp_path), trainable=trainable, file=str(file), resume=False)
    with killed_after(file, code, rows=2):
        before = {run.uid for run in stored(file)}
    resumed = driver(code.replace("resume=False", "resume=True"))
    assert resumed.wait(timeout=300) == 0
    runs = stored(file)
    assert before <= {run.uid for run in runs}
    assert Counter(run.policy.k0 for run in runs) == {
        LRPolicy.from_dict(fixed(0.01 * (i + 1))).k0: 1 for i in range(6)
    }
    assert {run.status for run in runs} == {"complete"}
    assert len({run.notes[EXPERIMENT] for run in runs}) == 1


@pytest.mark.slow
def test_a_tuner_is_restored_and_a_failed_trial_is_run_again(tmp_path, file, record):
    def healing(config):
        tune.report({"iteration": 10, "top1": 0.3})
        if not os.path.exists(config["flag"]) and config["lr_policy"]["k0"] < 0.02:
            raise ValueError("not yet")
        tune.report({"iteration": BUDGET, "top1": 0.6})

    space = {
        "dataset": "digits",
        "model": "mlp",
        "max_iterations": BUDGET,
        "lr_policy": policies(3),
        "flag": str(tmp_path / "flag"),
    }
    run_config = tune.RunConfig(
        name="healing", storage_path=str(tmp_path / "ray"), callbacks=[record], verbose=0
    )
    tune_config = tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1)
    tuner = tune.Tuner(healing, param_space=space, tune_config=tune_config, run_config=run_config)
    tuner.fit()
    assert Counter(run.status for run in stored(file)) == {"complete": 2, "failed": 1}
    place = str(tmp_path / "ray" / "healing")
    # Restored with nothing to do: nothing is stored.
    tune.Tuner.restore(place, trainable=healing).fit()
    assert len(stored(file)) == 3
    # Failed again: it is known already.
    tune.Tuner.restore(place, trainable=healing, resume_errored=True).fit()
    assert len(stored(file)) == 3
    (tmp_path / "flag").touch()
    tune.Tuner.restore(place, trainable=healing, resume_errored=True).fit()
    runs = stored(file)
    assert Counter(run.status for run in runs) == {"complete": 3, "failed": 1}
    assert len({run.notes[EXPERIMENT] for run in runs}) == 1
    assert len({run.notes[TRIAL] for run in runs}) == 3


def trial_run(record, trial, lr=0.1, status="complete", seed=0):
    return Run(
        Task("digits", "mlp"),
        LRPolicy("FIX", k0=lr),
        BUDGET,
        seed=seed,
        status=status,
        notes={EXPERIMENT: record.get_state()["experiment"], TRIAL: trial},
    )


class Known:
    """A trial of Ray's, of which only the id is looked at."""

    def __init__(self, trial_id):
        self.trial_id = trial_id
        self.status = "RUNNING"


def test_what_a_killed_driver_had_stored_is_not_stored_under_another_id(file):
    first = RecordRuns(file)
    state = first.get_state()
    with connect(file) as db:
        for trial, lr, status in [("a", 0.1, "complete"), ("b", 0.2, "failed")]:
            db.add(trial_run(first, trial, lr, status))
        db.add(trial_run(RecordRuns(file), "z", 0.3))  # of another experiment
    again = RecordRuns(file)
    again.set_state(pickle.loads(pickle.dumps(state)))  # noqa: S301
    again.setup()
    again.on_step_end(1, [Known(trial) for trial in "cdefgh"])
    for trial, lr, status, seed in [
        ("c", 0.1, "complete", 0),  # what "a" was
        ("d", 0.1, "complete", 0),  # the same policy once more, as nobody ran it yet
        ("e", 0.1, "complete", 1),
        ("f", 0.2, "failed", 0),  # what "b" was
        ("g", 0.2, "complete", 0),
        ("h", 0.3, "complete", 0),
        ("h", 0.3, "complete", 0),  # told twice
    ]:
        again._opened().add(trial_run(again, trial, lr, status, seed))
    again.on_experiment_end([])
    mine = [
        run.notes[TRIAL] for run in stored(file) if run.notes[EXPERIMENT] == state["experiment"]
    ]
    assert sorted(mine) == ["a", "b", "d", "e", "g", "h"]


def test_it_is_looked_up_even_when_the_database_comes_back_late(file):
    first = RecordRuns(file)
    with connect(file) as db:
        db.add(trial_run(first, "a"))
    again = RecordRuns(f"sqlite:///{file}?timeout=0.05")
    again.set_state(first.get_state())
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(UserWarning, match="locked"):
            again.setup()
        again.on_step_end(1, [Known("a"), Known("b")])
        again._opened().add(trial_run(again, "a"), trial_run(again, "b", 0.2))
        assert len(again.waiting) == 2
    assert again.flush() == ()
    assert sorted(run.notes[TRIAL] for run in stored(file)) == ["a", "b"]


def test_it_pickles_without_connection_and_password(file, monkeypatch):
    record = RecordRuns(file)
    record.setup()
    assert pickle.loads(pickle.dumps(record)).waiting == ()  # noqa: S301
    with connect(file) as db:
        copy = pickle.loads(pickle.dumps(RecordRuns(db)))  # noqa: S301
    copy.setup()
    assert copy._opened()._url.database == str(file)
    url = "postgresql://me:secret@host/lr"
    text = cloudpickle.dumps(RecordRuns(url))
    assert b"secret" not in text
    opened = []
    monkeypatch.setenv("LRBENCH_DATABASE_URL", url)
    monkeypatch.setattr(
        "lrbench_hpo.ray_tune.record_runs.RunStore", lambda url, **_: opened.append(url)
    )
    pickle.loads(text)._opened()  # noqa: S301
    assert opened == [url]


def test_bad_input_is_one_line(tmp_path):
    for arguments, error, says in [
        ({"database": "mongodb://h/x"}, DatabaseError, "mongodb"),
        ({"policy": fixed(0.1)}, StudyError, "policy=dict"),
    ]:
        with pytest.raises(error, match=says) as caught:
            RecordRuns(**arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(LRBenchError, match="this is a folder"):
        RecordRuns(tmp_path).setup()


@pytest.mark.slow
def test_the_ready_trainable_is_stored_as_it_reports(tmp_path, file, record):
    from lrbench_hpo import train

    done = searched(tmp_path, train, record, {"seed": 1})
    runs = {run.notes[TRIAL]: run for run in stored(file)}
    assert len(runs) == len(stored(file)) == 3
    for trial in done.trials:
        run = runs[trial.trial_id]
        assert (run.status, run.seed, run.max_iterations) == ("complete", 1, BUDGET)
        assert run.metrics["top1"] == trial.last_result["top1"]
        assert run.environment["device"]
        assert run.task.num_parameters
