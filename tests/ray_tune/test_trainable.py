from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator

import pytest
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule
from ray.tune.search import Repeater, Searcher
from torch import nn

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import DataError, RecordError, TrainingError, UnknownNameError
from lrbench_hpo.ray_tune.on_worker import best_weights, check_on_worker, measure_on_worker
from lrbench_hpo.ray_tune.trainable import Train, train
from lrbench_hpo.records.member_reports import members_in
from lrbench_hpo.records.reports import final_status, run_in
from lrbench_hpo.records.score import ScoreWeights, score_run
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import Trainer, load_data

POLICY = LRPolicy("SIN2", k0=0.001, k1=0.1, l=5)
BUDGET = 60
CONFIG = {
    "dataset": "digits",
    "model": "mlp",
    "lr_policy": POLICY.to_dict(),
    "max_iterations": BUDGET,
}
RATES = (0.2, 0.1, 0.05, 0.02, 0.005, 0.001, 0.0002, 0.0001)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the trials have, for numbers that are equal and not just close."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Trainables of this process leave their files in the test's own folder."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    made = []

    def trainable(**changes):
        made.append(Train({**CONFIG, **changes}))
        return made[-1]

    yield trainable
    for each in made:
        each.stop()


@pytest.fixture
def search(local_ray, tmp_path):
    """`tune.run` with what every test gives."""
    return functools.partial(searched, tmp_path)


@pytest.fixture(scope="module")
def plain_trial(local_ray, tmp_path_factory):
    """The trial of an experiment with `CONFIG` as it is."""
    return searched(tmp_path_factory.mktemp("plain")).trials[0]


def searched(folder, config=None, **options):
    given = {
        "storage_path": str(folder),
        "verbose": 0,
        "metric": "score",
        "mode": "max",
        # One process for all trials, as each takes seconds to load torch.
        "reuse_actors": True,
        "max_concurrent_trials": 1,
    }
    return tune.run(Train, config={**CONFIG, **(config or {})}, **{**given, **options})


@functools.cache
def trained(policy=POLICY, seed=0, budget=BUDGET):
    data = load_data("digits", seed=seed)
    recipe = recipe_for("digits", "mlp", max_iterations=budget)
    return Trainer(data, "mlp", recipe, device="cpu", seed=seed).train(policy, budget)


def finished(trainable):
    result = trainable.train()
    while not result["done"]:
        result = trainable.train()
    return result


def fixed(rate):
    return LRPolicy("FIX", k0=rate).to_dict()


class Fixed(Searcher):
    """Suggests one policy for ever."""

    def suggest(self, trial_id):
        return {"lr_policy": POLICY.to_dict()}

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass

    def save(self, checkpoint_path):
        pass

    def restore(self, checkpoint_path):
        pass


class KillWorker(tune.Callback):
    """Kills the process of a trial at its third report, once."""

    def __init__(self):
        self.killed = None

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self.killed is None and result["training_iteration"] == 3:
            self.killed = result["pid"]
            os.kill(self.killed, signal.SIGKILL)


class Pids(tune.Callback):
    """Notes which process each trial reported from."""

    def __init__(self):
        self.of_trials = {}

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.of_trials.setdefault(trial.trial_id, set()).add(result["pid"])


def test_a_trial_gives_the_trainers_numbers(plain_trial):
    trial = plain_trial
    expected = trained().run
    run = run_in(trial.last_result)
    assert (run.curve, dict(run.metrics)) == (expected.curve, dict(expected.metrics))
    assert (run.task, run.policy, run.seed) == (expected.task, POLICY, 0)
    assert trial.last_result["score"] == score_run(expected, ScoreWeights())
    assert final_status(trial.last_result) == run.status == "complete"
    assert run.environment["threads"] == 1


def test_each_report_is_an_evaluation_with_the_same_keys(here):
    trainable = here()
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    expected = trained().run
    assert [r["iteration"] for r in results] == [p.iteration for p in expected.curve]
    assert [r["status"] for r in results] == ["running"] * (len(results) - 1) + ["complete"]
    assert len({frozenset(r) for r in results}) == 1
    assert [r["should_checkpoint"] for r in results] == [r["done"] for r in results]


def test_a_checkpoint_is_due_when_its_time_has_come(here):
    assert here(checkpoint_seconds=0).train()["should_checkpoint"]
    assert not here().train()["should_checkpoint"]


def test_another_process_goes_on_exactly(here):
    first = here()
    first.train()
    first.train()
    saved = first.save()
    second = here()
    second.restore(saved)
    expected = trained()
    for trainable in (first, second):
        run = run_in(finished(trainable))
        assert (run.curve, dict(run.metrics)) == (expected.run.curve, dict(expected.run.metrics))
    last = second.save()
    weights = best_weights(last.checkpoint.path)
    assert all(torch.equal(weights[key], expected.state[key]) for key in expected.state)


