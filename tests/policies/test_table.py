from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lrbench_hpo.policies import (
    ALL_FUNCTIONS,
    DEFAULT_FUNCTIONS,
    FUNCTIONS,
    LRFunction,
    LRPolicy,
)
from lrbench_hpo.policies.coordinates import KINDS, Scale, to_policy
from lrbench_hpo.policies.fitting import fit_policy

K0, K1, G, P, L = 0.01, 0.9, 0.995, 1.5, 40
STEPS = (30, 70, 71)
TIMES = [0, 1, 7, 20, 39, 40, 41, 60, 79, 80, 81, 119, 120, 121, 160, 199.5, 200, 333]

pi, sin, cos, asin, floor = math.pi, math.sin, math.cos, math.asin, math.floor


def tri(t: float) -> float:
    return 2 / pi * abs(asin(sin(pi * t / (2 * L))))


def left(t: float) -> float:
    """What is left of a restart's cycle: 1 at its start, towards 0 at its end."""
    return 1 - math.fmod(t, L) / L


# One row per function, as the papers print it: its parameters, and the LR at t.
ROWS: dict[str, tuple[str, Callable[[float], float]]] = {
    "FIX": ("k0", lambda t: K0),
    "STEP": ("k0 gamma l", lambda t: K0 * G ** floor(t / L)),
    "NSTEP": ("k0 gamma l", lambda t: K0 * G ** sum(t >= step for step in STEPS)),
    "EXP": ("k0 gamma", lambda t: K0 * G**t),
    "INV": ("k0 gamma p", lambda t: K0 / (1 + t * G) ** P),
    "POLY": ("k0 p l", lambda t: K0 * (1 - min(t, L) / L) ** P),
    "SIG": ("k0 gamma l", lambda t: K0 / (1 + math.exp(G * (t - L)))),
    "TRI": ("k0 k1 l", lambda t: (K1 - K0) * tri(t) + K0),
    "TRI2": ("k0 k1 l", lambda t: (K1 - K0) * tri(t) / 2 ** floor(t / 2 / L) + K0),
    "TRIEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * tri(t) * G**t + K0),
    "DTRI": ("k0 k1 l", lambda t: (K1 - K0) * tri(t + L) + K0),
    "DTRI2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * tri(t + L) / 2 ** floor((t + L) / 2 / L) + K0,
    ),
    "DTRIEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * tri(t + L) * G**t + K0),
    "SIN": ("k0 k1 l", lambda t: (K1 - K0) * abs(sin(pi * t / 2 / L)) + K0),
    "SIN2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * abs(sin(pi * t / 2 / L)) / 2 ** floor(t / 2 / L) + K0,
    ),
    "SINEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * abs(sin(pi * t / 2 / L)) * G**t + K0),
    "DSIN": ("k0 k1 l", lambda t: (K1 - K0) * abs(sin(pi * (t + L) / 2 / L)) + K0),
    "DSIN2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * abs(sin(pi * (t + L) / 2 / L)) / 2 ** floor((t + L) / 2 / L) + K0,
    ),
    "DSINEXP": (
        "k0 k1 gamma l",
        lambda t: (K1 - K0) * abs(sin(pi * (t + L) / 2 / L)) * G**t + K0,
    ),
    "COS": ("k0 k1 l", lambda t: (K1 - K0) * (1 + cos(pi * t / L)) / 2 + K0),
    "COS2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * (1 + cos(pi * t / L)) / 2 / 2 ** floor((t + L) / 2 / L) + K0,
    ),
    "COSEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * (1 + cos(pi * t / L)) / 2 * G**t + K0),
    "UPCOS": ("k0 k1 l", lambda t: (K1 - K0) * (1 + cos(pi * (t / L + 1))) / 2 + K0),
    "UPCOS2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * (1 + cos(pi * (t / L + 1))) / 2 / 2 ** floor(t / 2 / L) + K0,
    ),
    "UPCOSEXP": (
        "k0 k1 gamma l",
        lambda t: (K1 - K0) * (1 + cos(pi * (t / L + 1))) / 2 * G**t + K0,
    ),
    "RSW": ("k0 k1 l", lambda t: (K1 - K0) * left(t) + K0),
    "RSW2": ("k0 k1 l", lambda t: (K1 - K0) * left(t) / 2 ** floor(t / L) + K0),
    "RSWEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * left(t) * G**t + K0),
    "SINRSW": ("k0 k1 l", lambda t: (K1 - K0) * sin(pi / 2 * left(t)) + K0),
    "SINRSW2": ("k0 k1 l", lambda t: (K1 - K0) * sin(pi / 2 * left(t)) / 2 ** floor(t / L) + K0),
    "SINRSWEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * sin(pi / 2 * left(t)) * G**t + K0),
    "COSRSW": ("k0 k1 l", lambda t: (K1 - K0) * (1 - cos(pi * left(t))) / 2 + K0),
    "COSRSW2": (
        "k0 k1 l",
        lambda t: (K1 - K0) * (1 - cos(pi * left(t))) / 2 / 2 ** floor(t / L) + K0,
    ),
    "COSRSWEXP": ("k0 k1 gamma l", lambda t: (K1 - K0) * (1 - cos(pi * left(t))) / 2 * G**t + K0),
}


