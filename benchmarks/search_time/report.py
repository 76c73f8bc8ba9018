"""The tables of the search-time benchmark; one stopped at its cap lasts at least that long."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Mapping[int, Mapping[str, Any]]  # by seed


def seconds_of(row: Mapping[str, Any]) -> tuple[float, float]:
    """Between which a search's time lies."""
    if row["seconds"] is None:
        return float(row["lasted"]), math.inf
    return float(row["seconds"]), float(row["seconds"])


def median_of(bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Between which the median of such values lies."""
    lows, highs = zip(*bounds, strict=True)
    return statistics.median(lows), statistics.median(highs)


def shown(bounds: tuple[float, float], digits: int = 1) -> str:
    low, high = bounds
    if low == 0 and high == math.inf:
        return "?"  # neither of the two reached it
    if low == high:
        return f"{low:.{digits}f}"
    if high == math.inf:
        return f"> {low:.{digits}f}"
    return f"< {high:.{digits}f}" if low == 0 else f"{low:.{digits}f} to {high:.{digits}f}"


def ratio_of(row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[float, float]:
    """How many times longer than another search of the same seed it took, between two bounds."""
    (low, high), (base_low, base_high) = seconds_of(row), seconds_of(base)
    return low / base_high, high / base_low


def report(
    rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], methods: Sequence[str], against: str
) -> str:
    """A Markdown table a task; the newest result of a search counts.

    Args:
        rows: of the searches, with the ``seconds`` and ``target`` that they were judged by.
        tasks: which to show.
        methods: which to show, in this order.
        against: the method whose time the others' are divided by, seed by seed.
    """
    found = {(row["task"], row["method"], row["seed"]): row for row in rows}
    parts = []
    for task in tasks:
        by_method: dict[str, Rows] = {}
        for method in methods:
            seeds = {s: row for (t, m, s), row in found.items() if (t, m) == (task, method)}
            if seeds:
                by_method[method] = seeds
        if by_method:
            parts.append(_table(task, by_method, against))
    return "\n\n".join(parts) or "no results yet"


def _table(task: str, by_method: Mapping[str, Rows], against: str) -> str:
    target = next(iter(next(iter(by_method.values())).values()))["target"]
    lines = [
        f"{task}: mean Top-1 of at least {target:.4f}",
        "",
        f"| method | seconds (range) | times `{against}` (range) | reached | trials until its cap "
        "| iterations |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    base = by_method.get(against, {})
    for method, rows in by_method.items():
        times = [seconds_of(row) for row in rows.values()]
        ratios = [ratio_of(row, base[seed]) for seed, row in rows.items() if seed in base]
        reached = sum(row["seconds"] is not None for row in rows.values())
        cells = [
            f"{shown(median_of(times))} ({_range(times)})",
            f"{shown(median_of(ratios))} ({_range(ratios)})" if ratios else "",
            f"{reached} of {len(rows)}",
            f"{statistics.median(row['trials'] for row in rows.values()):g}",
            f"{statistics.median(row['iterations'] for row in rows.values()):,.0f}",
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(bounds: Sequence[tuple[float, float]]) -> str:
    lowest, highest = min(bounds), max(bounds, key=lambda pair: (pair[1], pair[0]))
    return f"{shown(lowest)} to {shown(highest)}"
