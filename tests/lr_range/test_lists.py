"""The lists that other tools give, and what cannot be one."""

from __future__ import annotations

import numpy as np
import pytest

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.lr_range.lists import runs_of

LRS = np.geomspace(1e-4, 1, 20).tolist()
LOSSES = [2.0 - 0.05 * step for step in range(20)]
NAN = float("nan")


@pytest.mark.parametrize(
    ("lrs", "losses"),
    [
        (LRS, LOSSES),  # fastai: recorder.lrs, recorder.losses
        (tuple(LRS), np.array(LOSSES)),
        (LRS, [np.float32(loss) for loss in LOSSES]),
        ({"lr": LRS, "loss": LOSSES}, None),  # torch-lr-finder: history; Lightning: results
        ([{"lr": LRS, "loss": LOSSES}], None),
        ([LRS], [LOSSES]),
    ],
)
def test_one_run_in_every_shape(lrs, losses) -> None:
    found_lrs, found_losses = runs_of(lrs, losses)
    assert found_lrs == [LRS]
    assert found_losses == [pytest.approx(LOSSES, rel=1e-6)]


def test_fastai_gives_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert runs_of(LRS, [torch.tensor(loss) for loss in LOSSES])[1] == [pytest.approx(LOSSES)]


@pytest.mark.parametrize(
    ("lrs", "losses"),
    [
        ([LRS, LRS], [LOSSES, LOSSES]),
        (LRS, [LOSSES, LOSSES]),
        ([{"lr": LRS, "loss": LOSSES}, {"lr": LRS, "loss": LOSSES}], None),
        (np.array([LRS, LRS]), np.array([LOSSES, LOSSES])),
    ],
)
def test_two_runs_in_every_shape(lrs, losses) -> None:
    found_lrs, found_losses = runs_of(lrs, losses)
    assert found_lrs == [LRS, LRS]
    assert found_losses == [LOSSES, LOSSES]


def test_what_is_not_finite_becomes_none() -> None:
    _, [losses] = runs_of(LRS, [*LOSSES[:17], NAN, float("inf"), None])
    assert losses == [*LOSSES[:17], None, None, None]


@pytest.mark.parametrize(
    ("lrs", "losses", "part"),
    [
        (LRS[:7], LOSSES[:7], "7 points"),
        ([], [], "0 points"),
        (LRS, LOSSES[:-1], "20 LRs but 19 losses"),
        ([-1e-3, *LRS[1:]], LOSSES, "lrs[0]=-0.001"),
        ([0.0, *LRS[1:]], LOSSES, "lrs[0]=0.0"),
        ([*LRS[:-1], NAN], LOSSES, "lrs[19]=nan"),
        ([*LRS[:-1], float("inf")], LOSSES, "lrs[19]=inf"),
        (LRS[::-1], LOSSES, "lrs[1]"),
        ([*LRS[:5], LRS[4], *LRS[6:]], LOSSES, "lrs[5]"),
        (LRS, [NAN] * 20, "finite loss"),
        (LRS, "2.0 2.1", "losses="),
        (LRS, ["high"] * 20, "losses="),
        ("1e-3", LOSSES, "lrs="),
        (None, LOSSES, "lrs=None"),
        (LRS, None, "expected losses too"),
        ({"lr": LRS}, None, "expected losses too"),
        ({"lr": 3, "loss": LOSSES}, None, "lrs=3"),
        ([LRS, LRS], [LOSSES], "2 lists of LRs and 1 of losses"),
        (LRS, [LOSSES, LOSSES[:9]], "20 LRs but 9 losses"),
        (LRS, [LOSSES] * 101, "101"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(lrs, losses, part) -> None:
    with pytest.raises(LRBenchError) as caught:
        runs_of(lrs, losses)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
