from __future__ import annotations

from collections import Counter

import pytest

from lrbench_hpo.database import connect, paper
from lrbench_hpo.database.paper import SOURCE, paper_runs
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import Run


def row(model: str, function: str, **fields) -> Run:
    """The one published row with these policy fields."""
    (found,) = (
        run
        for run in paper_runs()
        if run.task.model == model
        and run.policy.function == function
        and all(getattr(run.policy, name) == value for name, value in fields.items())
    )
    return found


def test_all_rows_are_there() -> None:
    runs = paper_runs()
    assert len(runs) == len({run.uid for run in runs}) == 61
    counts = Counter((run.task.dataset, run.task.model) for run in runs)
    assert counts == {
        ("MNIST", "LeNet"): 10,
        ("CIFAR-10", "CNN3"): 36,
        ("CIFAR-10", "ResNet-32"): 15,
    }
    assert {(run.source, run.split, run.status, run.seed) for run in runs} == {
        (SOURCE, "test", "complete", None)
    }


def test_the_same_rows_in_every_database() -> None:
    before = [run.uid for run in paper_runs()]
    paper._paper_runs.cache_clear()  # read them again
    assert [run.uid for run in paper_runs()] == before
    with connect("sqlite://") as db:
        assert sorted(db.find(), key=lambda run: run.uid) == sorted(
            paper_runs(), key=lambda run: run.uid
        )


def test_cells_of_the_best_rows() -> None:
    best = row("ResNet-32", "SINEXP")
    assert best.policy == LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
    assert dict(best.metrics) == {
        "top1": 0.9281,
        "top1_std": 0.0008,
        "top5": 0.9979,
        "ac": 0.9851,
        "cd": 0.0639,
        "cdac": 0.0071,
        "loss_difference": 0.3116,
        "iterations_to_best": 64_000,
    }
    assert best.max_iterations == 64_000
    assert best.notes["n_runs"] == 5
    assert best.notes["table"] == best.notes["table_as_cited"] == "IX"


def test_cells_of_other_rows() -> None:
    lenet = row("LeNet", "NSTEP")
    assert list(lenet.policy.l) == [5000, 7000, 8000, 9000, 9500]
    assert (lenet.policy.gamma, lenet.metrics["top1"]) == (0.9, 0.9912)
    assert lenet.notes["flags"] == ("l_restored",)
    poly = row("LeNet", "POLY")
    assert (poly.policy.p, poly.policy.l, poly.metrics["top5"]) == (1.2, 10_000, 0.9999)
    assert poly.notes["flags"] == ("misprint_CDAC", "l_restored")
    inv = row("LeNet", "INV")
    assert (inv.policy.gamma, inv.policy.p, inv.policy.l) == (1e-4, 0.75, None)
    fixed = row("CNN3", "FIX", k0=0.01)
    assert dict(fixed.metrics) == {"top1": 0.6963}
    assert fixed.notes["policy_from"] == "MNIST default tried on CIFAR-10"


def test_half_cycles_that_were_not_printed_are_marked() -> None:
    assumed = [run for run in paper_runs() if run.notes.get("l_assumed")]
    assert len(assumed) == 16
    assert {(run.policy.function, run.policy.l) for run in assumed} == {("TRI2", 2000)}
    assert row("CNN3", "TRI2", k0=0.0005).notes["note"].startswith("l not printed")


def test_tasks() -> None:
    resnet, cnn3, lenet = (
        {run.task.model: run.task for run in paper_runs()}[model]
        for model in ("ResNet-32", "CNN3", "LeNet")
    )
    assert (resnet.optimizer, resnet.batch_size, resnet.init) == ("nesterov", 128, "MSRA")
    # Weights and biases of three 5x5 convolutions (3-32-32-64) and one layer of 1024 to 10.
    sizes = [(3, 32), (32, 32), (32, 64)]
    assert cnn3.num_parameters == sum(25 * a * b + b for a, b in sizes) + 1024 * 10 + 10
    assert (lenet.image_shape, lenet.num_train) == ((1, 28, 28), 60_000)
    assert [task.reference_lr for task in (lenet, cnn3, resnet)] == [0.01, 0.001, 0.1]
    assert {task.framework for task in (lenet, cnn3, resnet)} == {"Caffe"}


@pytest.mark.parametrize(
    ("dataset", "model", "best"),
    [
        ("cifar10", "resnet32", ["SINEXP", "TRIEXP", "NSTEP"]),
        ("MNIST", "LeNet", ["SIN2", "SIN", "TRI"]),
        ("CIFAR_10", "cnn3", ["SINEXP", "TRIEXP"]),
    ],
)
def test_best_starts_with_the_papers_winners(dataset: str, model: str, best: list[str]) -> None:
    with connect("sqlite://") as db:
        found = db.best(dataset, model, n=len(best))
    assert [run.policy.function for run in found] == best
