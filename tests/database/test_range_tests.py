"""LR range tests in the database, on each back end."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest

from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.migrations import MIGRATIONS
from lrbench_hpo.errors import DatabaseError, RecordError
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Task

TASK = Task("digits", "mlp", num_classes=10, optimizer="sgd", momentum=0.9, batch_size=32)


def made(number: int = 0, **changes) -> RangeTest:
    fields = {
        "reference_lr": 0.05 + number / 1000,
        "spread": 1.8,
        "low": 0.004,
        "high": 0.4,
        "iterations": 75,
        "lrs": ((1e-4, 1e-2, 1.0), (1e-4, 1e-2, 1.0)),
        "losses": ((2.3, 1.1, None), (2.4, 0.9, 7.5)),
        "seeds": (0, 1),
        "max_iterations": 300,
        "created_at": f"2026-01-01T00:00:{number:02d}Z",
        "notes": ("naïve × λ 😀",),
    }
    return RangeTest(**{**fields, **changes})


def test_a_test_comes_back_as_it_went_in_newest_first(db) -> None:
    assert all(db.add_range_test(TASK, made(number)) for number in (1, 3, 2))
    assert db.range_tests(TASK) == [made(3), made(2), made(1)]


def test_the_same_test_again_stays_one_row(db) -> None:
    assert db.add_range_test(TASK, made())
    assert not db.add_range_test(dataclasses.replace(TASK, dataset="DIGITS"), made())
    assert not db.add_range_test(TASK, made(), source="ann")
    assert db.stats().range_tests == 1


def test_the_reference_lr_of_a_task_and_what_it_leaves_open_do_not_matter(db) -> None:
    db.add_range_test(dataclasses.replace(TASK, reference_lr=0.3), made())
    for alike in (
        TASK,
        Task("Digits", "MLP"),
        dataclasses.replace(TASK, reference_lr=7.0, weight_decay=1e-4, num_train=1221),
    ):
        assert db.range_tests(alike) == [made()]


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 64}, {"optimizer": "adam"}, {"momentum": 0.0}, {"model": "lenet"}],
)
def test_another_task_has_none_of_it(db, change) -> None:
    db.add_range_test(TASK, made())
    assert db.range_tests(dataclasses.replace(TASK, **change)) == []


def test_only_trusted_sources(db) -> None:
    db.add_range_test(TASK, made(1), source="ann")
    db.add_range_test(TASK, made(2), source="bob")
    assert db.range_tests(TASK, ["ann"]) == [made(1)]
    assert db.range_tests(TASK, []) == []
    assert len(db.range_tests(TASK)) == 2


def test_it_is_no_run_and_no_task(db) -> None:
    tasks, runs = db.tasks(), db.stats().runs
    db.add_range_test(TASK, made())
    assert (db.tasks(), db.stats().runs) == (tasks, runs)


def test_a_source_is_forgotten_with_its_tests(db, make_run) -> None:
    db.add(make_run())
    db.add_range_test(TASK, made(1), source="ann")
    db.add_range_test(TASK, made(2))
    assert db.forget(source="ann", dry_run=True) == 0
    assert len(db.range_tests(TASK)) == 2
    assert db.forget(source="ann") == 0
    assert db.range_tests(TASK) == [made(2)]
    assert db.forget(source="local") == 1
    assert db.range_tests(TASK) == []


def test_what_cannot_be_stored_is_refused_in_one_line(db) -> None:
    for task, result, source in (
        ("digits", made(), "ann"),
        (TASK, 0.05, "ann"),
        (TASK, made(), "LRBench-Paper"),
    ):
        with pytest.raises(RecordError) as caught:
            db.add_range_test(task, result, source=source)
        assert "\n" not in str(caught.value)
    assert db.stats().range_tests == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", "{"),
        ("payload", "[]"),
        ("payload", json.dumps({**made().to_dict(), "spread": 0.5})),
        ("payload", json.dumps({**made().to_dict(), "low": 1.0})),
        ("payload", json.dumps({**made().to_dict(), "extra": 1.0})),
        ("payload", "[" * 100_000),
        ("task", '{"dataset": "digits"}'),
        ("task", '"digits"'),
    ],
)
def test_a_row_that_breaks_a_rule_is_left_out_with_a_warning(
    db, database_url, sql, column, value
) -> None:
    db.add_range_test(TASK, made(1))
    db.add_range_test(TASK, made(2))
    sql(
        database_url,
        f"UPDATE lrbench_range_tests SET {column} = :value WHERE created_at LIKE '%01.000000Z'",  # noqa: S608
        value=value,
    )
    with pytest.warns(UserWarning, match="range test 1 in the database breaks a rule") as told:
        assert db.range_tests(TASK) == [made(2)]
    assert "\n" not in str(told[0].message)


def test_a_value_out_of_its_range_cannot_be_made() -> None:
    for changes in (
        {"spread": 0.9},
        {"spread": float("inf")},
        {"reference_lr": 0.0},
        {"low": 0.05},
        {"high": 0.04},
        {"iterations": -1},
        {"method": "magic"},
        {"seeds": (0,)},
        {"losses": ((1.0,),)},
        {"lrs": ((1e-4, -1e-2, 1.0), (1e-4, 1e-2, 1.0))},
        {"notes": ("two\nlines",)},
    ):
        with pytest.raises(RecordError) as caught:
            made(**changes)
        assert "\n" not in str(caught.value)


def test_schema_2_becomes_the_newest_with_every_run(
    database_url, make_schema_1, make_run, sql
) -> None:
    from lrbench_hpo.database.engine import open_engine
    from lrbench_hpo.database.location import database_url as url_of

    make_schema_1(database_url)
    with Database(open_engine(url_of(database_url)), MIGRATIONS[:2]) as older:
        assert sql(database_url, "SELECT max(version) FROM lrbench_schema") == [(2,)]
        older.add(make_run())
        before = {run.uid: (run, origin) for run, origin in older.stored()}
    with pytest.raises(DatabaseError, match="of schema 2, not 3"):
        connect(database_url, migrated=False)
    with connect(database_url) as db:
        assert {run.uid: (run, origin) for run, origin in db.stored()} == before
        assert db.range_tests(TASK) == []
        assert db.add_range_test(TASK, made())
        assert db.stats().schema_version == MIGRATIONS[-1].version
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with connect(database_url) as db:
            assert db.range_tests(TASK) == [made()]
