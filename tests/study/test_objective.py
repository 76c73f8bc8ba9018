"""The built-in objective on real images: one trial is one run, stored as it ends."""

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings

import optuna
import pytest
import torch

import lrbench_hpo
from lrbench_hpo import LRPolicy, Objective, connect, create_study
from lrbench_hpo.errors import DatabaseError, LRBenchError, StudyError
from lrbench_hpo.study.objective import replay, should_stop
from lrbench_hpo.study.results import ranked_trials
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_policy, trial_params

BUDGET = 40
optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lr.db'}"


def study_of(url, **changes):
    given = {"max_iterations": BUDGET, "database": url, "seed": 0, **changes}
    return create_study("digits", "mlp", **given)


def own_runs(url):
    with connect(url) as db:
        return db.find(source="local", curves=True)


def test_trials_are_trained_stored_and_described(url):
    study = study_of(url)
    study.optimize(Objective("digits", "mlp", database=url), n_trials=6)
    stored = {run.uid: run for run in own_runs(url)}
    assert len(stored) == 6
    for trial in study.trials:
        run = stored[trial.user_attrs["run"]]
        assert run.policy == LRPolicy.from_dict(trial.user_attrs["policy"])
        assert run.metrics["top1"] == trial.user_attrs["top1"]
        assert run.curve[-1].iteration == run.max_iterations == BUDGET
        assert run.task.reference_lr == 0.01
        assert trial.value == pytest.approx(
            lrbench_hpo.score(
                top1=run.metrics["top1"],
                iterations_to_best=run.metrics["iterations_to_best"],
                max_iterations=BUDGET,
                loss_difference=run.metrics["loss_difference"],
            )
        )
    assert study.best_value > 0.5


def test_the_next_search_starts_from_these_results(url):
    study = study_of(url)
    study.optimize(Objective("digits", "mlp", database=url), n_trials=8)
    again = study_of(url)
    first = again.ask()
    lrbench_hpo.suggest_policy(first)
    assert first.user_attrs["source"].startswith("your own run on digits/mlp")


def test_a_stored_training_is_not_done_again(url):
    first, second = study_of(url), study_of(url, objective="pareto")
    point = trial_params("FIX", {"peak": 2.0})
    for study in (first, second):
        study.enqueue_trial(point)
        study.optimize(Objective("digits", "mlp", database=url), n_trials=6)
    by_peak = [
        next(t for t in study.trials if t.params.get("FIX.peak") == 2.0)
        for study in (first, second)
    ]
    assert [t.user_attrs["recalled"] for t in by_peak] == [False, True]
    assert by_peak[0].user_attrs["run"] == by_peak[1].user_attrs["run"]
    other_seed = Objective("digits", "mlp", database=url, seed=1)
    third = study_of(url)
    third.enqueue_trial(point)
    third.optimize(other_seed, n_trials=6)
    assert not any(t.user_attrs["recalled"] for t in third.trials)


def test_what_others_say_of_a_training_is_not_believed(url):
    """A row in a shared database, or an imported one, may claim any score for this training."""
    given = {"functions": ["FIX"], "reference_lr": 0.01}
    study_of(url, **given).optimize(Objective("digits", "mlp", database=url), n_trials=1)
    with connect(url) as db:
        (honest,) = db.find("digits", source="local")
        db.forget(source="local")
        db.add(dataclasses.replace(honest, source="bob", metrics={"top1": 0.9999}))
    again = study_of(url, **given)
    again.optimize(Objective("digits", "mlp", database=url), n_trials=6)
    (same,) = [t for t in again.trials if t.user_attrs["policy"] == honest.policy.to_dict()]
    assert not same.user_attrs["recalled"]
    assert same.user_attrs["top1"] == honest.metrics["top1"]


def test_the_winner_is_tested_once(url):
    study = study_of(url, functions=["FIX"])
    objective = Objective("digits", "mlp", database=url)
    for peak in (1.0, 4.0, 0.05):  # the winner is neither the first nor the last
        study.enqueue_trial(trial_params("FIX", {"peak": peak}))
    study.optimize(objective, n_trials=8)
    winner = ranked_trials(study)[0]
    assert not objective.must_train_again(study)
    measured = objective.test(study)
    assert measured["trial"] == winner.number
    assert 0.5 < measured["top1"] <= 1
    # Another process, which has no weights at hand, gets the same figure by training again.
    study.set_user_attr("test", None)
    other = Objective("digits", "mlp", database=url)
    assert other.must_train_again(study)
    assert other.test(study) == measured
    # What was measured once is not measured again.
    study.set_user_attr("test", {**measured, "top1": 0.123})
    assert other.test(study)["top1"] == 0.123


