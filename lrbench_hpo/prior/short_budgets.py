"""Known peaks for far shorter budgets: the same highest LR, falling once over the whole budget."""

from __future__ import annotations

from collections.abc import Mapping

from lrbench_hpo.policies.space import SearchSpace

# A policy's shape belongs to its budget: under a thirtieth of it, thirty-five cycles are five
# updates each. What carries over is how high the LR may be. Under a short budget an LR that falls
# smoothly to zero by its end does best (Li, Yumer & Ramanan 2020, arXiv 1905.04753), and the best
# peak is rather higher than lower (Bjorck et al. 2024, arXiv 2409.19913). So the known peak is
# tried first, with a single fall over the new budget, and HIGHER times that peak second.
FAR_SHORTER = 4.0  # ratio of budgets, up to which shapes carry over
HIGHER = 2.0  # ratio of the peak tried second to the known one

# Coordinates beside the peak, in order of preference.
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


def annealed(peak: float, space: SearchSpace) -> tuple[str, dict[str, float], list[str]] | None:
    """A policy with a given peak whose LR falls over the whole budget.

    Args:
        peak: relative to the reference LR.
        space: the search space.

    Returns:
        Function, point and the coordinates that were moved into the space; None if the space has
        no policy that falls once.

    >>> from lrbench_hpo.policies.space_files import load_space
    >>> annealed(6.0, load_space("default"))
    ('COS', {'peak': 6.0, 'floor': 0.001, 'half_cycles': 1}, [])
    """
    for function, shape in _FALLING.items():
        if function in space.functions:
            point, moved = space.clip(function, {"peak": peak, **shape})
            # A floor moved up to the lowest of the space is acceptable; several cycles are not.
            if not set(moved) - {"peak", "floor"}:
                return function, point, [name for name in moved if name == "peak"]
    return None
