"""A study whose trials are trained together: asked, stopped, told and stored one by one."""

import optuna
import pytest
from optuna.trial import TrialState

import lrbench_hpo
from lrbench_hpo import LRPolicy, Objective, connect, create_study, optimize
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.study.population import open_workers
from lrbench_hpo.training import Trainer

BUDGET = 40
optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lr.db'}"


@pytest.fixture
def objective(url):
    made = Objective("digits", "mlp", database=url, device="cpu")
    yield made
    assert made.close() == ()


def study_of(url, **changes):
    return create_study(
        "digits", "mlp", **{"max_iterations": BUDGET, "database": url, "seed": 0, **changes}
    )


def own_runs(url):
    with connect(url) as db:
        return db.find(source="local", curves=True)


def told(study):
    return [(t.number, t.state, t.values, t.user_attrs["policy"]) for t in study.trials]


class Second(optuna.pruners.BasePruner):
    """Stops every second trial at its first report."""

    def prune(self, study, trial):
        return trial.number % 2 == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_every_trial_is_trained_as_it_would_be_alone_and_told_and_stored(url, objective, processes):
    study = study_of(url)
    shape = {"population": 3, "processes": processes, "executor": "stream"}
    counted = optimize(study, objective, n_trials=7, **shape)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 7
    stored = {run.uid: run for run in own_runs(url)}
    assert set(stored) == {trial.user_attrs["run"] for trial in study.trials}
    trainer = objective.trainer_for(lrbench_hpo.study.settings.StudySettings.of(study))
    for trial in study.trials:
        run = stored[trial.user_attrs["run"]]
        alone = trainer.train(LRPolicy.from_dict(trial.user_attrs["policy"]), BUDGET).run
        assert (run.status, run.curve) == (alone.status, alone.curve)
        assert trial.value == pytest.approx(trial.user_attrs["score"])
        assert trial.intermediate_values.keys() <= {point.iteration for point in run.curve}
    assert len({str(trial.user_attrs["policy"]) for trial in study.trials}) == 7
    assert counted["stopped"] == 0
    assert 0 < counted["trained"] <= 7 * BUDGET
    # The winner's weights are at hand.
    assert not objective.must_train_again(study)
    assert objective.test(study)["top1"] > 0.5


def test_the_same_seed_gives_the_same_search(tmp_path):
    searches = []
    for name in ("a.db", "b.db"):
        objective = Objective("digits", "mlp", database=tmp_path / name)
        study = study_of(tmp_path / name, pruner=lrbench_hpo.LRMinimaPruner())
        optimize(study, objective, n_trials=8, population=4, processes=1, executor="stream")
        objective.close()
        searches.append(told(study))
    assert searches[0] == searches[1]


def test_one_at_a_time_is_the_search_of_optuna(tmp_path):
    searches = []
    for name in ("a.db", "b.db"):
        objective = Objective("digits", "mlp", database=tmp_path / name)
        study = study_of(tmp_path / name)
        if name == "a.db":
            optimize(study, objective, n_trials=5, population=1)
        else:
            study.optimize(objective, n_trials=5)
        objective.close()
        searches.append(told(study))
    assert searches[0] == searches[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_losers_are_stopped_stored_as_pruned_and_their_places_filled(url, objective, processes):
    study = study_of(url, pruner=Second())
    counted = optimize(study, objective, n_trials=8, population=2, processes=processes)
    assert len(study.trials) == 8
    stored = {run.uid: run for run in own_runs(url)}
    assert len(stored) == 8
    spared = 0
    for trial in study.trials:
        run = stored[trial.user_attrs["run"]]
        if trial.number % 2:
            # Half a wave has only its end to be judged at, and a process may be quicker.
            assert trial.state in {TrialState.PRUNED, TrialState.COMPLETE}
        else:
            assert trial.state == TrialState.COMPLETE
        assert (trial.state == TrialState.PRUNED) == (run.status == "pruned")
        if run.status == "pruned":
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
            spared += BUDGET - run.curve[-1].iteration
    assert counted["stopped"] <= spared
    if processes == 1:
        assert counted["stopped"] == spared > 0


def test_several_objectives_and_another_sampler(url, objective):
    sampler = optuna.samplers.TPESampler(seed=0)
    study = study_of(url, objective="pareto", sampler=sampler, pruner=Second())
    optimize(study, objective, n_trials=6, population=3, processes=1)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert all(len(trial.values) == 3 for trial in study.trials)


def test_stored_trainings_are_recalled_on_top(url, objective):
    shape = {"population": 2, "processes": 1, "executor": "stream"}
    optimize(study_of(url), objective, n_trials=3, **shape)
    again = study_of(url, sampler=optuna.samplers.TPESampler(seed=0))
    ended = []
    optimize(
        again,
        objective,
        n_trials=2,
        **shape,
        callbacks=[lambda _, trial: ended.append(trial.user_attrs["recalled"])],
    )
    assert ended.count(False) == 2
    assert ended.count(True) >= 1
    assert len(own_runs(url)) == 5


@pytest.mark.slow
def test_a_study_in_a_storage_is_gone_on_with(url, objective, tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for total in (3, 6):
        study = study_of(url, storage=storage, study_name="one", load_if_exists=True)
        optimize(study, objective, n_trials=3, population=3, processes=2)
        assert len(study.trials) == total
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_no_trial_begins_after_the_timeout(url, objective):
    study = study_of(url)
    optimize(study, objective, n_trials=50, population=2, processes=1, timeout=0.0)
    assert len(study.trials) < 50
    assert TrialState.RUNNING not in {trial.state for trial in study.trials}


def test_an_error_ends_the_search_and_keeps_what_is_done(url, objective):
    study = study_of(url)

    def enough(study, trial):
        if trial.number >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(study, objective, n_trials=9, population=3, processes=2, callbacks=[enough])
    states = [trial.state for trial in study.trials]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) == len(own_runs(url)) >= 2


def test_optunas_callbacks_end_a_search_after_the_trials_under_way(url, objective):
    study = study_of(url)
    enough = optuna.study.MaxTrialsCallback(2)
    optimize(study, objective, n_trials=9, population=3, processes=1, callbacks=[enough])
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.COMPLETE}
    assert 2 <= len(states) <= 5


