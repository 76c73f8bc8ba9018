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

from collections.abc import Mapping
from dataclasses import dataclass

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies.function import Coordinates, LRFunction, Scale
from lrbench_hpo.policies.policy import LRPolicy
from lrbench_hpo.policies.table import FUNCTIONS

__all__ = [
    "KINDS",
    "MAX_DROPS",
    "Coordinates",
    "Kind",
    "Scale",
    "coordinate_names",
    "to_coordinates",
    "to_policy",
]

MAX_DROPS = 9


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
    return tuple(_row(function).ranges)


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
    codec = _row(policy.function).codec
    try:
        point = codec.read(policy.to_dict(), scale)
    except PolicyError as error:
        raise PolicyError(f"{policy}: {error}") from None
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
    row = _row(function)
    try:
        parameters = row.codec.write(point, scale)
    except KeyError as error:
        raise PolicyError(
            f"{function} lacks the coordinate {error.args[0]}: give {', '.join(row.ranges)}"
        ) from None
    return LRPolicy(function, **parameters)


def _row(function: str) -> LRFunction:
    if function not in FUNCTIONS:
        raise PolicyError(
            f"{function} has no scale-free coordinates: only the functions of the table have"
        )
    return FUNCTIONS[function]
