from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from lrbench_hpo.cli.plots import curve, plot_policies, plot_range_test
from lrbench_hpo.errors import LRBenchError, PolicyError, RecordError, UnknownNameError
from lrbench_hpo.lr_range.reading import read_range_test
from lrbench_hpo.policies import LRPolicy, compose, one_cycle
from lrbench_hpo.records.range_test import RangeTest

SINEXP = LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
NSTEP = LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[32_000, 48_000])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("budget", [1, 2, 500, 64_000])
def test_png(tmp_path: Path, log: bool, budget: int) -> None:
    path = plot_policies([SINEXP, NSTEP], budget, tmp_path / "a.PNG", title="A title", log=log)
    image = imread(path, format="png")
    assert image.shape[1] == 1200
    # Each curve and its place in the legend bring their colours: C0 is blue, C1 is orange.
    for colour in [(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)]:
        near = np.abs(image[..., :3] - np.array(colour) / 255).max(axis=2) < 0.02
        assert near.sum() > 20


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()  # noqa: S314 (written a line above)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_names_axes_title_and_policies(tmp_path: Path) -> None:
    path = plot_policies([SINEXP, NSTEP], 64_000, str(tmp_path / "a.svg"), title="LeNet <1>")
    shown = texts(path)
    for text in ["iteration", "learning rate", "LeNet <1>", str(SINEXP), str(NSTEP), "60,000"]:
        assert text in shown


def test_long_compositions_are_cut_in_the_legend(tmp_path: Path) -> None:
    parts = compose([(10 * i + 10, LRPolicy("FIX", k0=0.1 + i)) for i in range(40)])
    path = plot_policies([parts, one_cycle(0.5, 400)], 400, tmp_path / "a.svg")
    assert any(
        text.startswith("COMPOSED(FIX(k0=0.1)") and text.endswith("…") for text in texts(path)
    )
    assert max(map(len, texts(path))) < 100


def test_svg_is_the_same_every_time(tmp_path: Path) -> None:
    first = plot_policies([SINEXP], 64_000, tmp_path / "a.svg").read_bytes()
    assert plot_policies([SINEXP], 64_000, tmp_path / "b.svg").read_bytes() == first
    assert plot_policies([NSTEP], 64_000, tmp_path / "c.svg").read_bytes() != first
    assert b"<dc:date>" not in first


def test_more_policies_than_colours(tmp_path: Path) -> None:
    many = [LRPolicy("FIX", k0=0.01 * (i + 1)) for i in range(45)]
    shown = texts(plot_policies(many, 10, tmp_path / "a.svg"))
    assert {str(policy) for policy in many} <= set(shown)


def test_log_axis_leaves_out_zero_and_underflow(tmp_path: Path) -> None:
    fall = LRPolicy("EXP", k0=0.1, gamma=0.5)
    shown = texts(plot_policies([fall], 5000, tmp_path / "a.svg", log=True))
    assert "10,000" not in shown
    assert not any("−30" in text for text in shown)


def test_fast_cycles_fill_a_band_instead_of_showing_false_waves() -> None:
    # Most of these periods divide 768, the mean distance of the iterations looked at.
    budget = 100 * 128 * 768
    for l in (1, 3, 7, 10, 64, 128):  # noqa: E741
        t, lr = curve(LRPolicy("TRI", k0=0.1, k1=1, l=l), budget, columns=100)
        assert (np.diff(t) >= 0).all()
        columns = lr[1:-1].reshape(100, 2)
        assert columns.min(axis=1).max() < 0.2
        assert columns.max(axis=1).min() > 0.9


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(1, 30_000), st.integers(5, 50))
def test_curves_hold_the_ends_the_extremes_and_only_real_points(budget: int, columns: int) -> None:
    policy = LRPolicy("SIN", k0=0.01, k1=1, l=900)
    t, lr = curve(policy, budget, columns)
    assert (t[0], t[-1]) == (0, budget - 1)
    assert (np.diff(t) >= 0).all()
    assert lr.tolist() == policy(t).tolist()
    assert len(t) <= 2 * columns + 2 or budget <= 2 * columns
    assert lr.max() == pytest.approx(policy(np.arange(budget)).max(), abs=0.02)


def test_steps_are_drawn_where_they_are() -> None:
    t, lr = curve(NSTEP, 64_000)
    drop = t[np.flatnonzero(np.diff(lr))]
    assert drop == pytest.approx([32_000, 48_000], abs=80)


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.svg.txt", ".png"])
def test_other_formats_get_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"^unknown picture format .*Known: .png, .svg"
    ) as error:
        plot_policies([SINEXP], 100, tmp_path / name)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="expected at least one LRPolicy"):
        plot_policies([], 100, tmp_path / "a.png")
    with pytest.raises(PolicyError, match="max_iterations=0: expected a whole number of at"):
        plot_policies([SINEXP], 0, tmp_path / "a.png")
    with pytest.raises(
        LRBenchError, match=r"missing/a.png: cannot write the picture \(No such file"
    ):
        plot_policies([SINEXP], 100, tmp_path / "missing" / "a.png")


def test_leaves_the_users_backend_alone_and_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import lrbench_hpo.cli.plots as plots\n"
        "from lrbench_hpo.policies import LRPolicy\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plots.plot_policies([LRPolicy('FIX', k0=1)], 5, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import lrbench_hpo.cli.plots as plots\n"
        "from lrbench_hpo.policies import LRPolicy\n"
        "from lrbench_hpo.errors import MissingExtraError\n"
        "try: plots.plot_policies([LRPolicy('FIX', k0=1)], 5, 'a.png')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "matplotlib is not installed: pip install 'lrbench-hpo[plots]'\n"


def range_test(runs: int = 2) -> RangeTest:
    lrs = np.geomspace(1e-4, 1, 40).tolist()
    losses = [2.3 - 1.2 * (lr > 0.003) + (1e6 if lr > 0.3 else 0.0) for lr in lrs]
    return read_range_test(lrs, [losses] * runs, optimizer="sgd")


def test_a_range_test_shows_its_runs_interval_and_reference_lr(tmp_path: Path) -> None:
    result = range_test()
    shown = texts(plot_range_test(result, tmp_path / "a.svg", title="digits / mlp"))
    for text in ("learning rate", "loss", "run 1", "run 2", "smoothed, mean", "usable"):
        assert text in shown
    assert f"reference LR {result.reference_lr:.3g}, times or divided by {result.spread:.2g}" in (
        shown
    )
    assert "digits / mlp" in shown
    # What exploded does not press the rest to the floor.
    assert not any("10^{6}" in text or "1e6" in text for text in shown)
    image = imread(plot_range_test(result, tmp_path / "a.png"), format="png")
    assert image.shape[1] == 1200


def test_a_coarse_search_is_drawn_too(tmp_path: Path) -> None:
    result = RangeTest(
        0.1, 2.0, 0.01, 1.0, 300, ((0.01, 0.1, 1.0),), ((1.5, 0.6, None),), method="coarse"
    )
    shown = texts(plot_range_test(result, tmp_path / "a.svg"))
    assert "losses" in shown
    assert "smoothed, mean" not in shown


def test_a_range_test_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="gif"):
        plot_range_test(range_test(), tmp_path / "a.gif")
    with pytest.raises(RecordError, match="at least one run"):
        plot_range_test(RangeTest(0.1, 2.0, 0.01, 1.0, 300), tmp_path / "a.png")