def test_a_finished_trial_that_is_restored_only_reports_again(here):
    first = here()
    before = run_in(finished(first))
    saved = first.save()
    second = here()
    second.restore(saved)
    result = second.train()
    assert (result["done"], result["status"]) == (True, "complete")
    assert run_in(result).curve == before.curve
    assert run_in(result).cost == before.cost


def test_another_trial_in_the_same_process_uses_the_same_trainer(here):
    trainable = here()
    finished(trainable)
    trainer = trainable._trainer
    policy = LRPolicy("FIX", k0=0.03)
    assert trainable.reset({**CONFIG, "lr_policy": policy.to_dict(), "checkpoint_seconds": 5})
    assert trainable._trainer is trainer
    run = run_in(finished(trainable))
    assert (run.policy, run.curve) == (policy, trained(policy).run.curve)
    assert trainable.reset({**CONFIG, "seed": 1})
    assert trainable._trainer is not trainer
    assert run_in(finished(trainable)).curve == trained(seed=1).run.curve


def test_a_population_is_a_trial_like_any_other(here):
    policies = [POLICY, LRPolicy("FIX", k0=0.1)]
    config = {"lr_policy": None, "lr_policies": [p.to_dict() for p in policies]}
    config |= {"executor": "stream", "early_stopping": False}
    trainable = here(**config)
    first = trainable.train()
    saved = trainable.save()
    again = here(**config)
    again.restore(saved)
    for each in (trainable, again):
        last = finished(each)
        assert (last["status"], last["iteration"], last["rung"]) == ("complete", BUDGET, 10)
        assert last["should_checkpoint"]
        runs = {place: run_in(report) for place, report in members_in(last).items()}
        assert {place: run.curve for place, run in runs.items()} == {
            place: trained(policy).run.curve for place, policy in enumerate(policies)
        }
        assert first["score"] <= last["score"] == max(score_run(run) for run in runs.values())
    weights = best_weights(again.save().checkpoint.path, member=0)
    expected = trained(POLICY).state
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    trainer = again._trainer
    assert again.reset({**CONFIG, "checkpoint_seconds": 5})  # one policy, after a population
    assert again._trainer is trainer
    assert run_in(finished(again)).curve == trained().run.curve


def test_a_damaged_checkpoint_is_one_line(here, tmp_path):
    trainable = here()
    for content in (None, b"no checkpoint"):
        if content is not None:
            (tmp_path / "session.pt").write_bytes(content)
        with pytest.raises(TrainingError, match="no checkpoint that can be read") as caught:
            trainable.load_checkpoint(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_diverged_trial_ends_without_an_error(search):
    trial = search({"model": "lenet", "lr_policy": fixed(1000.0)}).trials[0]
    assert (trial.status, trial.last_result["status"]) == ("TERMINATED", "diverged")
    assert final_status(trial.last_result) == "diverged"


def test_processes_are_reused(search):
    pids = Pids()
    rates = tune.grid_search([fixed(rate) for rate in RATES])
    trials = search({"lr_policy": rates}, callbacks=[pids]).trials
    assert len({pid for found in pids.of_trials.values() for pid in found}) == 1
    for rate, trial in zip(RATES, trials, strict=True):
        assert run_in(trial.last_result).curve == trained(LRPolicy("FIX", k0=rate)).run.curve


SCHEDULERS = {
    "asha": lambda: ASHAScheduler(
        time_attr="iteration", max_t=BUDGET, grace_period=10, reduction_factor=3
    ),
    "hyperband": lambda: HyperBandScheduler(
        time_attr="iteration", max_t=BUDGET, reduction_factor=4
    ),
    "median": lambda: MedianStoppingRule(
        time_attr="iteration", grace_period=10, min_samples_required=2
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_cut_trials_and_change_no_number(search, name):
    rates = tune.grid_search([fixed(rate) for rate in RATES])
    # HyperBand cuts nothing when fewer trials than its bracket are there at once.
    options = {"scheduler": SCHEDULERS[name](), "max_concurrent_trials": 8}
    trials = search({"lr_policy": rates}, **options).trials
    statuses = []
    for rate, trial in zip(RATES, trials, strict=True):
        assert trial.status == "TERMINATED"
        run = run_in(trial.last_result)
        whole = trained(LRPolicy("FIX", k0=rate)).run
        assert run.curve == whole.curve[: len(run.curve)]
        statuses.append(final_status(trial.last_result))
        assert (statuses[-1] == "complete") == (run.curve[-1].iteration == BUDGET)
    assert set(statuses) == {"complete", "pruned"}


class Enough(tune.Stopper):
    """Ends an experiment as a time budget does, once its trial has reported some times."""

    def __init__(self):
        self.reports = 0

    def __call__(self, trial_id, result):
        self.reports += 1
        return False

    def stop_all(self):
        return self.reports >= 3


def test_what_a_time_limit_ends_leaves_the_run_so_far(search):
    changes = {"max_iterations": 10**7, "evaluations": 10**5, "lr_policy": fixed(0.01)}
    trial = search(changes, stop=Enough()).trials[0]
    assert trial.status == "TERMINATED"
    assert final_status(trial.last_result) == "pruned"
    assert len(run_in(trial.last_result).curve) > 1


@pytest.mark.slow
def test_repeated_trials_have_seeds_of_their_own(search):
    repeater = Repeater(Fixed(metric="score", mode="max"), repeat=2)
    trials = search(search_alg=repeater, num_samples=2, max_concurrent_trials=0).trials
    runs = {run.seed: run for run in (run_in(trial.last_result) for trial in trials)}
    assert set(runs) == {0, 1}
    assert all(run.curve == trained(seed=seed).run.curve for seed, run in runs.items())


@pytest.mark.slow
def test_a_killed_worker_changes_no_number(search):
    killer, pids = KillWorker(), Pids()
    trial = search(
        {"checkpoint_seconds": 0, "max_iterations": 600},
        callbacks=[pids, killer],
        max_failures=1,
        reuse_actors=False,
    ).trials[0]
    assert killer.killed in pids.of_trials[trial.trial_id]
    assert len(pids.of_trials[trial.trial_id]) == 2
    run = run_in(trial.last_result)
    expected = trained(budget=600).run
    assert (run.curve, dict(run.metrics)) == (expected.curve, dict(expected.metrics))
    assert run.status == "complete"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"epochs": 3}, UnknownNameError, "unknown config key 'epochs'"),
        ({"lr_policy": None}, RecordError, "LRBenchSearcher"),
        ({"dataset": None}, RecordError, "config has no 'dataset'"),
    ],
)
def test_a_config_that_cannot_work_ends_on_the_driver(search, change, error, words):
    with pytest.raises(error, match=words):
        search(change)


