"""Real Optuna studies, in SQLite and in a journal, as runs."""

import dataclasses
import json
import os
import sqlite3

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import lrbench_hpo
from lrbench_hpo.database import connect
from lrbench_hpo.errors import DatabaseError, LRBenchError, PolicyError, UnknownNameError
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.originals import Originals
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.exchange.tools import optuna_study
from lrbench_hpo.exchange.translation import Translation
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run
from lrbench_hpo.study import results as outcomes
from lrbench_hpo.study.settings import StudySettings

optuna.logging.set_verbosity(optuna.logging.WARNING)
FOREIGN = Translation(
    "mnist",
    "lenet",
    {"lr": "k0", "schedule": "function", "batch_size": "task.batch_size"},
    {"k1": 0.0, "l": 400},
    max_iterations=400,
    iterations_per_epoch=100,
    percent=True,
)


def train(trial):
    trial.suggest_float("lr", 1e-4, 1, log=True)
    trial.suggest_categorical("schedule", ["const", "cosine"])
    trial.suggest_int("batch_size", 16, 64)
    trial.suggest_float("dropout", 0, 1)
    for epoch in range(4):
        trial.report(90.0 + epoch + trial.number / 10, epoch)
    if trial.number == 2:
        raise optuna.TrialPruned
    if trial.number == 3:
        raise ValueError("out of memory")
    return 93.0 + trial.number / 10


@pytest.fixture(params=["sqlite", "journal"])
def study(request, tmp_path):
    file = tmp_path / "study.db"
    storage = f"sqlite:///{file}"
    if request.param == "journal":
        storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(storage=storage, study_name="mine", direction="maximize")
    study.optimize(train, n_trials=5, catch=ValueError)
    study.ask()
    study.enqueue_trial({"lr": 0.1})
    return study, f"{request.param}:///{file}", file


def test_trials_become_runs(study):
    study, url, _ = study
    left_out = []
    rows = list(optuna_study.read(url, "mine", FOREIGN, left_out=left_out.append))
    runs = [row.run for row in rows]
    assert left_out == ["trial 5", "trial 6"]
    assert [run.status for run in runs] == ["complete"] * 2 + ["pruned", "failed", "complete"]
    for run, trial in zip(runs, study.trials, strict=False):
        assert run.policy.k0 == trial.params["lr"]
        assert run.policy.function == {"const": "FIX", "cosine": "COS"}[trial.params["schedule"]]
        assert run.task.batch_size == trial.params["batch_size"]
        assert run.task.optimizer is None  # nobody said it
        assert [point.iteration for point in run.curve] == [100, 200, 300, 400]
        assert run.notes == {"optuna_study": "mine", "optuna_trial": trial.number}
        assert run.source == "optuna"
    assert runs[1].metrics["top1"] == pytest.approx(0.931)
    assert runs[1].metrics["iterations_to_best"] == 400
    assert runs[2].metrics["top1"] == pytest.approx(0.932)


def test_importing_again_leaves_the_same_rows(study, tmp_path):
    study, url, file = study
    before = file.read_bytes()
    with connect(tmp_path / "lr.db") as db:
        known = db.stats().runs
        for new in (5, 0):
            rows = optuna_study.read(url, "mine", FOREIGN)
            report = import_rows(db, rows, file=url, checksum=None)
            assert (report.new, report.known, report.rejected) == (new, 5 - new, 0)
        assert db.stats().runs == known + 5
        # In another time zone, and of the open study, they are the same.
        os.environ["TZ"] = "Asia/Tokyo"
        try:
            rows = optuna_study.read(optuna_study.open_study(str(file)), None, FOREIGN)
            assert import_rows(db, rows, file="again", checksum=None).new == 0
        finally:
            del os.environ["TZ"]
    assert file.read_bytes() == before


def test_an_only_study_needs_no_name(study):
    assert optuna_study.open_study(study[1]).study_name == "mine"
    with pytest.raises(UnknownNameError, match="unknown study 'mien': did you mean mine"):
        optuna_study.open_study(study[1], "mien")


def test_a_typo_makes_nothing(tmp_path, study):
    here = sorted(path.name for path in tmp_path.iterdir())
    for url in (
        f"sqlite:///{tmp_path}/study.bd",
        f"journal:///{tmp_path}/jurnal",
        f"{tmp_path}/nothing",
        "sqlite://",
        "sqlite:///:memory:",
        "redis://localhost",
        "mongodb://localhost/x",
        "nonsense",
        "://",
        str(tmp_path),
        f"sqlite:///{tmp_path}",
        "\0",
    ):
        with pytest.raises(ExchangeError) as caught:
            optuna_study.open_study(url, "mine")
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == here


