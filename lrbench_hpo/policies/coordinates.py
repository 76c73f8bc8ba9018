"""Scale-free coordinates of LR policies: what carries over from one task to another.

Absolute LRs, iterations and per-iteration decay factors mean nothing on another task. These do:

========== ==================================================== =====================
coordinate meaning                                              from a policy
========== ==================================================== =====================
peak       highest LR over the task's reference LR              max(k0, k1) / eta_ref
floor      lowest LR over the highest                           min(k0, k1) / max(k0, k1)
half_cycles half cycles in the budget (teeth, for RSW waves)    T / l
steps      STEP's drops in the budget                           T / l
end        what the decay leaves of the LR at the end           gamma^T, gamma^(T/l), ...
drops      NSTEP's number of drops                              n
gap1..gap9 NSTEP's j-th drop, as a share of what was left       (l_j - l_{j-1}) / (T - l_{j-1})
power      exponent of POLY and INV                             p
midpoint   where SIG has fallen to a half, share of the budget  l / T
steepness  SIG's slope                                          gamma T
========== ==================================================== =====================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy

MAX_DROPS = 9
Coordinates = Mapping[str, float]


@dataclass(frozen=True)
class Scale:
    """What turns coordinates into an absolute policy.

    Attributes:
        max_iterations: the budget T, in iterations.
        reference_lr: eta_ref, the task's best constant LR or an estimate of it.
    """

    max_iterations: int
    reference_lr: float

    def __post_init__(self) -> None:
        if isinstance(self.max_iterations, bool) or not isinstance(self.max_iterations, int):
            raise PolicyError(
                f"max_iterations={self.max_iterations!r}: expected a whole number of iterations"
            )
        if self.max_iterations < 1:
            raise PolicyError(
                f"max_iterations={self.max_iterations}: expected a budget of at least 1 iteration"
            )
        if not (math.isfinite(self.reference_lr) and 0 < self.reference_lr <= 1e3):
            raise PolicyError(
                f"reference_lr={self.reference_lr}: expected a learning rate above 0, at most 1000"
            )


@dataclass(frozen=True)
class Kind:
    """What values a coordinate may take: whole numbers or not, and the widest sensible range."""

    low: float
    high: float
    integer: bool = False


KINDS: Mapping[str, Kind] = {
    "peak": Kind(1e-9, 1e9),
    "floor": Kind(1e-12, 1.0),
    "half_cycles": Kind(1, 1_000_000, integer=True),
    "steps": Kind(0.1, 1_000_000),
    "end": Kind(1e-12, 1.0),
    "drops": Kind(1, MAX_DROPS, integer=True),
    "gap": Kind(1e-6, 1 - 1e-6),
    "power": Kind(1e-3, 100.0),
    "midpoint": Kind(1e-6, 1.0),
    "steepness": Kind(1e-3, 1e4),
}


def coordinate_names(function: str) -> tuple[str, ...]:
    """The coordinates of an LR function, as a search-space file spells them.

    >>> coordinate_names("SINEXP")
    ('peak', 'floor', 'half_cycles', 'end')
    """
    return _codec(function).names


def to_coordinates(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    """Coordinates of a policy: the inverse of `to_policy`.

    Args:
        policy: any policy of the table of functions; not a composed one.
        scale: budget and reference LR of the task that the policy was used on.

    Raises:
        PolicyError: for a policy that these coordinates cannot express.

    >>> paper = LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
    >>> point = to_coordinates(paper, Scale(64_000, 0.1))
    >>> {name: float(f"{value:.3g}") for name, value in point.items()}
    {'peak': 9.0, 'floor': 0.000111, 'half_cycles': 32.0, 'end': 0.0215}
    """
    point = _codec(policy.function).read(policy, scale)
    for name, value in point.items():
        kind = KINDS["gap" if name.startswith("gap") else name]
        if not kind.low <= value <= kind.high:
            raise PolicyError(
                f"{policy}: its {name} of {value:.3g} in a budget of {scale.max_iterations} "
                f"iterations is outside {kind.low:g} to {kind.high:g}: give a budget that fits it"
            )
    return point


def to_policy(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    """The absolute policy at a point of the scale-free space.

    Args:
        function: name of an LR function.
        point: its coordinates.
        scale: budget and reference LR of the task it is for.

    Raises:
        PolicyError: for a coordinate that is missing or out of its range.

    >>> point = {"peak": 9, "floor": 1e-4 / 0.9, "half_cycles": 32, "end": 0.0215}
    >>> print(to_policy("SINEXP", point, Scale(6_400, 0.1)))
    SINEXP(k0=0.0001, k1=0.9, gamma=0.9994, l=200)
    """
    codec = _codec(function)
    try:
        return codec.write(function, point, scale)
    except KeyError as error:
        raise PolicyError(
            f"{function} lacks the coordinate {error.args[0]}: give {', '.join(codec.names)}"
        ) from None


@dataclass(frozen=True)
class _Codec:
    names: tuple[str, ...]
    read: Callable[[LRPolicy, Scale], dict[str, float]]
    write: Callable[[str, Coordinates, Scale], LRPolicy]


def _codec(function: str) -> _Codec:
    if function in _DECAY:
        return _DECAY[function]
    if function in FUNCTIONS:
        return _WAVE_EXP if "gamma" in FUNCTIONS[function].parameters else _WAVE
    raise PolicyError(
        f"{function} has no scale-free coordinates: only the functions of the table have"
    )


def _tidy(value: float) -> float:
    """A number as people would write it: rounding noise of the conversion removed."""
    return float(f"{value:.12g}")


def _length(budget: float, count: float) -> float:
    """The interval that fits `count` times into the budget: whole where that hardly shifts it."""
    exact = budget / count
    whole = round(exact)
    if whole >= 1 and abs(whole - exact) * count <= 0.05 * exact:
        return whole
    return max(1.0, _tidy(exact))


def _bounds(policy: LRPolicy) -> tuple[float, float]:
    low, high = sorted((policy.k0 or 0.0, policy.k1 or 0.0))
    return low, high


def _peak(policy: LRPolicy, scale: Scale) -> float:
    return _bounds(policy)[1] / scale.reference_lr


def _high(point: Coordinates, scale: Scale) -> float:
    """The highest LR at a point: the inverse of `_peak`."""
    return _tidy(point["peak"] * scale.reference_lr)


def _gamma(policy: LRPolicy) -> float:
    return 1.0 if policy.gamma is None else policy.gamma


def _interval(policy: LRPolicy) -> float:
    return policy.l if isinstance(policy.l, int | float) else math.nan


def _read_fix(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    return {"peak": _peak(policy, scale)}


def _write_fix(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    return LRPolicy(function, k0=_high(point, scale))


def _read_step(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    steps = scale.max_iterations / _interval(policy)
    return {"peak": _peak(policy, scale), "steps": steps, "end": _gamma(policy) ** steps}


def _write_step(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    length = max(1, round(scale.max_iterations / point["steps"]))
    # What is left at the end stays, also where rounding changes the number of steps.
    gamma = point["end"] ** (length / scale.max_iterations)
    k0 = _high(point, scale)
    return LRPolicy(function, k0=k0, gamma=_tidy(gamma), l=length)


def _read_nstep(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    steps = policy.l if isinstance(policy.l, tuple) else ()
    point = {
        "peak": _peak(policy, scale),
        "drops": len(steps),
        "end": _gamma(policy) ** len(steps),
    }
    previous = 0.0
    for number, drop in enumerate(steps, start=1):
        if drop >= scale.max_iterations:
            raise PolicyError(
                f"{policy}: its drop at {drop:g} comes after the budget of "
                f"{scale.max_iterations} iterations: give a budget that holds all drops"
            )
        point[f"gap{number}"] = (drop - previous) / (scale.max_iterations - previous)
        previous = drop
    return point


def _write_nstep(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    # Each iteration but the first holds one drop at most; a shorter budget makes fewer of them.
    drops = min(int(point["drops"]), max(1, scale.max_iterations - 1))
    positions: list[int] = []
    previous = 0.0
    for number in range(1, drops + 1):
        previous += point[f"gap{number}"] * (scale.max_iterations - previous)
        earliest = positions[-1] + 1 if positions else 1
        latest = scale.max_iterations - 1 - (drops - number)  # the drops after it need a place too
        positions.append(max(min(round(previous), latest), earliest))
    gamma = _tidy(point["end"] ** (1 / drops))
    k0 = _high(point, scale)
    return LRPolicy(function, k0=k0, gamma=gamma, l=positions)


def _read_exp(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    return {"peak": _peak(policy, scale), "end": _gamma(policy) ** scale.max_iterations}


def _write_exp(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    gamma = _tidy(point["end"] ** (1 / scale.max_iterations))
    return LRPolicy(function, k0=_high(point, scale), gamma=gamma)


def _read_inv(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    power = policy.p or 0.0
    end = (1 + scale.max_iterations * _gamma(policy)) ** -power
    return {"peak": _peak(policy, scale), "power": power, "end": end}


def _write_inv(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    power = point["power"]
    gamma = (point["end"] ** (-1 / power) - 1) / scale.max_iterations
    k0 = _high(point, scale)
    # A steeper fall than INV's own gamma <= 1 allows is its steepest one.
    return LRPolicy(function, k0=k0, gamma=min(1.0, max(1e-12, _tidy(gamma))), p=_tidy(power))


def _read_poly(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    if policy.k1 or policy.l != scale.max_iterations:
        raise PolicyError(
            f"{policy}: POLY has coordinates only where it falls to 0 over the whole budget of "
            f"{scale.max_iterations} iterations: give l = {scale.max_iterations} and no k1"
        )
    return {"peak": _peak(policy, scale), "power": policy.p or 0.0}


def _write_poly(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    k0 = _high(point, scale)
    return LRPolicy(function, k0=k0, p=_tidy(point["power"]), l=scale.max_iterations)


def _read_sig(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    return {
        "peak": _peak(policy, scale),
        "midpoint": _interval(policy) / scale.max_iterations,
        "steepness": _gamma(policy) * scale.max_iterations,
    }


def _write_sig(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    gamma = min(1.0, _tidy(point["steepness"] / scale.max_iterations))
    length = _length(point["midpoint"] * scale.max_iterations, 1)
    return LRPolicy(function, k0=_high(point, scale), gamma=gamma, l=length)


def _read_wave(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    low, high = _bounds(policy)
    half_cycles = scale.max_iterations / _interval(policy)
    whole = round(half_cycles)
    # 10,000 iterations at l = 3,333 are three half cycles.
    half_cycles = whole if abs(whole - half_cycles) <= 0.02 * half_cycles else half_cycles
    return {"peak": _peak(policy, scale), "floor": low / high, "half_cycles": half_cycles}


def _write_wave(function: str, point: Coordinates, scale: Scale) -> LRPolicy:
    decays = "gamma" in FUNCTIONS[function].parameters
    return LRPolicy(
        function,
        k0=_tidy(point["floor"] * (point["peak"] * scale.reference_lr)),
        k1=_high(point, scale),
        gamma=_tidy(point["end"] ** (1 / scale.max_iterations)) if decays else None,
        l=_length(scale.max_iterations, point["half_cycles"]),
    )


def _read_wave_exp(policy: LRPolicy, scale: Scale) -> dict[str, float]:
    return {**_read_wave(policy, scale), "end": _gamma(policy) ** scale.max_iterations}


_WAVE = _Codec(("peak", "floor", "half_cycles"), _read_wave, _write_wave)
_WAVE_EXP = _Codec(("peak", "floor", "half_cycles", "end"), _read_wave_exp, _write_wave)
_DECAY: Mapping[str, _Codec] = {
    "FIX": _Codec(("peak",), _read_fix, _write_fix),
    "STEP": _Codec(("peak", "steps", "end"), _read_step, _write_step),
    "NSTEP": _Codec(("peak", "drops", "end", "gap"), _read_nstep, _write_nstep),
    "EXP": _Codec(("peak", "end"), _read_exp, _write_exp),
    "INV": _Codec(("peak", "power", "end"), _read_inv, _write_inv),
    "POLY": _Codec(("peak", "power"), _read_poly, _write_poly),
    "SIG": _Codec(("peak", "midpoint", "steepness"), _read_sig, _write_sig),
}
