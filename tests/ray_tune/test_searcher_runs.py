"""The searcher in real searches: every trial ends in the study as it ended in Ray."""

import math
import warnings

import optuna
import pytest
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
)
from ray.tune.search import Repeater

from lrbench_hpo import LRPolicy, create_study, suggest_policy
from lrbench_hpo.errors import StudyError
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.study import results as outcomes

pytestmark = pytest.mark.usefixtures("local_ray")

MEMORY = "sqlite://"
TASK = {"max_iterations": 400, "database": MEMORY}


class Spied(LRBenchSearcher):
    """Keeps what Ray tells it, and how."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.reported, self.completed, self.told = [], [], []

    def set_search_properties(self, metric, mode, config, **spec):
        self.told.append((metric, mode, dict(config)))
        return super().set_search_properties(metric, mode, config, **spec)

    def on_trial_result(self, trial_id, result):
        self.reported.append((trial_id, result.get("iteration")))
        super().on_trial_result(trial_id, result)

    def on_trial_complete(self, *given, **more):
        self.completed.append((given, more))
        super().on_trial_complete(*given, **more)


def steps(count=4):
    """A trainable that reports some times: the better, the higher its LR at the start."""

    def train(config):
        policy = config["lr_policy"]
        for number in range(1, count + 1):
            score = min(1.0, policy["k0"]) * number / count
            tune.report({"score": score, "loss": -score, "iteration": 100 * number})

    return train


def by_k0(behaviour):
    """A trainable that does what is written for its policy's k0."""

    def train(config):
        for act in behaviour[config["lr_policy"]["k0"]]:
            if act == "raise":
                raise RuntimeError("as asked")
            tune.report(act)

    return train