def test_databases_of_others_get_no_tables(tmp_path):
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("create table things (x)")
    before = file.read_bytes()
    with pytest.raises(ExchangeError, match="holds no Optuna studies"):
        optuna_study.open_study(f"sqlite:///{file}")
    assert file.read_bytes() == before
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for url in (f"sqlite:///{text}", f"journal:///{text}", str(text)):
        with pytest.raises(ExchangeError):
            optuna_study.open_study(url)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(ExchangeError, match=r"damaged\.db|not a"):
        optuna_study.open_study(str(damaged))


def test_no_password_in_errors():
    with pytest.raises(LRBenchError) as caught:
        optuna_study.open_study("postgresql://me:secret@127.0.0.1:1/x", "mine")
    assert "secret" not in str(caught.value)


def one_trial(**fields):
    study = optuna.create_study(direction="maximize")
    fields = {"params": {"lr": 0.1}, "value": 0.9} | fields
    params = fields["params"]
    study.add_trial(
        create_trial(
            distributions={
                n: optuna.distributions.CategoricalDistribution([v]) for n, v in params.items()
            },
            **fields,
        )
    )
    return study


def only(study, **said):
    said = {
        "dataset": "mnist",
        "model": "lenet",
        "mapping": {"lr": "k0"},
        "max_iterations": 100,
    } | said
    (row,) = optuna_study.read(study, translation=Translation(**said))
    return row


@pytest.mark.parametrize(
    ("fields", "said", "reason"),
    [
        ({}, {"dataset": None}, "task.dataset is missing: give --dataset"),
        ({}, {"max_iterations": None}, "max_iterations is missing: give --max-iterations"),
        ({"value": 93.0}, {}, "looks like per cent: give --percent"),
        ({"params": {"lr": -0.1}}, {}, "k0=-0.1"),
        ({"params": {"lr": "high"}}, {}, "k0='high'"),
        (
            {"params": {"rate": 0.1}},
            {"mapping": {}},
            "; --map NAME=k0 maps a name of: rate, value",
        ),
        ({}, {"function": "COS"}, "COS needs k1"),
        (
            {"params": {"lr": 0.1, "f": "plateau"}},
            {"mapping": {"lr": "k0", "f": "function"}},
            "unknown LR function 'plateau'",
        ),
        ({"intermediate_values": {500: 0.5}}, {}, "up to max_iterations=100"),
        (
            {"user_attrs": {"b": 0}},
            {"mapping": {"lr": "k0", "b": "task.batch_size"}},
            "task.batch_size=0",
        ),
        (
            {"user_attrs": {"m": "x\x1b[2J"}},
            {"model": None, "mapping": {"lr": "k0", "m": "task.model"}},
            "control character",
        ),
    ],
)
def test_what_cannot_be_is_rejected_with_its_reason(fields, said, reason):
    row = only(one_trial(**fields), **said)
    assert isinstance(row, Rejected)
    assert row.place == "trial 0"
    assert reason in row.reason
    assert row.text


def test_values_come_from_where_they_are_said_to_be():
    study = one_trial(user_attrs={"val_acc": 91.0, "loss": 0.25, "T": 200.0, "s": 7})
    mapping = {
        "lr": "k0",
        "val_acc": "top1",
        "loss": "eval_loss",
        "T": "max_iterations",
        "s": "seed",
    }
    run = only(study, mapping=mapping, percent=True).run
    assert run.metrics == {"top1": 0.91, "eval_loss": 0.25}
    assert (run.max_iterations, run.seed) == (200, 7)


def test_a_list_of_drops_and_epochs():
    study = one_trial(user_attrs={"drops": [30, 60], "n": 90})
    run = only(
        study,
        mapping={"lr": "k0", "drops": "l", "n": "epochs"},
        constants={"gamma": 0.1, "function": "NSTEP"},
        max_iterations=None,
        iterations_per_epoch=10,
    ).run
    assert run.policy == LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[30, 60])
    assert run.max_iterations == 900


