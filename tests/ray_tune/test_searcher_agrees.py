"""The searcher's study agrees with the trials that Ray has, whatever was lost in between."""

import os
import pickle
import re
import shutil
import time
import warnings
from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray import tune

from lrbench_hpo import LRPolicy, Run
from lrbench_hpo.errors import StudyError
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.records.score import ScoreWeights, score_run

MEMORY = "sqlite://"
TASK = {"max_iterations": 400, "database": MEMORY}
LIMIT = 90  # seconds after which a search that hangs is ended, and counts as failed


def made(dataset="digits", model="mlp", **options):
    return LRBenchSearcher(dataset, model, **{**TASK, "seed": 0, **options})


def asked(searcher):
    return [t for t in searcher.study.trials if t.state != TrialState.WAITING]


def search(trainable, searcher, tmp_path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return tune.run(
            trainable,
            search_alg=searcher,
            storage_path=str(tmp_path),
            raise_on_failed_trial=False,
            verbose=0,
            # One process for all trials, as each takes a second or two to start.
            **{"reuse_actors": True, "max_concurrent_trials": 1, **options},
        )


def whole(config):
    tune.report({"score": 0.5, "iteration": config["max_iterations"]})


class Enough(tune.Stopper):
    """Ends an experiment as a time budget does, once its trials have reported something."""

    def __init__(self, reports=3):
        self.reports = reports

    def __call__(self, trial_id, result):
        self.reports -= 1
        return False

    def stop_all(self):
        return self.reports <= 0


# Experiments one after the other


def test_a_second_experiment_is_not_held_up_by_trials_that_the_first_left(local_ray, tmp_path):
    """Ray never tells the end of those that its stopper or time budget ends."""

    def endless(config):
        for number in range(1, 10_000):
            tune.report({"score": 0.1, "iteration": min(number, 300)})
            time.sleep(0.05)

    searcher = made()
    options = {"max_concurrent_trials": 2, "config": {"a": 1}}
    search(endless, searcher, tmp_path, num_samples=4, stop=Enough(), **options)
    left = searcher.live
    assert len(left) == 2  # as many as may be live at all
    done = search(whole, searcher, tmp_path, num_samples=4, time_budget_s=LIMIT, **options)
    assert [trial.status for trial in done.trials] == ["TERMINATED"] * 4
    assert searcher.live == ()
    trials = {trial.user_attrs["trial_id"]: trial.state for trial in asked(searcher)}
    assert {trials[trial.trial_id] for trial in done.trials} == {TrialState.COMPLETE}
    assert {trials[trial_id] for trial_id in left} <= {TrialState.PRUNED, TrialState.FAIL}
    assert TrialState.PRUNED in {trials[trial_id] for trial_id in left}


# Files from different moments


class Keep(tune.Callback):
    """Copies an experiment's files whenever they tell of so many finished trials.

    Trials wait for it, so that the files are from exactly these moments.
    """

    def __init__(self, folder, copies, hold):
        self.folder = folder
        self.copies = dict(copies)
        self.hold = hold
        self.ended = 0

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.ended += 1
        if self.ended in self.copies:
            self.hold.touch()

    def on_step_end(self, iteration, trials, **info):
        copy = self.copies.get(self.ended)
        if copy is None or not self.hold.exists():
            return
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(self.folder, copy)
        except shutil.Error:  # of a file that was just replaced
            return
        if ended(copy) == (self.ended, self.ended):
            self.hold.unlink()


def ended(folder):
    """How many trials have finished by Ray's file, and by the searcher's."""
    searcher = LRBenchSearcher()
    try:
        searcher.restore_from_dir(str(folder))
        trials = tune.ExperimentAnalysis(str(folder)).trials
        for file in folder.glob("search_gen_state*"):
            pickle.loads(file.read_bytes())  # noqa: S301
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, ValueError):
        return None  # half written
    told = [trial for trial in asked(searcher) if trial.state == TrialState.COMPLETE]
    return sum(trial.is_finished() for trial in trials), len(told)


