"""The cyclic LR functions as waves of phase: some shapes, each under every envelope.

With ``u = (t + shift) / period`` a wave is ``shape(u - floor(u))``: its minimum is where ``u`` is
whole, and the cycle that the envelope counts is ``floor(u)``. Half a cycle is ``l`` iterations, so
the period is ``2 l``; for the restart shapes, which only fall, it is ``l``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

CLR = "Smith 2015, arXiv 1506.01186"
LRBENCH = "Wu et al. 2019, arXiv 1908.06477"
SGDR = "Loshchilov & Hutter 2016, arXiv 1608.03983"


def _triangle(x: Array) -> Array:
    return 1.0 - np.abs(2.0 * x - 1.0)


def _sine(x: Array) -> Array:
    return np.sin(np.pi * x)


def _raised_cosine(x: Array) -> Array:
    return 0.5 * (1.0 - np.cos(2.0 * np.pi * x))


def _linear_fall(x: Array) -> Array:
    return 1.0 - x


def _sine_fall(x: Array) -> Array:
    return np.sin(0.5 * np.pi * (1.0 - x))


def _cosine_fall(x: Array) -> Array:
    return 0.5 * (1.0 + np.cos(np.pi * x))


@dataclass(frozen=True)
class Wave:
    """One wave shape between 0 and 1.

    Attributes:
        name: the LR function's name when no envelope is on it.
        formula: the wave in ``t`` and ``l``, as a person writes it.
        cycle: the number of the cycle in ``t`` and ``l``.
        shape: the wave as a function of the phase in [0, 1).
        period: the period in units of ``l``.
        title: the wave in a few words, for the documentation.
        about: what it does and what it is good for, for the documentation.
        shift: what is added to ``t``, in units of ``l``; 1 makes the wave start at its maximum.
        reference: the paper that proposed the wave under this name.
        damped_reference: the paper that proposed it under an envelope.
    """

    name: str
    formula: str
    cycle: str
    shape: Callable[[Array], Array]
    period: int
    title: str
    about: str
    shift: int = 0
    reference: str = LRBENCH
    damped_reference: str = LRBENCH

    def first_minimum(self, l: float) -> float:  # noqa: E741 (the papers' name)
        """The first time after 0 at which a cycle has come down to its minimum."""
        return (self.period - self.shift) * l

    def minimum_times(self, l: float, places: Array) -> Array:  # noqa: E741
        """Times after 0 at which cycles have come down to their minimum.

        Args:
            l: half a cycle, in iterations.
            places: of the minima asked for, in their order: 1 is the first.

        >>> WAVES[0].minimum_times(10.0, np.array([1.0, 2.0])).tolist()
        [20.0, 40.0]
        """
        return (places * self.period - self.shift) * l

    def count_minima(self, l: float, horizon: float) -> int:  # noqa: E741
        """How many minima there are up to a time.

        Args:
            l: half a cycle, in iterations.
            horizon: the last time asked for, in iterations.

        >>> WAVES[0].count_minima(10.0, 45.0)
        2
        """
        cycles = (horizon / l + self.shift) // self.period
        near = cycles + np.array([-1.0, 0.0, 1.0])  # rounding may put it off by one
        within = near[(near >= 1) & (self.minimum_times(l, near) <= horizon)]
        return int(within.max(initial=0.0))


@dataclass(frozen=True)
class Envelope:
    """What the amplitude of a wave does over the cycles.

    Attributes:
        suffix: what the LR function's name ends in.
        formula: what follows the wave's formula.
        parameters: the parameters that the envelope adds.
        scale: the amplitude from the iterations, the cycle's number and gamma.
        about: what it does, for the documentation.
    """

    suffix: str
    formula: str
    parameters: tuple[str, ...]
    scale: Callable[[Array, Array, float], Array]
    about: str


def _constant(t: Array, cycle: Array, gamma: float) -> Array:
    return np.ones_like(t)


def _halved(t: Array, cycle: Array, gamma: float) -> Array:
    # ldexp is exact; past 2**-1100 the amplitude is 0 in any case.
    return np.ldexp(1.0, -np.minimum(cycle, 1100.0).astype(np.int32))


def _exponential(t: Array, cycle: Array, gamma: float) -> Array:
    return np.power(gamma, t)


UP, DOWN, RESTART = "floor(t/(2l))", "floor((t+l)/(2l))", "floor(t/l)"

WAVES = (
    Wave(
        "TRI",
        "(2/pi) abs(asin(sin(pi t/(2l))))",
        UP,
        _triangle,
        2,
        "Triangles from the minimum",
        "Straight up for `l` iterations and straight down for `l`. No warm-up is needed, as it "
        "starts low; the bounds come from an LR range test.",
        reference=CLR,
        damped_reference=CLR,
    ),
    Wave(
        "DTRI",
        "(2/pi) abs(asin(cos(pi t/(2l))))",
        DOWN,
        _triangle,
        2,
        "Triangles from the maximum",
        "TRI moved by half a cycle: starts at the maximum, and the first minimum is at `t = l`. "
        "For tasks that stand a high LR from the first update.",
        shift=1,
    ),
    Wave(
        "SIN",
        "abs(sin(pi t/(2l)))",
        UP,
        _sine,
        2,
        "Sine arches from the minimum",
        "Like TRI, but longer near the maximum and only briefly at the minimum.",
    ),
    Wave(
        "DSIN",
        "abs(cos(pi t/(2l)))",
        DOWN,
        _sine,
        2,
        "Sine arches from the maximum",
        "SIN moved by half a cycle.",
        shift=1,
    ),
    Wave(
        "COS",
        "(1 + cos(pi t/l))/2",
        DOWN,
        _raised_cosine,
        2,
        "Cosine waves from the maximum",
        "Smooth at both ends: long near the maximum and long near the minimum. **The period is "
        "2l**: the minima are at `l, 3l, 5l, …`. The paper prints the formula with period l, but "
        "its best iterations (10,000 and 70,000 at l = 2000) are minima only with period 2l, and "
        "so are those of its code. With `l` = the budget it is cosine annealing without restarts.",
        shift=1,
    ),
    Wave(
        "UPCOS",
        "(1 - cos(pi t/l))/2",
        UP,
        _raised_cosine,
        2,
        "Cosine waves from the minimum",
        "COS moved by half a cycle: a smooth warm-up is built in.",
    ),
    Wave(
        "RSW",
        "(1 - (t mod l)/l)",
        RESTART,
        _linear_fall,
        1,
        "Saw teeth with restarts",
        "Straight down for `l` iterations, then a warm restart at the maximum. **The period is "
        "l**, a whole cycle. At `t = n l` a new tooth has begun, so the LR there is the maximum; "
        "the minimum is approached in the update before.",
    ),
    Wave(
        "SINRSW",
        "sin((pi/2) (1 - (t mod l)/l))",
        RESTART,
        _sine_fall,
        1,
        "Sine falls with restarts",
        "Like RSW, but longer near the maximum and steep at the end. Period l.",
    ),
    Wave(
        "COSRSW",
        "(1 + cos(pi (t mod l)/l))/2",
        RESTART,
        _cosine_fall,
        1,
        "Cosine falls with restarts",
        "The warm restarts of SGDR (Loshchilov & Hutter 2016, arXiv 1608.03983) with cycles of "
        "equal length; for growing cycles see [`sgdr`](#sgdr). Period l.",
        reference=SGDR,
    ),
)

ENVELOPES = (
    Envelope("", "", (), _constant, "Every cycle reaches the same maximum."),
    Envelope(
        "2",
        " / 2^{cycle}",
        (),
        _halved,
        "The amplitude is halved with every cycle: exploration first, then ever finer steps.",
    ),
    Envelope(
        "EXP",
        " * gamma^t",
        ("gamma",),
        _exponential,
        "The amplitude decays smoothly, by gamma an iteration; the functions of this kind hold the "
        "paper's best results.",
    ),
)


def cyclic(t: Array, wave: Wave, envelope: Envelope, l: float, gamma: float = 1.0) -> Array:  # noqa: E741
    """Value in [0, 1] of a wave under an envelope.

    Args:
        t: iterations from 0.
        wave: the shape.
        envelope: what its amplitude does.
        l: half a cycle (for restarts: a whole one), in iterations.
        gamma: decay an iteration, for the exponential envelope.
    """
    period = wave.period * l
    # divmod, unlike t / period, puts t = n * period at phase 0 of cycle n for any period.
    cycle, rest = np.divmod(t + wave.shift * l, period)
    return wave.shape(rest / period) * envelope.scale(t, cycle, gamma)
