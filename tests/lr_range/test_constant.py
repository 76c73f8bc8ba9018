from __future__ import annotations

import pytest

from lrbench_hpo.lr_range.constant import read_accuracies
from lrbench_hpo.records.range_test import RangeTest


def read(top1: dict[float, float | None], **changes) -> RangeTest:
    facts = {"chance": 0.1, "samples": 1000, "iterations": 500, "seeds": (0,), **changes}
    return read_accuracies(top1, {}, **facts)


def test_the_best_constant_lr_is_the_reference() -> None:
    found = read({0.001: 0.5, 0.01: 0.8, 0.1: 0.95, 1.0: None})
    assert (found.reference_lr, found.low, found.high) == (0.1, 0.01, 0.1)
    assert found.method == "coarse"
    assert "1: diverged" in found.notes[0]
    assert 2 < found.spread < 3


def test_constant_lrs_within_the_noise_share_the_first_place() -> None:
    found = read({0.001: 0.5, 0.01: 0.95, 0.1: 0.951, 1.0: 0.2})
    assert found.reference_lr == pytest.approx(10**-1.5)
    assert found.spread > read({0.001: 0.5, 0.01: 0.8, 0.1: 0.95, 1.0: 0.2}).spread


@pytest.mark.parametrize(
    ("top1", "note"),
    [
        ({0.01: 0.11, 0.1: 0.1, 1.0: None}, "no LR learnt anything"),
        ({0.01: None, 0.1: None}, "no LR learnt anything"),
        ({0.01: 0.5, 0.1: 0.9}, "last that was tried"),
    ],
)
def test_constant_lrs_that_tell_little_say_so(top1, note) -> None:
    found = read(top1)
    assert note in found.notes[-1]
    assert found.spread > 3
    assert found.low < found.reference_lr <= found.high