def test_losses_that_blew_up_are_diverged():
    study = one_trial(user_attrs={"loss": float("nan")})
    run = only(study, mapping={"lr": "k0", "loss": "train_loss"}).run
    assert run.status == "diverged"
    assert run.metrics["train_loss"] is None


def test_directions_are_checked():
    study = optuna.create_study(direction="minimize")
    with pytest.raises(ExchangeError, match="minimizes its value, which is said to be top1"):
        optuna_study.read(study, translation=Translation("mnist", "lenet"))
    optuna_study.read(study, translation=Translation("mnist", "lenet", metric="eval_loss"))
    two = optuna.create_study(directions=["maximize", "minimize"])
    with pytest.raises(ExchangeError, match="has 2 values: say what they are"):
        optuna_study.read(two, translation=Translation("mnist", "lenet"))
    with pytest.raises(ExchangeError, match="maximizes its value, which is said to be eval_loss"):
        optuna_study.read(two, translation=Translation("mnist", "lenet", {"value0": "eval_loss"}))


def test_several_values_are_mapped():
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trial(
        create_trial(
            params={"lr": 0.1},
            distributions={"lr": optuna.distributions.FloatDistribution(0, 1)},
            values=[0.9, 0.4],
        )
    )
    run = only(study, mapping={"lr": "k0", "value0": "top1", "value1": "eval_loss"}).run
    assert run.metrics == {"top1": 0.9, "eval_loss": 0.4}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"mapping": {"lr": "kO"}}, "unknown name to map to 'kO'"),
        ({"mapping": {"a": "k0", "b": "k0"}}, "two of their names"),
        ({"constants": {"x": 1}}, "unknown name to map to 'x'"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ({"function": "COSI"}, "did you mean COS"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"iterations_per_epoch": -1}, "iterations_per_epoch=-1"),
    ],
)
def test_what_is_said_is_checked_first(said, reason):
    with pytest.raises(LRBenchError) as caught:
        Translation("mnist", "lenet", **said)
    assert reason in str(caught.value)


def own_study(database, n=3):
    """A study of this package's, with results told as the built-in objective tells them."""
    study = lrbench_hpo.create_study(
        "digits", "mlp", max_iterations=100, reference_lr=0.1, database=database, study_name="own"
    )
    runs = []
    settings = StudySettings.of(study)
    for number in range(n):
        trial = study.ask()
        policy = lrbench_hpo.suggest_policy(trial)
        metrics = {"top1": 0.8 + number / 100, "iterations_to_best": 100, "loss_difference": 0.1}
        run = Run(settings.task, policy, 100, seed=0, metrics=metrics, cost={"seconds": 1.0})
        outcomes.note(trial, run, 0.8 + number / 100)
        study.tell(trial, 0.8 + number / 100)
        runs.append(run)
    return study, runs


def test_a_study_of_this_package_needs_no_words(tmp_path):
    with connect(tmp_path / "lr.db") as db:
        study, runs = own_study(db)
        rows = list(optuna_study.read(study))
        assert [row.run.policy for row in rows] == [run.policy for run in runs]
        assert [row.run.metrics for row in rows] == [run.metrics for run in runs]
        assert rows[0].run.task == runs[0].task
        assert rows[0].run.cost == {"seconds": 1.0}
        assert rows[0].run.notes["run"] == runs[0].uid
        # What the objective has stored itself is known, and not stored in another form.
        assert not Originals(db).contains(rows[0].run)
        db.add(*runs)
        originals = Originals(db)
        assert all(originals.contains(row.run) for row in rows)


def test_a_trial_whose_run_was_recalled_is_no_second_run(tmp_path):
    with connect(tmp_path / "lr.db") as db:
        study, runs = own_study(db, 1)
        trial = study.ask()
        lrbench_hpo.suggest_policy(trial)
        outcomes.note(trial, runs[0], 0.8)
        study.tell(trial, 0.8)
        failed = study.ask()
        study.tell(failed, state=TrialState.FAIL)
        left_out = []
        rows = list(optuna_study.read(study, left_out=left_out.append))
    assert left_out[0] == "trial 1"  # the others wait
    assert [type(row) for row in rows] == [Found, Rejected]
    assert rows[1].reason == "no LR policy: the trial ended before it had one"


def test_a_study_of_another_task_is_told(tmp_path):
    with connect(tmp_path / "lr.db") as db:
        study, _ = own_study(db, 1)
        (row,) = optuna_study.read(study, translation=Translation("mnist"))
    assert row.reason == "dataset='mnist': the study is of 'digits': leave --dataset out"


