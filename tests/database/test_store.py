from __future__ import annotations

import json
import secrets
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrbench_hpo.database import Database, connect, opened
from lrbench_hpo.database.curves import packed
from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.migrations import MIGRATIONS
from lrbench_hpo.errors import DatabaseError, RecordError, UnknownNameError
from lrbench_hpo.policies import LRPolicy, compose
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.records.score import score_run


def test_a_run_comes_back_as_it_went_in(make_run, database_url) -> None:
    run = make_run()
    with connect(database_url) as db:
        assert db.add(run) == 1
    with connect(database_url) as db:
        (bare,) = db.find("Digits", "M-L-P")
        (full,) = db.find("digits", "mlp", curves=True)
    assert full == run
    assert bare.curve == ()
    assert bare.uid == full.uid == run.uid


def test_every_kind_of_policy_comes_back(db: Database, make_run) -> None:
    policies = [
        LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[300, 500]),
        LRPolicy("POLY", k0=0.1, p=1.2, l=1000),
        compose([(100, LRPolicy("FIX", k0=0.01)), (None, LRPolicy("EXP", k0=0.1, gamma=0.99))]),
    ]
    runs = [make_run(i, policy=policy, curve=()) for i, policy in enumerate(policies)]
    db.add(*runs)
    assert db.find("digits", curves=True) == runs[::-1]


def test_every_status_and_missing_value_comes_back(db: Database, make_run) -> None:
    bare = Task("x y", "z")
    runs = [
        make_run(0, task=bare, status="diverged", metrics={"top1": None}, curve=(), seed=None),
        make_run(1, task=bare, status="pruned", metrics={}, notes={}, environment={}, cost={}),
        make_run(2, task=bare, status="failed", split="test", seed=-5),
    ]
    db.add(*runs)
    assert db.find("x-y", curves=True) == runs[::-1]


def test_storing_twice_leaves_one_row(db: Database, make_run) -> None:
    runs = [make_run(i) for i in range(5)]
    assert db.add(*runs, *runs) == 5
    assert db.add(*runs[:3], make_run(9)) == 1
    assert db.add() == 0
    assert db.add(*db.find("digits")) == 0  # read without curves, it is the same run
    assert len(db.find("digits")) == 6
    assert all(run.curve for run in db.find("digits", curves=True))
    assert len([task for task in db.tasks() if task.dataset == "digits"]) == 1


def test_many_runs_and_tasks_in_one_call(db: Database, make_run) -> None:
    tasks = [Task("many", f"model {i}") for i in range(1200)]
    assert db.add(*(make_run(0, task=task) for task in tasks)) == 1200
    found = db.find("many", limit=1100)
    assert len(found) == 1100
    assert {run.task.model for run in db.find("many")} == {task.model for task in tasks}


def test_find_by_everything(db: Database, make_run) -> None:
    fixed = LRPolicy("FIX", k0=0.1)
    other = Task("digits", "cnn")
    db.add(*(make_run(i) for i in range(4)))
    db.add(make_run(10, policy=fixed, source="team's"), make_run(11, task=other))
    seeds = lambda **given: [run.seed for run in db.find(**given)]  # noqa: E731
    assert seeds(dataset="digits") == [11, 10, 3, 2, 1, 0]
    assert seeds(model="mlp") == [10, 3, 2, 1, 0]
    assert seeds(dataset="DIGITS", model="CNN") == [11]
    assert seeds(function="fix", source="team's") == [10]
    assert seeds(dataset="digits", limit=2) == [11, 10]
    assert seeds(since="2026-01-01T00:00:03Z") == [11, 10, 3]
    assert seeds(since=datetime(2026, 1, 1, 0, 0, 11, tzinfo=UTC)) == [11]
    assert seeds(dataset="nothing") == []
    assert seeds(dataset="'; DROP TABLE lrbench_runs; --") == []
    assert len(db.find()) == 67


def test_find_by_policy_takes_the_curve_however_it_is_written(db: Database, make_run) -> None:
    one, other = LRPolicy("TRI", k0=0.1, k1=1e-3, l=50.0), LRPolicy("TRI", k0=0.1, k1=1e-3, l=51)
    db.add(make_run(1), make_run(2, policy=other))
    assert [run.seed for run in db.find("digits", policy=one)] == [1]


