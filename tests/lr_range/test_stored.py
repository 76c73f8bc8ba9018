"""`lrbench_hpo.range_test`: what is measured is kept, and found again."""

from __future__ import annotations

import pytest
import torch

import lrbench_hpo
from lrbench_hpo import connect, range_test
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.lr_range.stored import RECALLED
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.run import Task

SMALL = {"max_iterations": 100, "batch_size": 32, "device": "cpu"}


@pytest.fixture
def db(tmp_path):
    with connect(tmp_path / "lr.db") as database:
        yield database


def test_it_is_done_once(db) -> None:
    first = range_test("digits", "mlp", database=db, **SMALL)
    assert first.iterations > 0
    again = range_test("Digits", "MLP", database=db, **SMALL)
    assert (again.reference_lr, again.iterations) == (first.reference_lr, 0)
    assert RECALLED in again.notes
    assert db.range_tests(Task("digits", "mlp", batch_size=32)) == [first]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_iterations": 120},
        {"batch_size": 64},
        {"optimizer": "adam"},
        {"task": {"momentum": 0.0}},
        {"seed": 1},
        {"runs": 2},
        {"method": "coarse"},
        {"low": 1e-4},
    ],
)
def test_with_other_settings_it_is_done_anew(db, changes) -> None:
    range_test("digits", "mlp", database=db, **SMALL)
    other = range_test("digits", "mlp", database=db, **{**SMALL, **changes})
    assert other.iterations > 0
    assert db.stats().range_tests == 2


def test_ones_own_network_may_have_changed_and_is_tested_anew(db) -> None:
    def make():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))

    for _ in range(2):
        assert range_test("digits", make, database=db, **SMALL).iterations > 0


def test_what_others_measured_is_not_ones_own(db, monkeypatch) -> None:
    range_test("digits", "mlp", database=db, **SMALL)
    monkeypatch.setenv("LRBENCH_SOURCE", "ann")
    assert range_test("digits", "mlp", database=db, **SMALL).iterations > 0
    assert db.stats().range_tests == 2


def test_without_store_no_database_is_touched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LRBENCH_DATABASE_URL", f"sqlite:///{tmp_path}/never.db")
    assert range_test("digits", "mlp", store=False, **SMALL).iterations > 0
    assert not (tmp_path / "never.db").exists()


def test_a_database_that_goes_away_meanwhile_takes_nothing(db) -> None:
    def close(done: int, planned: int) -> None:
        db.close()

    with pytest.warns(UserWarning, match="the range test is not stored"):
        result = range_test("digits", "mlp", database=db, on_progress=close, **SMALL)
    assert result.reference_lr > 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"dataset": "digitz"}, "digits"),
        ({"model": "lenett"}, "lenet"),
        ({"method": "smit"}, "smith"),
        ({"optimizer": "sgdd"}, "sgd"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"batch_size": 10**6}, "batch_size"),
        ({"runs": 0}, "runs=0"),
        ({"low": 1.0, "high": 0.5}, "low=1"),
        ({"device": "gpu"}, "gpu"),
        ({"database": "mysql://host/x"}, "mysql"),
        ({"task": {"colour": 3}}, "colour"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_training(db, arguments, part) -> None:
    def never(done: int, planned: int) -> None:
        raise AssertionError("it trains")

    given = {"dataset": "digits", "model": "mlp", "database": db, **SMALL, **arguments}
    with pytest.raises(LRBenchError) as caught:
        range_test(given.pop("dataset"), given.pop("model"), on_progress=never, **given)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_front_has_all_of_it() -> None:
    assert {"RangeTest", "range_test", "range_test_on", "read_range_test"} <= set(dir(lrbench_hpo))


def test_the_prior_finds_it_also_where_the_models_size_depends_on_the_data(db) -> None:
    measured = range_test("digits", "lenet", database=db, **SMALL)
    prior = Question("digits", "lenet", database=db, max_iterations=100, batch_size=32).prior()
    assert prior.scale.reference_lr == pytest.approx(measured.reference_lr, rel=1e-5)
    assert not prior.needs_range_test
