"""Where a task's reference LR comes from."""

from __future__ import annotations

import dataclasses

import pytest

import lrbench_hpo
from lrbench_hpo import LRPolicy, RangeTest, Run, connect, create_study
from lrbench_hpo.errors import RecordError
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.tasks import recipe_for, task_for

TASK = task_for("digits", "mlp", recipe_for("digits", "mlp", optimizer="adam"))
SETTINGS = {"optimizer": "adam", "max_iterations": 300}


@pytest.fixture
def db(tmp_path):
    with connect(tmp_path / "lr.db") as database:
        yield database


def found(number: int = 0, **changes) -> RangeTest:
    fields = {
        "reference_lr": 0.005 + number / 1_000,
        "spread": 1.8,
        "low": 4e-4,
        "high": 0.1,
        "iterations": 75,
        "max_iterations": 300,
        "created_at": f"2026-01-01T00:00:{number:02d}Z",
    }
    return RangeTest(**{**fields, **changes})


def prior(db, **changes):
    return Question("digits", "mlp", database=db, **{**SETTINGS, **changes}).prior()


def test_a_range_test_is_needed_where_no_similar_task_has_this_lr_unit(db) -> None:
    assert prior(db).needs_range_test  # the paper knows SGD alone
    assert not prior(db, optimizer="sgd").needs_range_test
    assert not prior(db, reference_lr=0.01).needs_range_test
    assert not prior(db, reference_lr=found()).needs_range_test


def test_a_given_range_test_counts_as_it_is(db) -> None:
    known = prior(db, reference_lr=found(max_iterations=50))
    assert known.scale.reference_lr == 0.005
    assert known.reference_origin == "measured by a range test"
    assert known.range_test == found(max_iterations=50)


def test_a_stored_range_test_of_the_task_is_found(db) -> None:
    db.add_range_test(TASK, found(1))
    db.add_range_test(TASK, found(3))
    db.add_range_test(TASK, found(2))
    db.add_range_test(dataclasses.replace(TASK, batch_size=7), found(9))
    known = prior(db)
    assert known.scale.reference_lr == pytest.approx(0.008)
    assert known.reference_origin == "measured by a range test"
    assert not known.needs_range_test
    assert known.range_test is not None
    assert known.range_test.iterations == 0  # it cost this search nothing


def test_a_stored_range_test_is_turned_to_the_budget(db) -> None:
    db.add_range_test(TASK, found(max_iterations=300))
    assert prior(db, max_iterations=900).scale.reference_lr < 0.004
    # Ten times longer is too far to reckon from.
    assert prior(db, max_iterations=3_000).needs_range_test
    db.add_range_test(TASK, found(4, max_iterations=1_000))
    assert prior(db, max_iterations=900).scale.reference_lr == pytest.approx(0.009, rel=0.1)


def test_a_vague_range_test_and_untrusted_ones_do_not_count(db, monkeypatch) -> None:
    db.add_range_test(TASK, found(spread=20.0))
    assert prior(db).needs_range_test
    db.add_range_test(TASK, found(1), source="ann")
    assert prior(db, trusted_sources=["local"]).needs_range_test
    assert not prior(db).needs_range_test


def test_ones_own_best_constant_lr_comes_before_a_stored_range_test(db) -> None:
    db.add_range_test(TASK, found())
    for lr, top1 in ((1e-4, 0.5), (1e-3, 0.9), (1e-2, 0.8)):
        policy = LRPolicy("FIX", k0=lr)
        db.add(Run(TASK, policy, 300, metrics={"top1": top1, "iterations_to_best": 300}))
    known = prior(db)
    assert known.scale.reference_lr == pytest.approx(1e-3)
    assert "best of the constant LRs" in known.reference_origin


def test_a_study_notes_the_range_test_it_was_given(db) -> None:
    lrs = ((1e-4, 1e-2),)
    test = found(lrs=lrs, losses=((2.0, 1.0),), seeds=(0,))
    study = create_study("digits", "mlp", database=db, reference_lr=test, **SETTINGS)
    noted = study.user_attrs["range_test"]
    assert noted["iterations"] == 75
    assert RangeTest.from_dict(noted) == dataclasses.replace(test, lrs=(), losses=(), seeds=())
    plain = create_study("digits", "mlp", database=db, reference_lr=0.01, **SETTINGS)
    assert "range_test" not in plain.user_attrs


def test_recommendations_take_a_range_test_too(db) -> None:
    asked = {"database": db, "n": 1, **SETTINGS}
    low, high = (
        lrbench_hpo.recommend("digits", "mlp", reference_lr=found(reference_lr=lr), **asked)[0]
        for lr in (0.001, 0.01)
    )
    assert high.policy.bounds[1] == pytest.approx(10 * low.policy.bounds[1])


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), 1e9, True, "high", {"lr": 1}])
def test_what_is_no_reference_lr_is_one_line(db, value) -> None:
    with pytest.raises(RecordError) as caught:
        prior(db, reference_lr=value)
    assert str(caught.value).startswith("reference_lr=")
    assert "\n" not in str(caught.value)