def search(trainable, searcher, tmp_path, **options):
    # One process for all trials, as each takes a second or two to start.
    given = {"num_samples": 8, "reuse_actors": True, "max_concurrent_trials": 1, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return tune.run(
            trainable,
            search_alg=searcher,
            storage_path=str(tmp_path),
            raise_on_failed_trial=False,
            verbose=0,
            **given,
        )


def asked(searcher):
    return [t for t in searcher.study.trials if t.state != TrialState.WAITING]


def by_trial(searcher):
    """The study's trials by Ray's id; there is one for each."""
    trials = asked(searcher)
    found = {trial.user_attrs["trial_id"]: trial for trial in trials}
    assert len(found) == len(trials)
    return found


def fixed(*values, **more):
    """Policies to be tried first, known by their k0."""
    return {"points_to_evaluate": [LRPolicy("FIX", k0=value) for value in values], **more}


# The same search as without Ray


def test_the_same_seed_gives_the_same_suggestions_as_without_ray(tmp_path):
    """One trial at a time; the trials agree in all that does not name a host."""
    count = 13
    searcher = LRBenchSearcher("digits", "mlp", seed=5, **TASK)
    search(steps(1), searcher, tmp_path, num_samples=count, max_concurrent_trials=1)
    study = create_study("digits", "mlp", seed=5, **TASK)

    def objective(trial):
        policy = suggest_policy(trial)
        trial.report(min(1.0, policy.k0), 100)
        raise optuna.TrialPruned  # as Ray's end at a quarter of the budget

    study.optimize(objective, n_trials=count)
    mine, theirs = searcher.study.trials, study.trials
    assert len(mine) == len(theirs) == count
    assert [trial.params for trial in mine] == [trial.params for trial in theirs]
    assert [trial.user_attrs["policy"] for trial in mine] == [
        trial.user_attrs["policy"] for trial in theirs
    ]
    assert [t.user_attrs["source"] for t in mine] == [t.user_attrs["source"] for t in theirs]
    assert mine[-1].user_attrs["source"] == "sampler LRBenchSampler"


# Schedulers


def test_what_asha_cuts_is_pruned_at_its_iteration(tmp_path):
    """It completes with done=True like any other; only its iteration tells."""
    searcher = Spied(**fixed(0.9, 0.8, 0.1, 0.2, 0.7, 0.05), mode="min", **TASK)
    scheduler = ASHAScheduler(
        time_attr="iteration", max_t=400, grace_period=100, reduction_factor=2
    )
    config = {
        "dataset": "digits",
        "data": {"crop": tune.randint(0, 5), "flip": True},
        "decay": tune.loguniform(1e-5, 1e-1),
    }
    done = search(
        steps(),
        searcher,
        tmp_path,
        num_samples=6,
        scheduler=scheduler,
        config=config,
        metric="loss",
        mode="min",
        max_concurrent_trials=1,
    )
    trials = by_trial(searcher)
    assert set(trials) == {trial.trial_id for trial in done.trials}
    states = [trial.state.name for trial in trials.values()]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED", "PRUNED", "PRUNED"]
    for trial in done.trials:
        told = trials[trial.trial_id]
        assert trial.last_result["done"]
        reached = trial.last_result["iteration"]
        assert max(told.intermediate_values) == reached
        assert (told.state == TrialState.COMPLETE) == (reached == 400)
        assert told.user_attrs["status"] == ("complete" if reached == 400 else "pruned")
        assert told.intermediate_values[reached] == -trial.last_result["loss"]
        # What Ray tells: nothing of the report that stops a trial.
        seen = [iteration for each, iteration in searcher.reported if each == trial.trial_id]
        assert seen == list(range(100, reached, 100))
        # What the trainable gets.
        assert set(trial.config["lr_policy"]) == set(LRPolicy("FIX", k0=1.0).to_dict())
        assert trial.config["data"]["flip"] is True
        assert trial.config["data"]["crop"] == told.params["data/crop"]
        assert trial.config["decay"] == told.params["decay"]
        assert (trial.config["dataset"], trial.config["max_iterations"]) == ("digits", 400)
    assert [trial.config["lr_policy"]["k0"] for trial in done.trials] == [
        0.9,
        0.8,
        0.1,
        0.2,
        0.7,
        0.05,
    ]
    # By keyword, but for the id that a limit of live trials passes on.
    assert all(
        len(given) == 1 and {*more} == {"result", "error"} for given, more in searcher.completed
    )
    [(metric, mode, told)] = searcher.told
    assert "lr_policy" not in told
    assert (metric, mode, told["dataset"]) == ("loss", "min", "digits")
    assert (
        outcomes.winner(searcher.study).params["FIX.peak"] == searcher.study.best_params["FIX.peak"]
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        HyperBandScheduler(time_attr="training_iteration", max_t=4, reduction_factor=2),
        MedianStoppingRule(time_attr="training_iteration", grace_period=1, min_samples_required=2),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_other_schedulers_leave_nothing_open(scheduler, tmp_path):
    """HyperBand pauses trials, and Ray tells nothing at all about the end of a paused one."""
    searcher = Spied("digits", "mlp", seed=0, **TASK)

    class Steps(tune.Trainable):
        def setup(self, config):
            self.at = 0

        def step(self):
            self.at += 1
            score = min(1.0, self.config["lr_policy"]["k0"]) * self.at
            return {"score": score, "iteration": 100 * self.at, "done": self.at == 4}

        def save_checkpoint(self, folder):
            return {"at": self.at}

        def load_checkpoint(self, state):
            self.at = state["at"]

        def reset_config(self, config):
            self.at = 0
            return True

    done = search(
        Steps,
        searcher,
        tmp_path,
        num_samples=8,
        scheduler=scheduler,
        metric="score",
        mode="max",
        config={"dataset": "digits"},
        max_concurrent_trials=8,  # with fewer than a bracket, HyperBand cuts nothing
    )
    trials = by_trial(searcher)
    assert set(trials) == {trial.trial_id for trial in done.trials}
    for trial in done.trials:
        told, reached = trials[trial.trial_id], trial.last_result["iteration"]
        expected = TrialState.COMPLETE if reached == 400 else TrialState.PRUNED
        assert (told.state, max(told.intermediate_values)) == (expected, reached)
    assert TrialState.PRUNED in {trial.state for trial in trials.values()}
    assert len(searcher.completed) == 8
    if isinstance(scheduler, HyperBandScheduler):
        results = [more["result"] for _, more in searcher.completed]
        assert results.count(None) in range(8)


@pytest.mark.parametrize("config", [{}, {"dataset": "digits"}], ids=["empty", "config"])
def test_population_based_training_is_refused(config, tmp_path):
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration", hyperparam_mutations={"decay": [0.1, 0.2]}
    )
    with pytest.raises(StudyError, match="takes them from no searcher: use ASHAScheduler") as told:
        search(
            steps(),
            LRBenchSearcher("digits", "mlp", **TASK),
            tmp_path,
            scheduler=scheduler,
            config=config,
            metric="score",
            mode="max",
        )
    assert "\n" not in str(told.value)


# Trials of all kinds


def test_with_an_empty_config_ray_tells_nothing(tmp_path):
    """Neither metric and mode, nor the stopping criteria that make a trial whole."""
    searcher = Spied(**fixed(0.1, 0.2, 0.3), **TASK)
    keywords = {"trial_id", "result", "error"}

    class Endless(tune.Trainable):
        def step(self):
            return {"score": self.config["lr_policy"]["k0"]}

        def reset_config(self, config):
            return True

    options = {"stop": {"training_iteration": 2}, "max_concurrent_trials": 0}
    search(Endless, searcher, tmp_path, num_samples=3, **options)
    assert searcher.told == []
    assert all(given == () and {*more} == keywords for given, more in searcher.completed)
    trials = asked(searcher)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [trial.value for trial in trials] == [0.1, 0.2, 0.3]


def test_every_bad_trial_is_told_and_harms_no_other(tmp_path):
    """With Ray's own check, one report without the metric ends the whole experiment."""
    good, early = {"acc": 0.5, "iteration": 400}, {"acc": 0.4, "iteration": 100}
    behaviour = {
        0.1: [early, good],
        0.2: [early, {"acc": math.nan, "iteration": 200}],
        0.3: [{"loss": 0.3}],
        0.4: [],
        0.5: ["raise"],
        0.6: [early, "raise"],
        0.7: [{**good, "acc": None}],
        0.8: [{**good, "acc": 0.8}],
    }
    searcher = Spied(**fixed(*behaviour), **TASK)
    with pytest.warns(UserWarning, match="metric 'acc' is not in a trial's report"):
        done = search(
            by_k0(behaviour),
            searcher,
            tmp_path,
            metric="acc",
            mode="max",
            config={"dataset": "digits"},
            max_concurrent_trials=2,
        )
    trials = {t.user_attrs["policy"]["k0"]: t for t in by_trial(searcher).values()}
    states = {k0: trial.state.name for k0, trial in trials.items()}
    assert states == {
        0.1: "COMPLETE",
        0.2: "PRUNED",
        0.3: "FAIL",
        0.4: "FAIL",
        0.5: "FAIL",
        0.6: "FAIL",
        0.7: "FAIL",
        0.8: "COMPLETE",
    }
    assert trials[0.2].user_attrs["status"] == "diverged"
    assert trials[0.2].constraints == {outcomes.CONSTRAINT: 1.0}
    assert searcher.study.best_value == 0.8
    assert [t.status for t in done.trials].count("ERROR") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "count"),
    [({"score": math.nan, "iteration": 100}, 20), ("raise", 5)],  # what raises ends its process
    ids=["NaN", "raise"],
)
def test_nothing_but_bad_trials(act, count, tmp_path):
    def train(config):
        if act == "raise":
            raise RuntimeError("as asked")
        tune.report(act)

    searcher = LRBenchSearcher("digits", "mlp", seed=0, **TASK)
    done = search(train, searcher, tmp_path, num_samples=count)
    trials = by_trial(searcher)
    assert set(trials) == {trial.trial_id for trial in done.trials}
    assert len(trials) == count
    status = "failed" if act == "raise" else "diverged"
    assert {trial.user_attrs["status"] for trial in trials.values()} == {status}
    assert all(trial.state.is_finished() for trial in trials.values())