@pytest.mark.slow
def test_missing_data_are_one_line_in_the_trials_error(search, tmp_path):
    change = {"dataset": "mnist", "data": str(tmp_path / "nowhere")}
    trial = search(change, raise_on_failed_trial=False).trials[0]
    assert trial.status == "ERROR"
    with open(trial.error_file) as file:
        last = file.read().strip().splitlines()[-1]
    assert "DataError: mnist: " in last
    assert "point --data DIR" in last


@pytest.mark.slow
def test_resources_are_the_configs_or_rays_own(search):
    assert Train.default_resource_request(CONFIG) is None
    asked = Train.default_resource_request({**CONFIG, "resources": {"cpu": 2, "gpu": 0.5}})
    assert asked.bundles == [{"CPU": 2.0, "GPU": 0.5}]
    own = search({"resources": {"cpu": 2}}).trials[0]
    rays = search(resources_per_trial={"cpu": 3}).trials[0]
    threads = [run_in(trial.last_result).environment["threads"] for trial in (own, rays)]
    assert threads == [2, 3]


def test_the_tuner_runs_it_too(local_ray, tmp_path):
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=CONFIG,
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    (result,) = tuner.fit()
    assert run_in(result.metrics).curve == trained().run.curve
    assert result.checkpoint is not None


def test_data_and_models_may_be_given_as_objects(search):
    data = load_data("digits")
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    trial = search({"dataset": data, "model": model}).trials[0]
    recipe = recipe_for("digits", "any", max_iterations=BUDGET)
    expected = Trainer(data, model, recipe, device="cpu").train(POLICY, BUDGET).run
    run = run_in(trial.last_result)
    assert (run.curve, run.task) == (expected.curve, expected.task)
    assert trial.last_result["config"]["dataset"] == "digits"  # not the images, with each report


@pytest.mark.slow
def test_a_config_is_checked_and_a_winner_measured_on_a_worker(plain_trial):
    plain = {key: value for key, value in CONFIG.items() if key != "lr_policy"}
    checked = ray.get(ray.remote(check_on_worker).remote(plain))
    task = {"num_classes": 10, "num_train": 1437, "image_shape": [1, 16, 16], "dataset": "digits"}
    assert task.items() <= checked["task"].items()
    assert (checked["dataset"], checked["repeatable"]) == ("digits", True)
    assert checked["environment"]["threads"] == 1
    arguments = (plain_trial.config, plain_trial.checkpoint)
    measured = ray.get(ray.remote(measure_on_worker).remote(*arguments))
    trainer = Trainer(load_data("digits"), "mlp", device="cpu")
    assert measured == trainer.test(trained().state)
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        ray.get(ray.remote(check_on_worker).remote({**plain, "dataset": "nowhere.npz"}))