def test_attributes_too_deep_end_in_one_line(study):
    _, url, file = study
    deep = "[" * 100_000 + "]" * 100_000
    if url.startswith("sqlite"):
        with sqlite3.connect(file) as db:
            db.execute(
                "insert into trial_user_attributes (trial_id, key, value_json) values (1, 'x', ?)",
                (deep,),
            )
        with pytest.raises(ExchangeError, match="cannot be read"):
            list(optuna_study.read(url, "mine", FOREIGN))
    else:
        with file.open("a") as lines:
            lines.write(json.dumps({"op_code": 8, "worker_id": "x"})[:-1] + f', "x": {deep}}}\n')
        with pytest.raises(ExchangeError):
            list(optuna_study.read(url, "mine", FOREIGN))


def test_a_policy_that_cannot_be_raises_where_it_is_asked_for():
    with pytest.raises(PolicyError):
        FOREIGN.policy({"function": "cosine", "k0": 0.1})


def test_names_of_others_cannot_write_to_the_terminal():
    study = optuna.create_study(study_name="x\x1b[2J")
    optuna.create_study(study_name="y", storage=study._storage)
    for name in ("nine", None):
        with pytest.raises(LRBenchError) as caught:
            optuna_study.open_study(study._storage, name)
        assert str(caught.value).isprintable()


def test_a_server_holds_studies_too(postgres_database):
    url = postgres_database.replace("postgresql://", "postgresql+psycopg2://", 1)
    with pytest.raises(ExchangeError, match="holds no Optuna studies"):
        optuna_study.open_study(postgres_database)
    study = optuna.create_study(storage=url, study_name="mine", direction="maximize")
    study.optimize(train, n_trials=2)
    rows = list(optuna_study.read(postgres_database, "mine", FOREIGN))
    assert [row.run.status for row in rows] == ["complete", "complete"]


@pytest.mark.parametrize("name", ["space", "task", "score_weights"])
def test_settings_of_a_study_that_are_none_end_in_one_line(tmp_path, name):
    with connect(tmp_path / "lr.db") as db:
        study, _ = own_study(db, 1)
    for bad in (5, [1], "x", {"functions": [1, 2]}, {"functions": {"FIX": [3]}}):
        settings = StudySettings.of(study).to_dict() | {name: bad}
        other = optuna.create_study(study_name="other")
        other.set_user_attr("lrbench", settings)
        with pytest.raises(ExchangeError, match="study 'other' cannot be read") as caught:
            list(optuna_study.read(other))
        assert "\n" not in str(caught.value)


class Counted:
    """A database that counts what it is asked."""

    def __init__(self, database):
        self.database, self.asked = database, 0

    def __getattr__(self, name):
        self.asked += 1
        return getattr(self.database, name)


@pytest.mark.parametrize(("most", "asked"), [(1000, 1), (2, 4)])
def test_the_database_is_asked_once_a_task_for_what_it_holds(tmp_path, most, asked):
    with connect(tmp_path / "lr.db") as db:
        study, runs = own_study(db)
        db.add(*runs)
        counted = Counted(db)
        originals = Originals(counted, most)
        rows = list(optuna_study.read(study))
        assert len(rows) == 3
        assert all(originals.contains(row.run) for row in rows)
        assert counted.asked == asked  # of a larger task, each run is asked for


def test_a_bad_row_of_the_task_ends_no_import(tmp_path, monkeypatch):
    def stored(*_, **__):
        raise DatabaseError("run 1 cannot be read")
        yield

    with connect(tmp_path / "lr.db") as db:
        study, runs = own_study(db)
        db.add(*runs[:2])
        monkeypatch.setattr(db, "stored", stored)
        originals = Originals(db)
        held = [originals.contains(row.run) for row in optuna_study.read(study)]
    assert held == [True, True, False]


def reporting(steps, value=0.93, **fields):
    """A trial whose Top-1 rises by a hundredth at each step, to 0.93."""
    rising = {step: 0.93 - (len(steps) - 1 - i) / 100 for i, step in enumerate(steps)}
    return one_trial(value=value, intermediate_values=rising, **fields)