def test_find_refuses_what_cannot_be_meant(db: Database) -> None:
    with pytest.raises(UnknownNameError, match="did you mean SINEXP"):
        db.find(function="SINEXPP")
    with pytest.raises(RecordError, match="limit=0"):
        db.find(limit=0)
    with pytest.raises(RecordError, match="n=-1"):
        db.best("mnist", "lenet", n=-1)
    with pytest.raises(RecordError, match="ISO 8601"):
        db.find(since="yesterday")


def test_add_refuses_what_is_no_run(db: Database, make_run) -> None:
    with pytest.raises(RecordError, match=r"Run\.from_dict"):
        db.add(make_run(), make_run(1).to_dict())
    assert db.find("digits") == []


def test_best_is_ranked_by_score(db: Database, make_run) -> None:
    rows = [(0.95, 1000, 3.0), (0.94, 100, 0.0), (0.94, None, None), (0.93, 10, -2.0)]
    runs = [
        make_run(i, metrics={"top1": a, "iterations_to_best": b, "loss_difference": c})
        for i, (a, b, c) in enumerate(rows)
    ]
    apart = [
        make_run(5, status="pruned", metrics={"top1": 0.99}),
        make_run(6, status="diverged", metrics={"top1": 0.99}),
        make_run(7, split="train", metrics={"top1": 0.99}),
        make_run(8, metrics={}),
    ]
    db.add(*runs, *apart)
    found = db.best("digits", "mlp", n=10)
    assert [run.seed for run in found] == [1, 2, 0, 3]
    assert [run.seed for run in db.best("digits", "mlp", n=1)] == [1]
    assert found[0].curve == ()


measured = st.tuples(
    st.floats(0, 1), st.none() | st.integers(0, 1000), st.none() | st.floats(-30, 30)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(measured, max_size=12))
def test_best_agrees_with_score(db: Database, rows: list) -> None:
    keys = ("top1", "iterations_to_best", "loss_difference")
    policy, task = LRPolicy("FIX", k0=0.1), Task("a", secrets.token_hex(8))
    runs = [
        Run(task, policy, 1000, seed=i, metrics=dict(zip(keys, row, strict=True)))
        for i, row in enumerate(rows)
    ]
    db.add(*runs)
    scores = [score_run(run) for run in db.best("a", task.model, n=20)]
    assert scores == pytest.approx(sorted(map(score_run, runs), reverse=True))


def test_evidence_holds_the_best_and_the_newest_of_one_task(db: Database, make_run) -> None:
    other = make_run(0, task=Task("digits", "mlp", batch_size=64))
    runs = [make_run(i, metrics={"top1": 0.9 - i / 100}) for i in range(20)]
    runs.append(make_run(20, status="diverged", metrics={}))
    db.add(other, *runs)
    task = runs[0].task
    assert [run.seed for run in db.evidence(task, 4)] == [0, 1, 20, 19]
    assert [run.seed for run in db.evidence(task, 1)] == [0]
    everything = db.evidence(task, 100)
    assert sorted(run.seed for run in everything) == list(range(21))
    assert db.evidence(Task("never", "seen"), 5) == []


def test_tasks_come_back_whole(db: Database, make_run) -> None:
    task = Task.from_dict(
        {
            "dataset": "Flowers 102",
            "model": "ViT_B/16",
            "num_classes": 102,
            "num_train": 1020,
            "image_shape": [3, 224, 224],
            "num_parameters": 86_000_000,
            "framework": "pytorch",
            "optimizer": "adamw",
            "momentum": 0.9,
            "weight_decay": 1e-5,
            "batch_size": 64,
            "init": "default",
            "reference_lr": 3e-4,
        }
    )
    db.add(make_run(task=task))
    assert db.tasks()[-1] == task
    assert db.tasks()[-1].uid == task.uid


def test_stats(make_run, database_url) -> None:
    with connect(database_url) as db:
        db.add(make_run(0), make_run(1, status="pruned", source="team"))
        stats = db.stats()
    assert (stats.runs, stats.tasks) == (63, 4)
    assert stats.schema_version == MIGRATIONS[-1].version
    assert list(stats.by_source.items()) == [("lrbench-paper", 61), ("local", 1), ("team", 1)]
    assert stats.by_status == {"complete": 62, "pruned": 1}
    assert stats.location == shown(db.url)
    assert stats.size_bytes > 50_000
    with connect("sqlite://") as db:
        assert db.stats().size_bytes is None


