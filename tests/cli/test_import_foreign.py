"""``db import-optuna``, ``import-ray`` and ``import-logs`` as people call them."""

import json

import optuna
import pytest
from click.testing import CliRunner

from lrbench_hpo.cli import import_foreign
from lrbench_hpo.cli.import_foreign import import_logs, import_optuna, import_ray
from lrbench_hpo.database import connect
from lrbench_hpo.errors import DatabaseError, LRBenchError
from lrbench_hpo.policies import LRPolicy

optuna.logging.set_verbosity(optuna.logging.WARNING)
COS = LRPolicy("COS", k0=1e-5, k1=0.1, l=1000)


@pytest.fixture
def call(home, monkeypatch):
    """Run a command on a database of the test's own: exit code, stdout, stderr."""
    monkeypatch.chdir(home)

    def call(command, *arguments):
        done = CliRunner().invoke(command, [*map(str, arguments), "--database", "lr.db"])
        if isinstance(done.exception, LRBenchError):  # what main() shows in one line
            return 2, done.stdout, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


@pytest.fixture
def study(home):
    url = f"sqlite:///{home}/study.db"
    study = optuna.create_study(storage=url, study_name="mine", direction="maximize")

    def train(trial):
        trial.suggest_float("lr", 1e-3, 0.1)
        trial.suggest_categorical("schedule", ["const"])
        return 90.0 + trial.number

    study.optimize(train, n_trials=3)
    study.ask()
    return url


SAID = ("--dataset", "mnist", "--model", "lenet", "--map", "lr=k0", "-T", 500, "--percent")


def stored(home, source):
    with connect(home / "lr.db") as db:
        return db.find(source=source)


def test_optuna(call, study, home):
    for line in ("3 new, 0 known already, 0 rejected", "0 new, 3 known already, 0 rejected"):
        arguments = (study, "--study", "mine", *SAID, "--map", "schedule=function")
        code, out, _ = call(import_optuna, *arguments)
        assert code == 0
        assert line in out
        assert "1 trials left out: not over" in out
    runs = stored(home, "optuna")
    assert {run.metrics["top1"] for run in runs} == {0.9, 0.91, 0.92}


def test_a_source_and_constants_can_be_given(call, study, home):
    more = ("--source", "theirs", "--set", "task.optimizer=adam", "--set", "seed=7")
    assert call(import_optuna, study, *SAID, *more)[0] == 0
    assert {(r.task.optimizer, r.seed) for r in stored(home, "theirs")} == {("adam", 7)}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--study", "mien"), "did you mean mine"),
        (("--map", "lr"), "expected NAME=VALUE"),
        (("--map", "lr=kO"), "unknown name to map to 'kO'"),
        (("--map", "lr=k0", "--map", "lr=k1"), "is there twice"),
        (("--source", "lrbench-paper"), "is the published rows' alone"),
        (("--metric", "eval_loss"), "maximizes its value"),
        (("--function", "COSI"), "unknown LR function"),
    ],
)
def test_what_is_said_wrongly_is_refused(call, study, home, arguments, reason):
    code, _, err = call(import_optuna, study, *arguments)
    assert code == 2
    assert reason in err
    assert not any(run.source != "lrbench-paper" for run in stored(home, None))


def test_passwords_are_refused_on_the_command_line(call):
    code, _, err = call(import_optuna, "postgresql://me:secret@host/x")
    assert code == 2
    assert "a password on the command line" in err
    assert "secret" not in err


def log(folder, lrs):
    folder.mkdir(parents=True)
    rows = [f"{t},{lr!r},{0.5 + t / 4000}" for t, lr in enumerate(lrs)]
    (folder / "metrics.csv").write_text("\n".join(["step,lr,val_acc", *rows]) + "\n")


def test_logs(call, home):
    log(home / "logs" / "a", COS(range(1000)).tolist())
    log(home / "logs" / "b", [0.1, 0.02, 0.09, 0.001, 0.05] * 20)
    said = ("--dataset", "mnist", "--model", "lenet")
    code, out, err = call(import_logs, "logs", *said, "--dry-run")
    assert code == 1
    assert "folder a: COS(k0=1e-05, k1=0.1, l=1000), fitted to " in out
    assert "1 good rows, 1 rejected; nothing stored" in out
    assert "folder b: no LR function can be told from 'lr'" in err
    assert not (home / "lr.db").exists()
    code, out, _ = call(import_logs, "logs", *said)
    assert (code, "1 new, 0 known already, 1 rejected" in out) == (1, True)
    assert "rejected rows are kept in" in out
    (run,) = stored(home, "logs")
    assert run.policy == COS


def test_ray(call, home):
    folder = home / "exp" / "trial"
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"lr": 0.1}))
    (folder / "result.json").write_text(json.dumps({"acc": 91.0, "iteration": 500}) + "\n")
    code, out, _ = call(import_ray, "exp", *SAID, "--map", "acc=top1")
    assert (code, "exp: 1 new" in out) == (0, True)
    (run,) = stored(home, "ray")
    assert run.metrics["top1"] == 0.91


def test_one_bad_folder_of_several_is_told_and_left_out(call, home):
    log(home / "logs" / "a", [0.1] * 5)
    code, out, err = call(import_logs, "logs", "no", "--dataset", "d", "--model", "m")
    assert code == 1
    assert "logs: 1 new" in out
    assert "lrbench-hpo: no: no such folder" in err
    code, _, err = call(import_logs, "no")
    assert (code, err) == (2, "no: no such folder")


def test_what_was_imported_before_the_database_failed_is_told(call, home, monkeypatch):
    for name in ("one", "two"):
        log(home / name / "a", [0.1] * 5)
    import_one = import_foreign._import_one

    def failing(db, name, *rest):
        if name == "two":
            raise DatabaseError("the disk is full")
        return import_one(db, name, *rest)

    monkeypatch.setattr(import_foreign, "_import_one", failing)
    code, out, err = call(import_logs, "one", "two", "--dataset", "d", "--model", "m")
    assert code == 2
    assert "one: 1 new" in out
    assert "the disk is full" in err


def test_curves_that_are_not_kept_are_told(call, home):
    study = optuna.create_study(storage=f"sqlite:///{home}/e.db", direction="maximize")

    def train(trial):
        trial.suggest_float("lr", 1e-3, 0.1)
        for epoch in range(3):
            trial.report(0.9 + epoch / 100, epoch)
        return 0.92

    study.optimize(train, n_trials=2)
    said = ("--dataset", "mnist", "--model", "lenet", "--map", "lr=k0", "-T", 64_000)
    code, _, err = call(import_optuna, home / "e.db", *said)
    assert code == 0
    assert "2 trials are stored without their curve: their steps end at 2 of 64,000" in err
    assert all("iterations_to_best" not in run.metrics for run in stored(home, "optuna"))


def test_many_trials_in_per_cent_are_told_in_one_line(call, study):
    _, _, err = call(import_optuna, study, *SAID[:-1])
    assert err.count("looks like per cent") == 1
    assert "(and 2 more like it)" in err


def test_runs_without_a_time_are_told(call, home):
    log(home / "logs" / "a", [0.1] * 5)
    said = ("--dataset", "mnist", "--model", "lenet")
    _, _, err = call(import_logs, "logs", *said)
    assert "1 runs have no time, and are dated 1970-01-01: --created-at TIME gives them one" in err
    _, _, err = call(import_logs, "logs", *said, "--created-at", "2026-03-01T12:00Z")
    assert "1970" not in err
