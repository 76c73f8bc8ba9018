from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbench_hpo.errors import RecordError
from lrbench_hpo.training.metrics import loss_difference, prediction_metrics


def test_by_hand() -> None:
    # Right: samples 0 (0.9) and 1 (0.7) of class 0, sample 2 (0.6) of class 1. Wrong: 3 and 4.
    p = [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3]]
    measured = prediction_metrics(p, [0, 0, 1, 1, 2])
    assert measured["top1"] == pytest.approx(3 / 5)
    assert measured["ac"] == pytest.approx((0.9 + 0.7 + 0.6) / 3)
    assert measured["cd"] == pytest.approx(np.std([0.9, 0.7, 0.6]))
    assert measured["cdac"] == pytest.approx(np.std([0.8, 0.6]))
    assert measured["classes_left_out"] == 1
    assert measured["top5"] == 1.0


def test_a_class_never_predicted_is_left_out_and_counted() -> None:
    measured = prediction_metrics([[0.6, 0.4], [0.8, 0.2], [0.9, 0.1]], [0, 0, 1])
    assert measured["classes_left_out"] == 1
    assert measured["cdac"] == 0.0
    assert measured["cd"] == pytest.approx(0.1)


def test_all_wrong() -> None:
    measured = prediction_metrics([[0.6, 0.4], [0.3, 0.7]], [1, 0])
    assert measured == {
        "top1": 0.0,
        "top5": 1.0,
        "ac": None,
        "cd": None,
        "cdac": None,
        "classes_left_out": 2,
    }
    json.dumps(measured, allow_nan=False)


def test_one_sample() -> None:
    measured = prediction_metrics([[0.25, 0.75]], [1])
    assert measured == {
        "top1": 1.0,
        "top5": 1.0,
        "ac": 0.75,
        "cd": 0.0,
        "cdac": 0.0,
        "classes_left_out": 1,
    }


def test_a_diverged_sample_counts_as_wrong() -> None:
    nan = [np.nan] * 6
    good = [0.75, 0.05, 0.05, 0.05, 0.05, 0.05]
    half = prediction_metrics([nan, good], [0, 0])
    assert (half["top1"], half["top5"], half["ac"]) == (0.5, 0.5, 0.75)
    infinite = prediction_metrics([[np.inf, 0, 0, 0, 0, 0], good], [0, 0])
    assert (infinite["top1"], infinite["ac"]) == (0.5, 0.75)
    lost = prediction_metrics([nan, nan], [0, 1])
    assert (lost["top1"], lost["top5"], lost["ac"]) == (0.0, 0.0, None)


def test_the_first_of_equal_classes_wins() -> None:
    even = np.full((4, 4), 0.25)
    measured = prediction_metrics(even, [0, 1, 2, 3])
    assert measured["top1"] == 0.25
    wide = np.full((10, 10), 0.1)
    assert prediction_metrics(wide, np.arange(10))["top5"] == 0.5


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_against_plain_loops(samples: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), samples).round(2) + 1e-9
    p /= p.sum(axis=1, keepdims=True)
    y = rng.integers(0, classes, samples)
    measured = prediction_metrics(p, y)
    correct = [i for i in range(samples) if int(np.argmax(p[i])) == y[i]]
    top5 = [i for i in range(samples) if y[i] in np.argsort(-p[i], kind="stable")[:5]]
    assert measured["top1"] == pytest.approx(len(correct) / samples)
    assert measured["top5"] == pytest.approx(len(top5) / samples)
    if correct:
        own = {c: [p[i, c] for i in correct if y[i] == c] for c in range(classes)}
        means = [np.mean(values) for values in own.values() if values]
        assert measured["ac"] == pytest.approx(np.mean([p[i, y[i]] for i in correct]))
        assert measured["cd"] == pytest.approx(np.std([p[i, y[i]] for i in correct]))
        assert measured["cdac"] == pytest.approx(np.std(means))
        assert measured["classes_left_out"] == classes - len(means)


def test_single_and_half_precision() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 100))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = p.argmax(axis=1)
    full = prediction_metrics(p, y)
    assert prediction_metrics(p.astype(np.float32), y)["ac"] == pytest.approx(full["ac"], rel=1e-5)
    assert prediction_metrics(p.astype(np.float16), y)["ac"] == pytest.approx(full["ac"], rel=1e-2)


@pytest.mark.parametrize(
    ("p", "y", "part"),
    [
        ([[0.5, 0.5]], [0, 1], "(1, 2), labels (2,)"),
        ([0.5, 0.5], [0, 1], "expected (samples, classes)"),
        ([[0.5, 0.5]], [[0]], "and (samples,)"),
        (np.empty((0, 3)), np.empty(0, int), "at least one sample"),
        ([[0.5, 0.5]], [2], "label 2: expected a class from 0 to 1"),
        ([[0.5, 0.5]], [-1], "label -1"),
        ([[0.5, 0.5]], [0.0], "whole class numbers"),
        ([["a", "b"]], [0], "expected numbers"),
        ([[5.0, -3.0]], [0], "softmax"),
        ([[0.9, 0.9]], [0], "softmax"),
        ([[1.5, -0.5]], [0], "softmax"),
    ],
)
def test_what_does_not_fit_is_refused(p, y, part: str) -> None:
    with pytest.raises(RecordError) as caught:
        prediction_metrics(p, y)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loss_difference_is_signed() -> None:
    assert loss_difference(0.5, 0.25) == -0.25
    assert loss_difference(None, 0.25) is None
    assert loss_difference(0.5, None) is None
