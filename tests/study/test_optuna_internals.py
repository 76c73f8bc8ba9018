"""What is private in Optuna and read here: a new version of Optuna that lacks it fails here."""

import optuna
import pytest

from lrbench_hpo.study.optuna_internals import (
    enqueued_params,
    has_heartbeat,
    in_optimize_loop,
    is_bracket,
    is_stop_outside_optimize,
)

TRIED = ("5.0",)  # versions of Optuna, by their first two numbers


def test_the_installed_version_was_tried():
    version = ".".join(optuna.__version__.split(".")[:2])
    assert version in TRIED, f"run this file on Optuna {version}, then add it to TRIED"


@pytest.mark.parametrize("storage", ["memory", "sqlite", "journal"])
def test_enqueued_parameters_are_those_that_were_enqueued(storage, tmp_path):
    file = str(tmp_path / "study")
    backend = optuna.storages.journal.JournalFileBackend
    place = {
        "memory": None,
        "sqlite": f"sqlite:///{file}",
        "journal": optuna.storages.JournalStorage(backend(file)) if storage == "journal" else None,
    }[storage]
    study = optuna.create_study(storage=place)
    study.enqueue_trial({"lr": 0.1})
    study.ask(), study.ask()
    assert [enqueued_params(trial) for trial in study.get_trials()] == [{"lr": 0.1}, None]


def test_the_loop_is_known_inside_it_and_only_there():
    study, seen = optuna.create_study(), []

    def objective(trial):
        seen.append(in_optimize_loop(trial.study))
        return 0.0

    study.optimize(objective, n_trials=1)
    study.optimize(objective, n_trials=2, n_jobs=2)
    assert seen == [True] * 3
    study.tell(study.ask(), 0.0)
    assert not in_optimize_loop(study)


@pytest.mark.parametrize(
    ("pruner", "brackets"),
    [(optuna.pruners.NopPruner(), False), (optuna.pruners.HyperbandPruner(1, 9), True)],
)
def test_a_bracket_is_what_a_sampler_sees_of_a_study_with_brackets(pruner, brackets):
    seen = []

    class Sampler(optuna.samplers.RandomSampler):
        def before_trial(self, study, trial):
            seen.append(is_bracket(study))

    study = optuna.create_study(sampler=Sampler(), pruner=pruner)
    study.optimize(lambda trial: 0.0, n_trials=1)
    assert seen == [brackets]
    assert not is_bracket(study)


def test_a_storage_has_a_heartbeat_where_it_was_given_one(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.warns(optuna.exceptions.ExperimentalWarning, match="heartbeat_interval"):
        beating = optuna.storages.RDBStorage(url, heartbeat_interval=60)
    assert has_heartbeat(beating)
    for storage in (optuna.storages.RDBStorage(url), optuna.storages.InMemoryStorage(), url, None):
        assert not has_heartbeat(storage)


def test_a_stop_outside_of_the_loop_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as stopped:
        optuna.create_study().stop()
    assert is_stop_outside_optimize(stopped.value)
    assert not is_stop_outside_optimize(RuntimeError("out of memory"))
