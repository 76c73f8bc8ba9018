from __future__ import annotations

import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy, Run, Task
from lrbench_hpo.training.progress import Progress, weights_of


def progress_of(top1s: list[float | None]) -> Progress:
    """Evaluations after 10, 20, ... updates, of a network whose weight is their number."""
    points = range(10, 10 * len(top1s) + 1, 10)
    task = Task(dataset="digits", model="linear")
    record = Run(task=task, policy=LRPolicy("FIX", k0=0.1), max_iterations=points[-1])
    progress = Progress(record, points)
    model = nn.Linear(1, 1, bias=False)
    for index, top1 in enumerate(top1s, start=1):
        nn.init.constant_(model.weight, index)
        progress.add(10 * index, {"top1": top1, "eval_loss": index / 10}, lambda: weights_of(model))
    nn.init.constant_(model.weight, -1.0)  # what comes later does not reach the kept weights
    return progress


@pytest.mark.parametrize(
    ("top1s", "best"),
    [
        ([0.5, 0.9, 0.7], 2),
        ([0.5, 0.9, 0.9], 2),  # the first time that it was reached
        ([0.9, 0.9, 0.9], 1),
        ([0.1, 0.2, 0.3], 3),
        ([0.0, 0.0], 1),
        ([0.4, None], 1),
    ],
)
def test_metrics_and_weights_are_those_of_the_first_best_evaluation(top1s, best):
    progress = progress_of(top1s)
    metrics = progress.metrics()
    assert metrics["iterations_to_best"] == 10 * best
    assert metrics["top1"] == top1s[best - 1]
    assert metrics["eval_loss"] == best / 10
    assert metrics["final_top1"] == top1s[-1]
    assert torch.equal(progress.state["weight"], torch.full((1, 1), float(best)))


def test_without_an_evaluation_there_are_no_weights_and_no_numbers():
    progress = progress_of([None])
    assert progress.state == {}
    assert set(progress.metrics().values()) == {None}
