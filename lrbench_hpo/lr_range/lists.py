"""LR range tests of other tools, read from the lists that these return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lrbench_hpo import checks
from lrbench_hpo.errors import RecordError
from lrbench_hpo.records.range_test import MAX_POINTS, MAX_RUNS

LEAST_POINTS = 8  # in a run: fewer show no curve


def runs_of(lrs: Any, losses: Any = None) -> tuple[list[list[float]], list[list[float | None]]]:
    """Check LRs and losses in the shapes that other tools return them in.

    Args:
        lrs: rising LRs: a list, a list of lists (a run each), or a mapping with ``lr`` and
            ``loss``, or several.
        losses: as many losses; None where the mapping holds them. One list of LRs may serve
            several of losses.

    Returns:
        LRs and losses of each run; a loss that is not finite as None.

    Raises:
        RecordError: if LRs do not rise from above 0, or there are too few points or no finite loss.

    >>> ladder = [10 ** (i / 4 - 4) for i in range(16)]
    >>> lrs, losses = runs_of({"lr": ladder, "loss": [2.0] * 15 + [float("nan")]})
    >>> len(lrs), len(losses[0]), losses[0][-1]
    (1, 16, None)
    """
    if losses is None:
        parts = [lrs] if isinstance(lrs, Mapping) else list(lrs) if _is_list(lrs) else []
        if not parts or not all(isinstance(p, Mapping) and {"lr", "loss"} <= set(p) for p in parts):
            checks.refuse("lrs", lrs, "expected losses too, or a mapping with lr and loss")
        lrs, losses = [part["lr"] for part in parts], [part["loss"] for part in parts]
    else:
        losses = list(losses) if _nested(losses) else [losses]
        lrs = list(lrs) if _nested(lrs) else [lrs] * len(losses)
    if len(lrs) != len(losses) or not 1 <= len(lrs) <= MAX_RUNS:
        raise RecordError(
            f"{len(lrs)} lists of LRs and {len(losses)} of losses: expected as many, of 1 to "
            f"{MAX_RUNS} runs"
        )
    pairs = [_run(a, b) for a, b in zip(lrs, losses, strict=True)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _is_list(value: object) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not _is_text(value)


def _is_text(value: object) -> bool:
    return isinstance(value, (str, bytes, Mapping))


def _nested(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and np.ndim(value[0]) > 0


def _run(lrs: Any, losses: Any) -> tuple[list[float], list[float | None]]:
    x, y = _numbers("lrs", lrs), _numbers("losses", losses)
    if len(x) != len(y):
        raise RecordError(f"{len(x)} LRs but {len(y)} losses: expected a loss for each LR")
    if not LEAST_POINTS <= len(x) <= MAX_POINTS:
        rule = f"expected {LEAST_POINTS} to {MAX_POINTS} points: make the ladder longer or shorter"
        raise RecordError(f"a range test of {len(x)} points: {rule}")
    if not (np.all(np.isfinite(x)) and np.all(x > 0) and np.all(np.diff(x) > 0)):
        at = int(np.argmax(~(np.isfinite(x) & (x > 0) & (np.diff(x, prepend=0.0) > 0))))
        checks.refuse(f"lrs[{at}]", float(x[at]), "expected LRs above 0 that rise all the way")
    if not np.any(np.isfinite(y)):
        checks.refuse("losses", float(y[0]), "expected a finite loss: start at a lower LR")
    return x.tolist(), [value if math.isfinite(value) else None for value in y.tolist()]


def _numbers(name: str, values: Any) -> npt.NDArray[np.float64]:
    if not _is_list(values):
        checks.refuse(name, values, "expected a list of numbers")
    try:
        found = np.array(
            [math.nan if value is None else float(value) for value in values], dtype=np.float64
        )
    except (TypeError, ValueError):
        checks.refuse(name, list(values)[:3], "expected a list of numbers")
    return found