def test_every_function_has_its_row() -> None:
    assert set(ROWS) == set(FUNCTIONS) == set(ALL_FUNCTIONS)


def test_the_default_functions_are_the_papers_thirteen() -> None:
    paper = "FIX STEP NSTEP EXP INV POLY TRI TRI2 TRIEXP SIN SIN2 SINEXP COS"
    assert paper.split() == list(DEFAULT_FUNCTIONS)


@pytest.mark.parametrize("name", ROWS)
def test_formula(name: str) -> None:
    parameters, expected = ROWS[name]
    given = {"k0": K0, "k1": K1, "gamma": G, "p": P, "l": STEPS if FUNCTIONS[name].l_is_list else L}
    policy = LRPolicy(name, **{key: given[key] for key in parameters.split()})
    assert FUNCTIONS[name].parameters == tuple(parameters.split())
    np.testing.assert_allclose(policy(TIMES), [expected(t) for t in TIMES], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name, row in FUNCTIONS.items() if row.is_cyclic])
def test_cyclic_functions_are_symmetric_in_their_bounds(name: str) -> None:
    shape = {"gamma": G} if name.endswith("EXP") else {}
    up, down = (LRPolicy(name, k0=a, k1=b, l=L, **shape) for a, b in [(K0, K1), (K1, K0)])
    assert up(TIMES).tolist() == down(TIMES).tolist()


def test_poly_with_k1_ends_there_and_stays() -> None:
    policy = LRPolicy("POLY", k0=0.9, k1=0.1, p=2, l=10)
    np.testing.assert_allclose(policy([0, 5, 10, 1000]), [0.9, 0.3, 0.1, 0.1])


def test_sig_is_safe_far_from_its_middle() -> None:
    policy = LRPolicy("SIG", k0=0.5, gamma=1.0, l=10_000)
    with np.errstate(all="raise"):
        assert policy([0, 10_000, 1e15]).tolist() == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("name", ["RSW", "SINRSW", "COSRSW"])
def test_restarts_begin_again_at_the_maximum(name: str) -> None:
    policy = LRPolicy(name, k0=K0, k1=K1, l=L)
    assert policy([0, L, 2 * L, 7 * L]).tolist() == [K1] * 4
    assert policy(L - 1) < (K0 + K1) / 2


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        FUNCTIONS["MINE"] = FUNCTIONS["FIX"]  # type: ignore[index]


def test_every_row_says_where_it_comes_from() -> None:
    for row in FUNCTIONS.values():
        assert "arXiv" in row.reference
        assert row.formula
        assert all(entry.origin for entry in row.ranges.values())


@pytest.mark.parametrize("row", FUNCTIONS.values(), ids=lambda row: row.name)
def test_ranges_are_of_known_coordinates(row: LRFunction) -> None:
    for name, entry in row.ranges.items():
        kind = KINDS[name]
        assert kind.low <= entry.low < entry.high <= kind.high
        # Files of search spaces are read likewise: a space has one fingerprint.
        assert {type(entry.low), type(entry.high)} == {int if kind.integer else float}


@pytest.mark.parametrize("row", FUNCTIONS.values(), ids=lambda row: row.name)
def test_every_function_can_be_fitted(row: LRFunction) -> None:
    point = {name: math.sqrt(entry.low * entry.high) for name, entry in row.ranges.items()}
    point |= {"drops": 2, "gap1": 0.5, "gap2": 0.5, "half_cycles": 4}
    policy = to_policy(row.name, point, Scale(1_000, 0.1))
    fit = fit_policy(range(0, 1_000, 4), policy(range(0, 1_000, 4)), functions=[row.name])
    assert fit.policy.function == row.name
    assert fit.error < 1e-3
