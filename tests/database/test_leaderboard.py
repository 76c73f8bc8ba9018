"""Stored runs, ranked among those that can be compared."""

import dataclasses

import pytest

from lrbench_hpo import LRPolicy, Run, connect, leaderboards
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.records.tasks import task_for

LOW, HIGH = LRPolicy("FIX", k0=0.01), LRPolicy("FIX", k0=0.1)


def run(policy, top1, seed, budget=100, **changes):
    metrics = {"top1": top1, "iterations_to_best": 0, "loss_difference": 0.0}
    task = task_for("digits", "mlp", details={"num_train": 1_000})
    notes = {"evaluation_samples": 100}
    return Run(task, policy, budget, seed=seed, metrics=metrics, notes=notes, **changes)


def test_the_papers_tie_on_mnist_shares_a_rank():
    [board] = leaderboards("MNIST", "LeNet", database="sqlite://", by="top1")
    ranks = {entry.policy.function: entry.rank for entry in board.ranked}
    assert ranks["SIN2"] == ranks["COS"] == 1
    assert ranks["INV"] > ranks["TRI2"] > 1
    # COS needs the whole budget to get there: by score it falls behind.
    [board] = leaderboards("MNIST", "LeNet", database="sqlite://")
    assert board.ranked[0].policy.function == "SIN2"
    assert {entry.policy.function: entry.rank for entry in board.ranked}["COS"] > 1


def test_only_like_is_compared_with_like():
    with connect("sqlite://") as db:
        db.add(run(LOW, 0.9, 0), run(HIGH, 0.8, 0, budget=200), run(HIGH, 0.7, 0, split="test"))
        boards = leaderboards("digits", "mlp", database=db)
        assert [len(board.ranked) for board in boards] == [1, 1, 1]


def test_another_momentum_is_another_recipe():
    with connect("sqlite://") as db:
        plain = task_for("digits", "mlp", details={"momentum": 0.0})
        db.add(run(LOW, 0.9, 0), dataclasses.replace(run(LOW, 0.2, 1), task=plain))
        assert [b.ranked[0].n for b in leaderboards("digits", "mlp", database=db)] == [1, 1]


def test_pruned_runs_are_left_out():
    with connect("sqlite://") as db:
        db.add(run(LOW, 0.9, None), run(HIGH, 0.99, None, status="pruned"))
        [board] = leaderboards("digits", "mlp", database=db)
    assert [entry.policy for entry in board.ranked] == [LOW]


def test_seeds_are_gathered_and_the_same_seed_counts_once():
    with connect("sqlite://") as db:
        runs = [run(LOW, top1, seed) for seed, top1 in enumerate((0.90, 0.91, 0.92))]
        again = run(LOW, 0.90, 0, created_at="2030-01-01T00:00:00Z")
        db.add(*runs, again, *(run(HIGH, 0.5 + seed / 100, seed) for seed in range(3)))
        [board] = leaderboards("digits", "mlp", database=db)
    assert [(entry.rank, entry.policy, entry.n) for entry in board.ranked] == [
        (1, LOW, 3),
        (2, HIGH, 3),
    ]
    assert board.ranked[0].mean == pytest.approx(0.91)
    assert board.to_dict()["ranked"][0]["runs"] == 3


def test_single_seeds_within_the_noise_of_one_evaluation_tie():
    with connect("sqlite://") as db:
        db.add(run(LOW, 0.90, 0), run(HIGH, 0.91, 0), run(LRPolicy("FIX", k0=1.0), 0.1, 0))
        [board] = leaderboards("digits", "mlp", database=db)
    assert [entry.rank for entry in board.ranked] == [1, 1, 3]


def test_a_task_nobody_ran_is_named_with_its_likes():
    with pytest.raises(UnknownNameError, match="did you mean MNIST LeNet"):
        leaderboards("mnist", "lenett", database="sqlite://")
