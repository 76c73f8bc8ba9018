"""The one table of LR functions: a new function is a row of it and a row of its test.

A decaying function is a row in `decay`. A wave is a row in `waves`, which makes three functions.
Policies, schedulers, the default search space, fitting, imports, pictures and the pages of the
documentation take all that they need of a function from its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from lrbench_hpo.policies.cyclic import cyclic_rows
from lrbench_hpo.policies.decay import DECAYING
from lrbench_hpo.policies.function import LRFunction
from lrbench_hpo.policies.waves import WAVES, Wave


def rows(decaying: Iterable[LRFunction], waves: Iterable[Wave]) -> dict[str, LRFunction]:
    """The functions by name: the decaying ones, then those of each wave."""
    cyclic = [row for wave in waves for row in cyclic_rows(wave)]
    return {row.name: row for row in (*decaying, *cyclic)}


_ROWS = rows(DECAYING, WAVES)

FUNCTIONS: Mapping[str, LRFunction] = MappingProxyType(_ROWS)

ALL_FUNCTIONS: tuple[str, ...] = tuple(FUNCTIONS)

# The functions of the LRBench paper (Wu et al. 2019).
DEFAULT_FUNCTIONS: tuple[str, ...] = (
    "FIX",
    "STEP",
    "NSTEP",
    "EXP",
    "INV",
    "POLY",
    "TRI",
    "TRI2",
    "TRIEXP",
    "SIN",
    "SIN2",
    "SINEXP",
    "COS",
)

COMPOSED = "COMPOSED"
