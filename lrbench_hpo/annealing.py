"""Known peaks for far shorter budgets: the same highest LR, falling once over the whole budget.

A policy's shape belongs to its budget: under a thirtieth of it, thirty-five cycles are five updates
each. What carries over is how high the LR may be. Under a short budget an LR that falls smoothly to
zero by its end does best (Li, Yumer & Ramanan 2020, arXiv 1905.04753).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lrbench_hpo.space import SearchSpace

FAR_SHORTER = 4.0  # times; up to there shapes carry over

# Coordinates beside the peak; a cosine comes first, as it spends longest near both ends.
_FALLING: Mapping[str, Mapping[str, float]] = {
    "COS": {"floor": 1e-3, "half_cycles": 1},
    "POLY": {"power": 1.0},
}


def far_shorter(max_iterations: int, known: float) -> bool:
    """Whether a budget is so much shorter than a known one that shapes do not carry over.

    Args:
        max_iterations: the new budget, in iterations.
        known: that of known results.

    >>> far_shorter(300, 10_000), far_shorter(5_000, 10_000), far_shorter(10_000, 300)
    (True, False, False)
    """
    return known > FAR_SHORTER * max_iterations


def annealed(peak: float, space: SearchSpace) -> Iterator[tuple[str, dict[str, float], list[str]]]:
    """A peak as policies whose LR falls over the whole budget: function, point, what was moved.

    Args:
        peak: over the reference LR.
        space: where policies are looked for; a function that it lacks is left out, as
            is one that cannot fall once in it.

    >>> from lrbench_hpo.space_files import load_space
    >>> for function, point, _ in annealed(6.0, load_space("default")):
    ...     print(function, point)
    COS {'peak': 6.0, 'floor': 0.001, 'half_cycles': 1}
    POLY {'peak': 6.0, 'power': 1.0}
    """
    for function, shape in _FALLING.items():
        if function in space.functions:
            point, moved = space.clip(function, {"peak": peak, **shape})
            # The lowest floor that the space has will do; several cycles would be another shape.
            if not set(moved) - {"peak", "floor"}:
                yield function, point, [name for name in moved if name == "peak"]