def test_of_repeated_trials_the_mean_is_told(tmp_path):
    def train(config):
        if config["lr_policy"]["k0"] == 0.2 and config["__trial_index__"] == 1:
            raise RuntimeError("one seed of three")
        tune.report({"score": config["lr_policy"]["k0"] * (1 + config["__trial_index__"])})

    searcher = Spied(**fixed(0.1, 0.2), **TASK)
    repeated = Repeater(searcher, repeat=3)
    config = {"dataset": "digits"}
    options = {"num_samples": 6, "config": config, "max_concurrent_trials": 0}
    done = search(train, repeated, tmp_path, **options)
    first, second = asked(searcher)
    assert (first.value, second.value) == (pytest.approx(0.2), pytest.approx(0.4))
    assert first.user_attrs["trial_id"] == done.trials[0].trial_id
    assert second.user_attrs["trial_id"] == done.trials[3].trial_id
    assert len({trial.config["__trial_index__"] for trial in done.trials}) == 3


class Enough(tune.Stopper):
    """Ends an experiment as a time budget does, once its trials have reported something."""

    def __init__(self, reports):
        self.reports = reports

    def __call__(self, trial_id, result):
        self.reports -= 1
        return False

    def stop_all(self):
        return self.reports <= 0


@pytest.mark.parametrize("options", [{"stop": Enough(4)}, {"time_budget_s": 3}])
def test_when_time_is_up_the_rest_is_settled(tmp_path, options):
    """Ray tells a searcher nothing about the trials that its time budget ends."""

    def train(config):
        import time

        for number in range(1, 10_000):
            tune.report({"score": 0.1, "iteration": min(number, 300)})
            time.sleep(0.05)

    searcher = LRBenchSearcher("digits", "mlp", **TASK)
    done = search(train, searcher, tmp_path, num_samples=50, max_concurrent_trials=2, **options)
    live = [trial for trial in asked(searcher) if trial.state == TrialState.RUNNING]
    assert live
    searcher.settle()
    trials = by_trial(searcher)
    assert set(trials) == {trial.trial_id for trial in done.trials}
    for trial in done.trials:
        reported = "score" in (trial.last_result or {})
        told = trials[trial.trial_id]
        assert told.state == (TrialState.PRUNED if reported else TrialState.FAIL)
    if "stop" in options:  # a machine may be busy for the whole of a time budget
        assert TrialState.PRUNED in {trial.state for trial in trials.values()}