class Away(optuna.storages.InMemoryStorage):
    """A storage that does not take the first end of a trial."""

    failed = False

    def set_trial_state_values(self, trial_id, state, values=None):
        if state.is_finished() and not self.failed:
            self.failed = True
            raise optuna.exceptions.StorageInternalError("away")
        return super().set_trial_state_values(trial_id, state, values)


def test_a_storage_that_is_away_leaves_no_trial_open_and_loses_no_run(url, objective):
    study = study_of(url, storage=Away())
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optimize(study, objective, n_trials=4, population=2, processes=1)
    assert TrialState.RUNNING not in {trial.state for trial in study.trials}
    assert len(own_runs(url)) >= 1


def test_a_recalled_trial_is_known_with_its_curve(url, objective):
    shape = {"population": 1, "processes": 1}
    optimize(study_of(url), objective, n_trials=2, **shape)
    for search in (
        lambda study: optimize(study, objective, n_trials=1, **shape),
        lambda study: study.optimize(objective, n_trials=2),
    ):
        again = study_of(url)
        again.enqueue_trial({"lr_function": "FIX", "FIX.peak": 1.0})
        search(again)
        fresh = study_of(url)
        fresh.enqueue_trial({"lr_function": "FIX", "FIX.peak": 1.0})
        search(fresh)
        first, second = again.trials[0], fresh.trials[0]
        assert second.user_attrs["recalled"]
        assert second.intermediate_values == pytest.approx(first.intermediate_values, abs=1e-4)
        assert len(second.intermediate_values) == 10


def test_what_cannot_work_is_one_line(url, objective):
    study = study_of(url)
    for name in ("n_trials", "population", "processes"):
        for value in (0, -1, 1.5, True, "3"):
            with pytest.raises(StudyError, match=f"{name}={value!r}: expected a whole number"):
                optimize(study, objective, **{name: value})
    with pytest.raises(StudyError, match=r"a population trains with lrbench_hpo\.Objective"):
        optimize(study, lambda trial: 0.0)
    with pytest.raises(LRBenchError, match="executor 'steam'"):
        optimize(study, objective, executor="steam")
    for timeout in (-1, "5", True):
        with pytest.raises(StudyError, match=f"timeout={timeout!r}: expected seconds"):
            optimize(study, objective, timeout=timeout)
    with pytest.raises(StudyError, match="knows no LR task"):
        optimize(optuna.create_study(), objective)
    other = create_study("digits", "lenet", max_iterations=BUDGET, database=url)
    with pytest.raises(StudyError, match="the study is for model 'lenet'"):
        optimize(other, objective)
    assert study.trials == []


def test_a_pool_is_never_larger_than_its_population(url, objective):
    workers = open_workers(study_of(url), objective, 1, "stream", 2)
    assert (workers.capacity, type(workers).__name__) == (1, "Worker")
    assert isinstance(
        objective.trainer_for(lrbench_hpo.study.settings.StudySettings.of(study_of(url))), Trainer
    )


class Counting(optuna.pruners.BasePruner):
    """Notes how many trials had reported the same step when one of them is judged."""

    def __init__(self):
        self.known = []

    def prune(self, study, trial):
        step = trial.last_step
        trials = study.get_trials(deepcopy=False)
        self.known.append((step, sum(step in other.intermediate_values for other in trials)))
        return False


def test_those_in_step_have_all_reported_before_one_is_judged(url, objective):
    pruner = Counting()
    study = study_of(url, functions="POLY", pruner=pruner)
    optimize(study, objective, n_trials=3, population=3, processes=1, executor="stacked")
    assert len(pruner.known) >= 3 * 9  # ten equal parts; at the end nobody is judged
    assert {count for _, count in pruner.known} == {3}


@pytest.mark.parametrize("processes", [1, 2])
def test_timing_says_how_the_cores_are_used(url, objective, monkeypatch, processes):
    said = (processes, "as timed")
    monkeypatch.setattr(
        "lrbench_hpo.training.population.layout.processes_for", lambda trainer: said
    )
    workers = open_workers(study_of(url), objective)
    try:
        assert workers.capacity == processes
        assert workers.notes[0] == "as timed"
    finally:
        workers.close()


@pytest.mark.parametrize("given", [{"population": 2}, {"processes": 2}])
def test_nothing_is_timed_where_somebody_says_it(url, objective, monkeypatch, given):
    monkeypatch.setattr("lrbench_hpo.training.population.layout.processes_for", None)
    workers = open_workers(
        study_of(url), objective, **{"processes": 1, "executor": "stream", **given}
    )
    workers.close()
    assert workers.capacity == 2