@pytest.fixture(scope="module")
def moments(local_ray, tmp_path_factory):
    """The files of one experiment after two trials of six, and after four; its place, its options.

    Tests put the files there again and go on with them.
    """
    place = tmp_path_factory.mktemp("moments")
    hold, folder = place / "hold", place / "search"
    copies = {2: place / "two", 4: place / "four"}

    def held(config):
        while hold.exists():
            time.sleep(0.02)
        tune.report({"score": 0.5, "iteration": 400})

    options = {
        "name": "search",
        "config": {"a": 1},
        "num_samples": 6,
        "max_concurrent_trials": 1,
        "time_budget_s": 10 * LIMIT,  # from the first start, for all that go on with it
    }
    keep = Keep(folder, copies, hold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
        search(held, made(), place, callbacks=[keep], **options)
    assert all(copy.exists() for copy in copies.values())
    return copies[2], copies[4], folder, options


def put_back(copy, folder):
    """Make the files of an experiment those of a copy, as a driver's that was killed then."""
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    # Ray goes on from the newest files, also of those that it still has in its session's folder.
    for staged in Path(os.environ["RAY_TMPDIR"]).glob(f"**/artifacts/*/{folder.name}"):
        shutil.rmtree(staged)


SEARCHER = ["searcher-state*"]
SUGGESTED = ["searcher-state*", "search_gen_state*"]


@pytest.mark.slow
@pytest.mark.parametrize("files", [SEARCHER, SUGGESTED], ids=["searcher", "and its wrapper"])
@pytest.mark.parametrize("newer", ["the searcher's", "Ray's"])
def test_files_of_a_killed_driver_may_be_from_different_moments(moments, newer, files):
    two, four, folder, options = moments
    of_ray, of_searcher = (two, four) if newer == "the searcher's" else (four, two)
    put_back(of_ray, folder)
    for pattern in files:
        [file] = of_searcher.glob(pattern)
        shutil.copy(file, folder / file.name)
    before = [trial.trial_id for trial in tune.ExperimentAnalysis(str(folder)).trials]
    searcher = made()
    done = search(whole, searcher, folder.parent, resume="AUTO", **options)
    ids = {trial.trial_id for trial in done.trials}
    assert {trial.status for trial in done.trials} == {"TERMINATED"}
    assert set(before) < ids
    if files == SEARCHER:
        # Ray's wrapper counts the samples, and may be one off Ray's trials: its files, too, are
        # from moments of their own.
        assert len(ids) in {5, 6, 7}
    told = {trial.user_attrs["trial_id"]: trial for trial in asked(searcher) if known(trial)}
    assert ids <= told.keys()
    for trial in done.trials:
        mine = told[trial.trial_id]
        assert (mine.state, mine.value) == (TrialState.COMPLETE, 0.5)
        assert mine.user_attrs["policy"] == trial.config["lr_policy"]
    assert len({str(trial.config["lr_policy"]) for trial in done.trials}) == len(ids)
    assert TrialState.RUNNING not in {trial.state for trial in searcher.study.trials}
    assert searcher.live == ()


def known(trial):
    return "trial_id" in trial.user_attrs


# Experiments of which Ray says nothing


@pytest.mark.parametrize("at_once", [None, 2])
@pytest.mark.parametrize("how", ["run", "Tuner"])
def test_metric_and_mode_arrive_without_any_config(local_ray, tmp_path, how, at_once):
    """Ray tells a searcher nothing of an experiment with an empty config."""

    def train(config):
        tune.report({"val_loss": 0.5 + config["lr_policy"]["k0"], "iteration": 400})

    policies = [LRPolicy("FIX", k0=value) for value in (0.2, 0.1, 0.3)]
    searcher = made(points_to_evaluate=policies)
    options = {"metric": "val_loss", "mode": "min", "num_samples": 3}
    if how == "run":
        search(train, searcher, tmp_path, max_concurrent_trials=at_once, **options)
    else:
        tune.Tuner(
            train,
            tune_config=tune.TuneConfig(
                search_alg=searcher, max_concurrent_trials=at_once, reuse_actors=True, **options
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    assert (searcher.metric, searcher.mode) == ("val_loss", "min")
    assert [trial.state for trial in asked(searcher)] == [TrialState.COMPLETE] * 3
    best = searcher.study.best_trial.user_attrs["policy"]
    assert LRPolicy.from_dict(best) == policies[1]


# Files of another search


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"dataset": "mnist"}, "mnist"),
        ({"model": "lenet"}, "lenet, not mlp"),
        ({"max_iterations": 500}, "500, not 400"),
        ({"seed": 1}, "seed 1, not 0"),
        ({"functions": ["FIX"]}, "another search space"),
    ],
)
@pytest.mark.parametrize("way", ["study", "suggest"])
def test_files_of_another_search_are_refused(tmp_path, other, says, way):
    file = tmp_path / "mine" / "files" / "searcher-state"
    file.parent.mkdir(parents=True)
    theirs = made(**other)
    theirs.suggest("t0")
    theirs.save(str(file))
    searcher = made()
    searcher.suggest("t0")
    searcher.restore(str(file))  # Ray would only log what this raises
    with pytest.raises(StudyError, match=re.escape(says)) as refused:
        searcher.study if way == "study" else searcher.suggest("t1")
    assert "study 'mine' was created with" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_experiment_of_another_search_is_not_gone_on_with(moments):
    two, _, folder, options = moments
    put_back(two, folder)
    searcher = made(seed=1)
    searcher.suggest("t0")
    with pytest.raises(StudyError, match="study 'search' was created with seed 0, not 1"):
        search(whole, searcher, folder.parent, resume="AUTO", **options)


