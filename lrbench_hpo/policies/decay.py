"""The decaying LR functions: from 1 at (or near) t = 0 down towards 0, never up again.

Each function stands here with all that belongs to it: its formula, its coordinates, where a fit
looks for it, and its row. T is the budget.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies.function import (
    Codec,
    Coordinates,
    LRFunction,
    Parameters,
    Range,
    Scale,
    highest,
    interval,
    log_range,
    peak,
    tidy,
)
from lrbench_hpo.policies.grids import LENGTH, POWER, RATE, Grid, Outline, Shape, rates
from lrbench_hpo.policies.waves import Array

CAFFE = "Jia et al. 2014, arXiv 1408.5093 (Caffe's solver policies)"

# FIX


def _fix(t: Array) -> Array:
    return np.ones_like(t)


FIX = LRFunction(
    "FIX",
    "1",
    ("k0",),
    _fix,
    CAFFE,
    about=(
        "The constant LR: what every policy has to beat, and the quickest way to find a task's "
        "reference LR."
    ),
    codec=Codec(
        read=lambda given, scale: {"peak": peak(given, scale)},
        write=lambda point, scale: {"k0": highest(point, scale)},
    ),
    ranges={
        "peak": log_range(
            0.03,
            10.0,
            "Tables III(a), text V-A: best constant LR at 1, a tenth and ten times it lose 1 to 9 "
            "points",
        )
    },
)


# STEP


def _step(t: Array, gamma: float, l: float) -> Array:  # noqa: E741 (the papers' name)
    return np.power(gamma, np.floor_divide(t, l))


def _read_step(given: Parameters, scale: Scale) -> dict[str, float]:
    steps = scale.max_iterations / given["l"]
    return {"peak": peak(given, scale), "steps": steps, "end": given["gamma"] ** steps}


def _write_step(point: Coordinates, scale: Scale) -> dict[str, Any]:
    length = max(1, round(scale.max_iterations / point["steps"]))
    # What is left at the end stays, also where rounding changes the number of steps.
    gamma = point["end"] ** (length / scale.max_iterations)
    return {"k0": highest(point, scale), "gamma": tidy(gamma), "l": length}


STEP = LRFunction(
    "STEP",
    "gamma^floor(t/l)",
    ("k0", "gamma", "l"),
    _step,
    CAFFE,
    about=(
        "A fixed drop at equal distances. Dependable when the budget is known; the number of drops "
        "in the budget, T/l, is what matters."
    ),
    codec=Codec(_read_step, _write_step),
    ranges={
        "peak": log_range(
            0.1, 20.0, "Tables III(b), IV(b): 1; room for tasks whose reference LR is a guess"
        ),
        "steps": log_range(1.0, 80.0, "Tables III(b), IV(b): 6 to 70 drops"),
        "end": log_range(1e-5, 0.9, "Tables III(b), IV(b): 3e-5 to 0.35"),
    },
)


# NSTEP


def _nstep(t: Array, gamma: float, l: tuple[float, ...]) -> Array:  # noqa: E741
    return np.power(gamma, np.searchsorted(np.asarray(l, dtype=np.float64), t, side="right"))


def _read_nstep(given: Parameters, scale: Scale) -> dict[str, float]:
    steps = given["l"]
    point = {
        "peak": peak(given, scale),
        "drops": len(steps),
        "end": given["gamma"] ** len(steps),
    }
    previous = 0.0
    for number, drop in enumerate(steps, start=1):
        if drop >= scale.max_iterations:
            raise PolicyError(
                f"its drop at {drop:g} comes after the budget of {scale.max_iterations} "
                "iterations: give a budget that holds all drops"
            )
        # As a share of what was left of the budget, each gap may be anything between 0 and 1,
        # and the drops are in order whatever is drawn.
        point[f"gap{number}"] = (drop - previous) / (scale.max_iterations - previous)
        previous = drop
    return point


def _write_nstep(point: Coordinates, scale: Scale) -> dict[str, Any]:
    # Each iteration but the first holds one drop at most; a shorter budget makes fewer of them.
    drops = min(int(point["drops"]), max(1, scale.max_iterations - 1))
    positions: list[int] = []
    previous = 0.0
    for number in range(1, drops + 1):
        previous += point[f"gap{number}"] * (scale.max_iterations - previous)
        earliest = positions[-1] + 1 if positions else 1
        latest = scale.max_iterations - 1 - (drops - number)  # the drops after it need a place too
        positions.append(max(min(round(previous), latest), earliest))
    gamma = tidy(point["end"] ** (1 / drops))
    return {"k0": highest(point, scale), "gamma": gamma, "l": positions}


NSTEP = LRFunction(
    "NSTEP",
    "gamma^i, i = number of l_j <= t",
    ("k0", "gamma", "l"),
    _nstep,
    CAFFE,
    about=(
        "Drops where you say: the schedule of the ResNet papers (He et al. 2015, arXiv "
        "1512.03385). Good when earlier runs show where the loss goes flat. `l` is a list; an LR "
        "changes in the update `t = l_j`."
    ),
    codec=Codec(_read_nstep, _write_nstep),
    ranges={
        "peak": log_range(0.1, 20.0, "Tables VI to IX: 1"),
        "drops": Range(1, 5, origin="Tables VI to IX: 2 to 5 drops"),
        "end": log_range(1e-5, 0.9, "Tables VI to IX: 1e-4 to 0.59"),
        "gap": Range(
            0.05, 0.95, origin="Tables VI to IX: 0.33 to 0.86 of what is left of the budget"
        ),
    },
    l_is_list=True,
)


# EXP


def _exponential(t: Array, gamma: float) -> Array:
    return np.power(gamma, t)


def _read_exp(given: Parameters, scale: Scale) -> dict[str, float]:
    return {"peak": peak(given, scale), "end": given["gamma"] ** scale.max_iterations}


def _write_exp(point: Coordinates, scale: Scale) -> dict[str, Any]:
    gamma = tidy(point["end"] ** (1 / scale.max_iterations))
    return {"k0": highest(point, scale), "gamma": gamma}


EXP = LRFunction(
    "EXP",
    "gamma^t",
    ("k0", "gamma"),
    _exponential,
    CAFFE,
    about=(
        "A smooth decay with one parameter. At the end of a budget of T iterations the LR is "
        "`k0 gamma^T`: choose gamma from that."
    ),
    codec=Codec(_read_exp, _write_exp),
    ranges={
        "peak": log_range(0.1, 20.0, "as STEP, whose limit for many drops it is"),
        "end": log_range(1e-5, 0.9, "as STEP"),
    },
)


# INV


def _inverse(t: Array, gamma: float, p: float) -> Array:
    return np.power(1.0 + t * gamma, -p)


def _read_inv(given: Parameters, scale: Scale) -> dict[str, float]:
    power = given["p"]
    end = (1 + scale.max_iterations * given["gamma"]) ** -power
    return {"peak": peak(given, scale), "power": power, "end": end}


def _write_inv(point: Coordinates, scale: Scale) -> dict[str, Any]:
    power = point["power"]
    gamma = (point["end"] ** (-1 / power) - 1) / scale.max_iterations
    # A steeper fall than INV's own gamma <= 1 allows is its steepest one.
    return {
        "k0": highest(point, scale),
        "gamma": min(1.0, max(1e-12, tidy(gamma))),
        "p": tidy(power),
    }


def _shapes_of_inv(outline: Outline) -> list[Shape]:
    powers = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
    return [{"gamma": g, "p": p} for g in rates(outline) for p in powers]


INV = LRFunction(
    "INV",
    "(1 + t gamma)^(-p)",
    ("k0", "gamma", "p"),
    _inverse,
    CAFFE,
    about=(
        "Falls fast at first and hardly at all later; Caffe's default for LeNet on MNIST "
        "(gamma = 0.0001, p = 0.75)."
    ),
    codec=Codec(_read_inv, _write_inv),
    ranges={
        "peak": log_range(0.1, 20.0, "Table VII: 1"),
        "power": log_range(0.25, 2.0, "Table VII: 0.75"),
        "end": log_range(0.01, 0.9, "Table VII: 0.59"),
    },
    grid=Grid((RATE, POWER), _shapes_of_inv, tail=True),
)


# POLY

# Its end in units of the curve's length: a curve that was cut off ends before its POLY does.
_LENGTHS = (*np.linspace(0.2, 0.98, 27).tolist(), 1.0, 1.01, 1.03, 1.1, 1.25, 1.5, 2.0, 3.0, 6.0)
_POWERS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)


def _polynomial(t: Array, p: float, l: float) -> Array:  # noqa: E741
    return np.power(1.0 - np.minimum(t, l) / l, p)


def _read_poly(given: Parameters, scale: Scale) -> dict[str, float]:
    if given["k1"] or given["l"] != scale.max_iterations:
        raise PolicyError(
            "POLY has coordinates only where it falls to 0 over the whole budget of "
            f"{scale.max_iterations} iterations: give l = {scale.max_iterations} and no k1"
        )
    return {"peak": peak(given, scale), "power": given["p"]}


def _write_poly(point: Coordinates, scale: Scale) -> dict[str, Any]:
    k0 = highest(point, scale)
    return {"k0": k0, "p": tidy(point["power"]), "l": scale.max_iterations}


def _shapes_of_poly(outline: Outline) -> list[Shape]:
    lengths = [share * outline.end for share in _LENGTHS] + list(outline.likely_ends)
    return [{"p": p, "l": max(1.0, n)} for n in lengths for p in _POWERS]


POLY = LRFunction(
    "POLY",
    "(1 - min(t, l)/l)^p",
    ("k0", "p", "l"),
    _polynomial,
    CAFFE,
    about=(
        "Reaches its end exactly at `l`, the budget, and stays there: p = 1 is the linear decay, p "
        "near 1.2 did well in LRBench. With `k1` it ends at `min(k0, k1)` instead of 0."
    ),
    codec=Codec(_read_poly, _write_poly),
    ranges={
        "peak": log_range(0.1, 20.0, "Table VII: 1"),
        "power": log_range(
            0.5,
            4.0,
            "Table VII: 1.2; 1 is the linear decay of Knee and 1cycle, 2 to 4 bend further",
        ),
    },
    grid=Grid((POWER, LENGTH), _shapes_of_poly),
    optional=("k1",),
)


# SIG


def _sigmoid(t: Array, gamma: float, l: float) -> Array:  # noqa: E741
    # 1/(1 + exp(x)) written so that no exp overflows.
    return np.exp(-np.logaddexp(0.0, gamma * (t - l)))


def _read_sig(given: Parameters, scale: Scale) -> dict[str, float]:
    return {
        "peak": peak(given, scale),
        "midpoint": given["l"] / scale.max_iterations,
        "steepness": given["gamma"] * scale.max_iterations,
    }


def _write_sig(point: Coordinates, scale: Scale) -> dict[str, Any]:
    gamma = min(1.0, tidy(point["steepness"] / scale.max_iterations))
    length = interval(point["midpoint"] * scale.max_iterations, 1)
    return {"k0": highest(point, scale), "gamma": gamma, "l": length}


def _shapes_of_sig(outline: Outline) -> list[Shape]:
    end = outline.end
    middles = (end * np.linspace(0.05, 1.2, 24)).tolist()
    slopes = (np.geomspace(1.0, 1e3, 16) / end).tolist()
    return [{"gamma": min(1.0, s), "l": max(1.0, m)} for s in slopes for m in middles]


SIG = LRFunction(
    "SIG",
    "1/(1 + exp(gamma (t - l)))",
    ("k0", "gamma", "l"),
    _sigmoid,
    CAFFE,
    about=(
        "Stays high, then steps down smoothly around `l`; gamma sets how steep the step is. Caffe "
        "writes it with a negative gamma; here gamma is in (0, 1] like everywhere and the sign is "
        "turned, so that the LR always falls."
    ),
    codec=Codec(_read_sig, _write_sig),
    ranges={
        "peak": log_range(0.1, 20.0, "as STEP"),
        "midpoint": Range(0.1, 0.9, origin="a fall inside the budget"),
        "steepness": log_range(3.0, 100.0, "from nearly linear to nearly a step"),
    },
    grid=Grid((RATE, LENGTH), _shapes_of_sig),
)


DECAYING = (FIX, STEP, NSTEP, EXP, INV, POLY, SIG)