def test_weights_of_another_study_are_not_taken_for_the_winners(url):
    objective = Objective("digits", "mlp", database=url)
    first, second = study_of(url), study_of(url, functions=["POLY"])
    for study in (first, second):
        study.optimize(objective, n_trials=1)
    alone = Objective("digits", "mlp", database=url)
    assert objective.test(second) == alone.test(second)
    assert objective.test(first) == alone.test(first)


def test_ones_own_network_is_never_taken_for_a_built_in_one(url, tmp_path):
    study_of(url).optimize(Objective("digits", "mlp", database=url), n_trials=2)

    class Tanh(torch.nn.Sequential):
        def __init__(self):
            layers = [torch.nn.Linear(a, b) for a, b in ((256, 128), (128, 128), (128, 10))]
            tanh = torch.nn.Tanh
            super().__init__(torch.nn.Flatten(), layers[0], tanh(), layers[1], tanh(), layers[2])

    again = study_of(url)
    again.optimize(Objective("digits", Tanh, database=url), n_trials=2)
    assert not any(t.user_attrs["recalled"] for t in again.trials if t.value is not None)


def test_a_run_of_other_budget_split_or_versions_is_not_recalled(url):
    study_of(url).optimize(Objective("digits", "mlp", database=url), n_trials=1)
    [known] = own_runs(url)
    other = url.replace("lr.db", "other.db")
    with connect(other) as db:
        db.add(
            dataclasses.replace(known, split="test"),
            dataclasses.replace(known, environment={**known.environment, "precision": "odd"}),
            dataclasses.replace(known, status="pruned"),
        )
    study = study_of(other, functions=[known.policy.function])
    study.optimize(Objective("digits", "mlp", database=other), n_trials=5)
    assert not any(t.user_attrs["recalled"] for t in study.trials if t.value is not None)


def fragile(num_classes, image_shape):
    """A network that overflows at once when its LR is too high: it has no ReLU that dies first."""
    width = image_shape[0] * image_shape[1] * image_shape[2]
    layers = [torch.nn.Linear(width, width) for _ in range(3)]
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(width, num_classes))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["score", "pareto"])
def test_diverging_policies_are_stored_and_the_study_goes_on(url, objective):
    study = study_of(url, objective=objective, functions=["FIX"], reference_lr=1.0)
    study.optimize(Objective("digits", fragile, database=url), n_trials=12)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    diverged = [run for run in own_runs(url) if run.status == "diverged"]
    assert diverged
    worst = [t for t in study.trials if t.user_attrs["status"] == "diverged"]
    assert all(t.constraints["diverged"] > 0 for t in worst)
    assert all(t.constraints["diverged"] <= 0 for t in study.trials if t not in worst)
    assert len(worst) == len(diverged)
    if objective == "score":
        assert {t.value for t in worst} == {-1.0}
    else:
        assert not {t.number for t in study.best_trials} & {t.number for t in worst}


def test_a_study_of_nothing_but_divergence_ends_with_one_line(url, tmp_path):
    space = tmp_path / "hot.yaml"
    space.write_text("functions:\n  FIX:\n    peak: {low: 900, high: 1000}\n")
    study = study_of(url, search_space=str(space), reference_lr=1.0)
    objective = Objective("digits", fragile, database=url)
    study.optimize(objective, n_trials=11)
    assert {run.status for run in own_runs(url)} == {"diverged"}
    with pytest.raises(StudyError, match="no trial has finished without diverging"):
        objective.test(study)


def ranked_by_number(study):
    return sorted(ranked_trials(study), key=lambda trial: trial.number)


class StopSecond(optuna.pruners.BasePruner):
    """Stops every trial but the first at its second report."""

    def prune(self, study, trial):
        return trial.number > 0 and len(trial.intermediate_values) >= 2


def test_pruners_see_the_score_at_lr_minima(url):
    study = study_of(url, functions=["TRI"], pruner=StopSecond())
    study.optimize(Objective("digits", "mlp", database=url), n_trials=4)
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "COMPLETE"
    assert "PRUNED" in states
    for trial in study.trials:
        policy = LRPolicy.from_dict(trial.user_attrs["policy"])
        reported = set(trial.intermediate_values)
        assert reported <= {*policy.minima(BUDGET), BUDGET}
    stored = own_runs(url)
    assert sum(run.status == "pruned" for run in stored) == states.count("PRUNED")


def test_a_training_that_begins_anew_reports_nothing_twice(url):
    study = study_of(url, functions=["FIX"], pruner=StopSecond())
    study.ask()
    trial, settings = study.ask(), StudySettings.of(study)
    trainer = Objective("digits", "mlp", database=url).trainer_for(settings)
    policy, asked = suggest_policy(trial), []

    def report(_, run):
        asked.append(should_stop(trial, settings, run))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train(policy, BUDGET, on_evaluation=report)
        first = study.trials[1].intermediate_values
        again = trainer.train(policy, BUDGET, on_evaluation=report).run
        replay(trial, settings, again)
    assert len(first) == len(asked) // 2 > 1
    assert study.trials[1].intermediate_values == first
    assert any(asked[: len(first)])
    assert not any(asked[len(first) :])  # there it was let go on