def test_files_of_the_same_search_are_taken_also_without_a_seed(tmp_path):
    theirs = made()
    theirs.suggest("t0")
    theirs.save(str(tmp_path / "state"))
    for searcher in (made(), made(seed=None)):
        searcher.suggest("mine")
        searcher.restore(str(tmp_path / "state"))
        assert searcher.live == ("t0",)
        assert searcher.suggest("t0") == theirs.suggest("t0")


# What is suggested


def test_steps_of_ones_own_domains_are_kept():
    searcher = made()
    config = {"decay": tune.quniform(0.0, 1.0, 0.25), "crop": tune.qrandint(16, 128, 16)}
    assert searcher.set_search_properties("score", "max", config)
    found = []
    for number in range(20):
        found.append(searcher.suggest(f"t{number}"))
        searcher.on_trial_complete(f"t{number}", {"score": 0.5, "iteration": 400})
    assert {each["decay"] for each in found} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {each["crop"] for each in found} <= set(range(16, 129, 16))
    assert len({each["decay"] for each in found}) > 1
    assert len({each["crop"] for each in found}) > 1


def test_a_result_that_is_stored_is_told_at_once_and_no_trial_of_ray():
    plain = made()
    policies = []
    for number in range(3):
        policies.append(LRPolicy.from_dict(plain.suggest(f"t{number}")["lr_policy"]))
        plain.on_trial_complete(f"t{number}", {"score": 0.5, "iteration": 400})
    searcher = made()
    task = searcher.settings.task
    metrics = {"top1": 0.8, "loss_difference": 0.1, "iterations_to_best": 200}
    runs = {policy: Run(task, policy, 400, seed=0, metrics=metrics) for policy in policies[:2]}
    searcher.recall(runs)
    assert searcher.recalled == []

    suggested = LRPolicy.from_dict(searcher.suggest("a")["lr_policy"])
    assert suggested == policies[2]
    assert searcher.recalled == [0, 1]
    first, second, live = asked(searcher)
    assert (searcher.number("a"), searcher.live) == (live.number, ("a",))
    for trial, (policy, run) in zip((first, second), runs.items(), strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == score_run(run, ScoreWeights())
        assert LRPolicy.from_dict(trial.user_attrs["policy"]) == policy
        assert (trial.user_attrs["recalled"], trial.user_attrs["status"]) == (True, "complete")
    searcher.on_trial_complete("a", {"score": 0.5, "iteration": 400})
    later = [LRPolicy.from_dict(searcher.suggest(f"n{n}")["lr_policy"]) for n in range(10)]
    assert not runs.keys() & set(later)
    assert searcher.recalled == [0, 1]