def test_steps_far_below_the_budget_make_no_curve():
    told = []
    translation = Translation("mnist", "lenet", {"lr": "k0"}, max_iterations=64_000)
    (row,) = optuna_study.read(reporting([0, 1, 2]), translation=translation, notify=told.append)
    assert row.run.curve == ()
    assert row.run.metrics == {"top1": 0.93, "final_top1": 0.93}
    (line,) = told
    assert line.startswith("1 trials are stored without their curve: their steps end at 2 of 64,00")
    assert "--iterations-per-epoch" in line


@pytest.mark.parametrize(
    ("steps", "said", "iterations"),
    [
        ([0, 1, 2], {"iterations_per_epoch": 391}, [391, 782, 1173]),
        ([0, 1, 2], {"mapping": {"lr": "k0", "step": "iteration"}}, [0, 1, 2]),
        ([0, 500, 999], {}, [0, 500, 999]),
    ],
)
def test_steps_whose_unit_is_known_make_a_curve(steps, said, iterations):
    told = []
    translation = Translation(**{"dataset": "d", "model": "m", "mapping": {"lr": "k0"}} | said)
    translation = dataclasses.replace(
        translation, max_iterations=1_173 if "iter" in str(said) else 1_000
    )
    (row,) = optuna_study.read(reporting(steps), translation=translation, notify=told.append)
    assert [point.iteration for point in row.run.curve] == iterations
    assert row.run.metrics["iterations_to_best"] == iterations[-1]
    assert told == []


def test_a_pruned_trial_counts_as_the_complete_ones_do():
    for last, kept in ((900, True), (9, False)):
        study = reporting([0, last // 2, last])
        pruned = {"state": TrialState.PRUNED, "intermediate_values": {3: 0.5}}
        study.add_trial(create_trial(params={}, distributions={}, **pruned))
        translation = Translation("d", "m", constants={"k0": 0.1}, max_iterations=1_000)
        rows = list(optuna_study.read(study, translation=translation))
        assert [bool(row.run.curve) for row in rows] == [kept, kept]
        assert rows[1].run.metrics["top1"] == 0.5  # it is known all the same
        assert ("iterations_to_best" in rows[1].run.metrics) == kept


@pytest.mark.parametrize(("value", "at"), [(0.93, 100), (0.92, 50), (0.925, None)])
def test_no_other_top1_has_the_place_of_the_best(value, at):
    run = only(reporting([10, 50, 100], value=value)).run
    assert run.metrics["top1"] == value
    assert run.metrics.get("iterations_to_best") == at


@pytest.mark.parametrize(
    ("function", "drops"), [("STEP", 14), ("COS", 14), ("NSTEP", [30, 60, 80])]
)
def test_an_l_in_epochs_is_refused_or_told_in_iterations(function, drops):
    study = one_trial(user_attrs={"step_size": drops})
    said = {"constants": {"gamma": 0.1, "k1": 0.0, "function": function}, "max_iterations": 64_000}
    row = only(study, mapping={"lr": "k0", "step_size": "l"}, **said)
    assert "of max_iterations=64,000: if it counts epochs, map it to l_epochs" in row.reason
    mapping = {"lr": "k0", "step_size": "l_epochs"}
    row = only(study, mapping=mapping, **said)
    assert row.reason == "it counts epochs: give --iterations-per-epoch"
    found = only(study, mapping=mapping, iterations_per_epoch=391, **said).run.policy.l
    one = function != "NSTEP"
    assert found == (14 * 391 if one else pytest.approx([each * 391 for each in drops]))


def test_shares_are_no_per_cent():
    row = only(one_trial(value=0.84), percent=True)
    assert row.reason == (
        "top1 is at most 1 here and in all other rows: is it a share? Leave --percent out"
    )
    both = one_trial(value=0.84)
    both.add_trial(one_trial(value=84.0).trials[0])
    translation = Translation("d", "m", {"lr": "k0"}, max_iterations=100, percent=True)
    rows = list(optuna_study.read(both, translation=translation))
    assert [row.run.metrics["top1"] for row in rows] == [0.0084, 0.84]


def test_a_mapped_name_that_no_trial_has_is_refused():
    with pytest.raises(ExchangeError, match="no trial has 'LR', which is mapped: they have lr, va"):
        only(one_trial(), mapping={"LR": "k0"})


def test_all_trials_in_per_cent_have_one_reason():
    study = one_trial(value=93.0)
    study.add_trial(one_trial(value=94.0).trials[0])
    translation = Translation("d", "m", {"lr": "k0"}, max_iterations=100)
    assert len({row.reason for row in optuna_study.read(study, translation=translation)}) == 1