def test_pareto_studies_report_nothing_and_take_any_pruner(url):
    study = study_of(url, objective="pareto", pruner=StopSecond())
    study.optimize(Objective("digits", "mlp", database=url), n_trials=12)
    assert all(isinstance(value, float) for t in study.trials for value in t.values)
    assert study.best_trials


def test_threads_take_turns_and_give_the_same_numbers(url):
    def values(jobs, database):
        # Another sampler finds its first five policies enqueued: the same for any number of jobs.
        study = study_of(database, sampler=optuna.samplers.RandomSampler())
        objective = Objective("digits", "mlp", database=database)
        study.optimize(objective, n_trials=5, n_jobs=jobs)
        return sorted(trial.value for trial in study.trials)

    assert values(1, url) == values(2, url.replace("lr.db", "other.db"))


def test_a_model_and_data_of_ones_own(url):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(400, 1, 8, 8, generator=generator)
    labels = (images.mean(dim=(1, 2, 3)) > 0.5).long()
    data = torch.utils.data.TensorDataset(images, labels)

    def net(num_classes, image_shape):
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes))

    study = create_study("bright", "linear", max_iterations=30, batch_size=20, database=url)
    study.optimize(Objective(data, net, database=url), n_trials=2)
    [run, _] = own_runs(url)
    assert (run.task.dataset, run.task.model) == ("bright", "linear")
    assert (run.task.num_classes, run.task.image_shape) == (2, (1, 8, 8))


def test_a_database_that_is_locked_for_a_while_loses_nothing(tmp_path):
    file = tmp_path / "lr.db"
    url = f"sqlite:///{file}?timeout=0.1"
    study = study_of(url)
    with connect(url) as db:
        objective = Objective("digits", "mlp", database=db)
        other = sqlite3.connect(file)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(UserWarning, match="locked by another process.*; results wait in"):
            study.optimize(objective, n_trials=2)
        assert [run.policy for run in objective.close()] == [
            LRPolicy.from_dict(trial.user_attrs["policy"]) for trial in ranked_by_number(study)
        ]
        assert objective.store.file.is_file()
        other.rollback()
        other.close()
        assert objective.close() == ()
    assert len(own_runs(url)) == 2


def test_what_a_search_could_not_store_follows_with_the_next(tmp_path):
    file = tmp_path / "lr.db"
    url = f"sqlite:///{file}?timeout=0.1"
    study = study_of(url)
    objective = Objective("digits", "mlp", database=url)
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(UserWarning, match="results wait in"):
            study.optimize(objective, n_trials=2)
        assert len(objective.close()) == 2
    assert own_runs(url) == []
    Objective("digits", "mlp", database=url).close()
    assert len(own_runs(url)) == 2


def test_bad_input_is_one_line(url, tmp_path):
    study = study_of(url)
    with pytest.raises(StudyError, match="the study is for model 'mlp'"):
        study.optimize(Objective("digits", "lenet", database=url), n_trials=1)
    for arguments, says in [
        ({"dataset": "digit"}, "did you mean digits"),
        ({"dataset": "mnist", "data": tmp_path}, "--data"),
        ({"device": "cuda:7"}, "device"),
        ({"database": tmp_path}, "this is a folder"),
        ({"database": "mongodb://host/x"}, "mongodb"),
    ]:
        given = {"dataset": "digits", "model": "mlp", "database": url, **arguments}
        with pytest.raises(LRBenchError, match=says) as caught:
            Objective(**given).prepare(study)
        assert "\n" not in str(caught.value)
    too_large = create_study("digits", "mlp", batch_size=5_000, database=url)
    objective = Objective("digits", "mlp", database=url)
    with pytest.raises(LRBenchError, match="batch"):
        objective.prepare(too_large)


def test_a_read_only_database_is_refused_before_training(tmp_path):
    file = tmp_path / "lr.db"
    connect(file).close()
    with pytest.raises(DatabaseError, match="read"):
        Objective("digits", "mlp", database=f"sqlite:///file:{file}?mode=ro&uri=true")


@pytest.mark.slow
def test_a_killed_process_loses_the_running_trial_at_most(url, tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(f"""
        import lrbench_hpo
        study = lrbench_hpo.create_study("digits", "mlp", max_iterations=300, database={url!r})
        def told(study, trial):
            print("told", trial.user_attrs["run"], flush=True)
        objective = lrbench_hpo.Objective("digits", "mlp", database={url!r})
        study.optimize(objective, n_trials=1000, callbacks=[told])
        """)
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline().split()[1] for _ in range(4)]
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        told += [line.split()[1] for line in process.stdout if line.startswith("told")]
    assert set(told) <= {run.uid for run in own_runs(url)}
