"""What is read of Ray's private state is there, on the releases of Ray in `TRIED_VERSIONS`."""

import os

import pytest
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Repeater, Searcher
from ray.tune.search.repeater import TRIAL_INDEX as RAYS_TRIAL_INDEX

from lrbench_hpo.ray_tune.ray_internals import (
    TRIED_VERSIONS,
    accept_reports_without_metric,
    controller,
    experiment_exists,
    experiment_spec,
    last_report,
    last_result,
    metric_and_mode_of_run,
    refuse_population_based_training,
    refuse_repeater,
    trials_by_id,
)
from lrbench_hpo.ray_tune.trial_config import TRIAL_INDEX


def test_this_release_of_ray_was_tried():
    assert ray.__version__ in TRIED_VERSIONS, (
        f"Ray {ray.__version__} is new: run all tests of this folder with it, mend "
        "lrbench_hpo/ray_tune/ray_internals.py where they fail, and add it to TRIED_VERSIONS"
    )


class Looks(Searcher):
    """Keeps what a searcher finds while Ray calls it."""

    def __init__(self):
        super().__init__(metric="score", mode="max")
        self.first = {}
        self.ended = []

    def suggest(self, trial_id):
        host = controller()
        if not self.first:
            self.first = {
                "attributes": sorted(vars(host).keys() & {"_search_alg", "_scheduler_alg"}),
                "scheduler": type(host._scheduler_alg),
                "searcher": host._search_alg.searcher,
                "spec": dict(experiment_spec(host)),
                "given": metric_and_mode_of_run(),
                "trials": trials_by_id(host),
            }
        refuse_repeater(host)
        refuse_population_based_training(host)
        return {}

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.ended.append(trials_by_id(controller())[trial_id].trial_id)

    def save(self, checkpoint_path):
        pass

    def restore(self, checkpoint_path):
        pass


def test_a_searcher_finds_what_it_has_to_look_for(local_ray, tmp_path):
    def train(config):
        tune.report({"level": {"loss": 0.5}})
        if os.path.exists(tmp_path / "reported"):
            raise OSError("no space left on device")
        (tmp_path / "reported").touch()

    looks = Looks()
    done = tune.run(
        train,
        name="named",
        search_alg=looks,
        metric="level/loss",
        mode="min",
        stop={"training_iteration": 3},
        num_samples=2,
        max_concurrent_trials=0,
        storage_path=str(tmp_path),
        raise_on_failed_trial=False,
        verbose=0,
        resources_per_trial={"cpu": 4},  # one after the other
    )
    assert looks.first == {
        "attributes": ["_scheduler_alg", "_search_alg"],
        "scheduler": FIFOScheduler,
        "searcher": looks,
        "spec": looks.first["spec"],
        "given": ("level/loss", "min"),
        "trials": {},
    }
    assert looks.first["spec"]["stop"] == {"training_iteration": 3}
    assert looks.ended == [trial.trial_id for trial in done.trials]
    for trial, failed in zip(done.trials, (False, True), strict=True):
        assert last_result(trial)["level"] == {"loss": 0.5}
        report, said_to_have_failed = last_report(trial)
        assert (report["level/loss"], said_to_have_failed) == (0.5, failed)
    assert experiment_exists(str(tmp_path), "named")
    assert not experiment_exists(str(tmp_path), "another")
    assert not experiment_exists(str(tmp_path), None)


def test_repeated_trials_are_refused_for_populations(local_ray, tmp_path):
    options = {"num_samples": 2, "max_concurrent_trials": 0, "verbose": 0}
    with pytest.raises(Exception, match="Repeater tells the mean of several trials"):
        tune.run(
            lambda config: None,
            search_alg=Repeater(Looks(), repeat=2),
            storage_path=str(tmp_path),
            **options,
        )


def test_outside_ray_there_is_nothing_to_find():
    host = controller()
    assert host is None
    assert metric_and_mode_of_run() == (None, None)
    assert experiment_spec(host) == {}
    assert trials_by_id(host) is None
    refuse_population_based_training(host)
    refuse_repeater(host)


def test_names_that_ray_gives_are_the_same(monkeypatch):
    assert TRIAL_INDEX == RAYS_TRIAL_INDEX
    monkeypatch.delenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", raising=False)
    accept_reports_without_metric()
    assert os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] == "1"
