"""Pictures of LR curves and LR range tests, as PNG or SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lrbench_hpo import checks
from lrbench_hpo.errors import LRBenchError, MissingExtraError, PolicyError, UnknownNameError
from lrbench_hpo.lr_range.ladder import smoothed
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.parameters import count
from lrbench_hpo.records.range_test import RangeTest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_COLUMNS = 800  # of a curve: about as many as a figure has pixels
_SAMPLES = 128  # looked at in each column
_LOG_RANGE = 1e-8  # of the LRs on a logarithmic axis, lowest over highest
_MAX_LABEL = 90  # characters; a long composition would push everything else out


def curve(
    policy: LRPolicy, max_iterations: int, columns: int = _COLUMNS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the points of a line that looks like the LR curve, however fast its cycles are.

    Up to two iterations a column are all drawn. Beyond that each column gives the lowest and the
    highest of its LRs, in the order of time, so that cycles narrower than a pixel fill a band
    instead of showing waves that are not there.

    Args:
        policy: the policy.
        max_iterations: the budget, in iterations.
        columns: how many points side by side the picture can show.

    Returns:
        Iterations and LRs.

    >>> t, lr = curve(LRPolicy("TRI", k0=0.1, k1=1, l=3), 10**6, columns=4)
    >>> len(t), lr.min().round(3).item(), lr.max().round(3).item()
    (10, 0.1, 1.0)
    """
    if max_iterations <= 2 * columns:
        every = np.arange(max_iterations, dtype=np.float64)
        return every, policy(every)
    samples = columns * min(_SAMPLES, max_iterations // columns)
    width = max_iterations / samples
    # Samples at even distances could fall on the same phase of every cycle.
    offset = np.random.default_rng(0).random(samples) if width > 1 else np.zeros(samples)
    t = np.floor((np.arange(samples) + offset) * width)
    t = t.reshape(columns, -1)
    lr = policy(t)
    picked = np.sort(np.stack([lr.argmin(axis=1), lr.argmax(axis=1)], axis=1), axis=1)
    # The curve's own ends are drawn whatever lies between them.
    inner = np.take_along_axis(t, picked, axis=1).ravel()
    drawn = np.concatenate([[0.0], inner, [max_iterations - 1.0]])
    return drawn, policy(drawn)


def plot_policies(
    policies: Sequence[LRPolicy],
    max_iterations: int,
    path: str | Path,
    *,
    title: str | None = None,
    log: bool = False,
) -> Path:
    """Draw the LR curves of policies into one picture.

    Args:
        policies: at least one.
        max_iterations: the budget, in iterations.
        path: the file to write; its suffix, .png or .svg, is the format.
        title: what to write above the curves.
        log: whether the LR axis is logarithmic (an LR of 0 is not drawn there).

    Returns:
        The path.

    Raises:
        UnknownNameError: the suffix is neither of the two.
        PolicyError: there is no policy, or the budget is not a whole number >= 1.
        LRBenchError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = checked_path(path)
    if not policies:
        raise PolicyError("policies=[]: expected at least one LRPolicy to draw")
    max_iterations = count("max_iterations", max_iterations)
    figure = _figure(8, 4 + 0.2 * len(policies))
    axes = figure.add_subplot()
    looks = product(("-", "--", ":", "-."), (f"C{index}" for index in range(10)))
    for policy, (style, colour) in zip(policies, cycle(looks), strict=False):
        t, lr = curve(policy, max_iterations)
        shown = np.where(lr > 0, lr, np.nan) if log else lr
        axes.plot(t, shown, style, color=colour, label=_label(policy), linewidth=1.3)
    axes.set(xlabel="iteration", ylabel="learning rate", xlim=(0, max_iterations))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    if log:
        axes.set_yscale("log")
        # A decay that underflows would squeeze everything else into the top of the picture.
        low, high = axes.get_ylim()
        axes.set_ylim(bottom=max(low, high * _LOG_RANGE))
    else:
        axes.set_ylim(bottom=0)
    if title:
        axes.set_title(title)
    figure.legend(loc="outside lower left", fontsize="small", frameon=False)
    return save(figure, path)


def checked_path(path: str | Path) -> Path:
    """Check the name of a picture's file, before anything is drawn.

    Args:
        path: a name that ends with .png or .svg.

    Raises:
        UnknownNameError: the suffix is neither of the two.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UnknownNameError.among(
            "picture format", path.suffix, SUFFIXES, f"Name the file {path.stem}.png, for example"
        )
    return path


def plot_range_test(result: RangeTest, path: str | Path, *, title: str | None = None) -> Path:
    """Draw the losses of an LR range test, its interval and its reference LR.

    Args:
        result: a test with its runs.
        path: the file to write; its suffix, .png or .svg, is the format.
        title: what to write above.

    Returns:
        The path.

    Raises:
        UnknownNameError: the suffix is neither of the two.
        RecordError: the test has no runs.
        LRBenchError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = checked_path(path)
    if not result.lrs:
        checks.refuse("range_test.lrs", [], "expected the losses of at least one run to draw")
    figure = _figure(8, 4.5)
    axes = figure.add_subplot()
    ladder = result.method != "coarse"
    for number, (lrs, losses) in enumerate(zip(result.lrs, result.losses, strict=True)):
        values = [np.nan if loss is None else loss for loss in losses]
        label = f"run {number + 1}" if len(result.lrs) > 1 else "losses"
        axes.plot(lrs, values, "." if ladder else "o-", markersize=3 if ladder else 6, label=label)
    if ladder:
        curve = smoothed(result.lrs, result.losses)
        axes.plot(10**curve.x, curve.mean, color="black", linewidth=2, label="smoothed, mean")
    axes.axvspan(result.low, result.high, color="C2", alpha=0.12, label="usable")
    known = f"reference LR {result.reference_lr:.3g}, times or divided by {result.spread:.2g}"
    axes.axvline(result.reference_lr, color="C2", linewidth=2, label=known)
    finite = [[loss for loss in run if loss is not None] for run in result.losses]
    # Losses that exploded would flatten the rest of the curve.
    level = max((float(np.median(run[:5])) for run in finite if run), default=1.0)
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log")
    axes.set_ylim(bottom=min([0.0, *(min(run) for run in finite if run)]), top=1.6 * abs(level))
    axes.grid(alpha=0.3)
    if title:
        axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return save(figure, path)


def _label(policy: LRPolicy) -> str:
    text = str(policy)
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def _figure(width: float, height: float) -> Figure:
    """A figure without pyplot: the user's matplotlib backend is not changed."""
    with MissingExtraError.unless_installed("matplotlib", "plots"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure so that the same curves give the same bytes.

    Raises:
        LRBenchError: the file cannot be written.
    """
    from matplotlib import rc_context

    is_svg = path.suffix.lower() == ".svg"
    metadata = {"Date": None, "Creator": None} if is_svg else {"Software": None}
    with rc_context({"svg.hashsalt": "lrbench_hpo", "svg.fonttype": "none"}):
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            reason = error.strerror or str(error)
            raise LRBenchError(
                f"{path}: cannot write the picture ({reason}); choose another file"
            ) from error
    return path