def test_threads_share_a_database(make_run, database_url) -> None:
    for url in ("sqlite://", database_url):
        with connect(url) as db:

            def write(first: int, db: Database = db) -> None:
                for i in range(first, first + 10):
                    db.add(make_run(i))
                    db.find("digits", limit=1)

            with ThreadPoolExecutor(4) as threads:
                list(threads.map(write, range(0, 40, 10)))
            assert len(db.find("digits")) == 40


def test_opened_closes_only_what_it_opened(tmp_path) -> None:
    with connect("sqlite://") as mine:
        with opened(mine) as db:
            assert db is mine
        assert mine.tasks()
    with opened(tmp_path / "lr.db") as db:
        assert db.tasks()
    with pytest.raises(DatabaseError, match="closed: connect again"):
        db.tasks()


def test_check_writable_writes_nothing(db: Database) -> None:
    db.check_writable()
    db.check_writable()
    assert len(db.tasks()) == 3


def test_check_writable_leaves_a_file_as_it_is(tmp_path) -> None:
    with connect(tmp_path / "lr.db") as db:
        before = (tmp_path / "lr.db").read_bytes()
        db.check_writable()
        assert (tmp_path / "lr.db").read_bytes() == before


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("policy", "cos\nsystem\n(S'true'\ntR."),
        ("policy", "[" * 100_000),
        ("policy", '{"function": "FIX", "k0": -1}'),
        ("policy", '"text"'),
        ("metrics", '{"top1": 93}'),
        ("metrics", "null"),
        ("notes", "{"),
        ("created_at", "soon"),
        ("status", "fine"),
    ],
)
def test_a_row_that_breaks_a_rule_is_left_out_and_named(
    make_run, database_url, sql, column: str, text: str
) -> None:
    with connect(database_url) as db:
        db.add(make_run(), make_run(1))
        sql(database_url, f"UPDATE lrbench_runs SET {column} = :text WHERE id = 62", text=text)  # noqa: S608
        reads = (
            lambda: db.find(dataset="digits"),
            lambda: [run for run, _ in db.stored(dataset="digits", curves=False)],
            lambda: db.evidence(make_run().task, 10),
        )
        for read in reads:
            with pytest.warns(UserWarning, match="run 62 in the database breaks a rule") as told:
                assert [run.seed for run in read()] == [1]
            (line,) = {str(warning.message) for warning in told}
            assert "\n" not in line
            assert line.endswith("; it is left out")
            assert len(line) < 400


def test_a_task_that_breaks_a_rule_takes_only_its_own_runs_with_it(
    make_run, database_url, sql
) -> None:
    with connect(database_url) as db:
        db.add(make_run(), make_run(1, task=Task("digits", "cnn3")))
        sql(database_url, "UPDATE lrbench_tasks SET batch_size = -1 WHERE model = 'mlp'")
        with pytest.warns(UserWarning, match="task 4 in the database breaks a rule"):
            assert [run.seed for run in db.find("digits")] == [1]
        with pytest.warns(UserWarning, match="task 4 in the database breaks a rule"):
            assert db.tasks()[-1].model == "cnn3"


@pytest.mark.parametrize(
    "points",
    [
        b"{",
        b"",
        zlib.compress(b"[]"),
        zlib.compress(json.dumps({"iteration": [1, 2], "lr": [1]}).encode()),
        zlib.compress(b"[" * 100_000),
        packed([CurvePoint(5)])[:-3],
        zlib.compress(b" " * 100_000_000, 1),  # a bomb
    ],
)
def test_a_broken_curve_is_left_out_and_named(make_run, database_url, sql, points: bytes) -> None:
    with connect(database_url) as db:
        db.add(make_run())
        sql(database_url, "UPDATE lrbench_curves SET points = :points", points=points)
        assert len(db.find("digits")) == 1
        with pytest.warns(UserWarning, match="run 62 in the database breaks a rule") as told:
            assert db.find("digits", curves=True) == []
    assert "\n" not in str(told[0].message)
