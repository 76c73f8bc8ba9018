"""The one table of LR functions: a new function is a row here and a row in its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

from lrbench_hpo.policies import decay
from lrbench_hpo.policies.waves import ENVELOPES, WAVES, Array, Envelope, Wave, cyclic

CAFFE = "Jia et al. 2014, arXiv 1408.5093 (Caffe's solver policies)"
CLR = "Smith 2015, arXiv 1506.01186"
LRBENCH = "Wu et al. 2019, arXiv 1908.06477"
SGDR = "Loshchilov & Hutter 2016, arXiv 1608.03983"


@dataclass(frozen=True)
class LRFunction:
    """One LR function, ``LR(t) = |k0 - k1| g(t) + min(k0, k1)``.

    Attributes:
        name: its name in the papers.
        formula: ``g(t)`` as a person writes it.
        parameters: what must be given, in the order of the papers.
        g: the formula; takes ``t`` and the parameters after the k's by name.
        optional: what may be given too.
        wave: the wave shape of a cyclic function, None for a decaying one.
        reference: the paper that it comes from.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    g: Callable[..., Array]
    reference: str
    optional: tuple[str, ...] = ()
    wave: Wave | None = None

    @property
    def is_cyclic(self) -> bool:
        """Whether the LR rises again after it fell."""
        return self.wave is not None

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """All parameters, needed or not, in the order of the papers."""
        either = self.parameters + self.optional
        return tuple(name for name in ("k0", "k1", "gamma", "p", "l") if name in either)


DECAYING = (
    LRFunction("FIX", "1", ("k0",), decay.fix, CAFFE),
    LRFunction("STEP", "gamma^floor(t/l)", ("k0", "gamma", "l"), decay.step, CAFFE),
    LRFunction(
        "NSTEP", "gamma^i, i = number of l_j <= t", ("k0", "gamma", "l"), decay.nstep, CAFFE
    ),
    LRFunction("EXP", "gamma^t", ("k0", "gamma"), decay.exponential, CAFFE),
    LRFunction("INV", "(1 + t gamma)^(-p)", ("k0", "gamma", "p"), decay.inverse, CAFFE),
    LRFunction(
        "POLY", "(1 - min(t, l)/l)^p", ("k0", "p", "l"), decay.polynomial, CAFFE, optional=("k1",)
    ),
    LRFunction("SIG", "1/(1 + exp(gamma (t - l)))", ("k0", "gamma", "l"), decay.sigmoid, CAFFE),
)

# The paper that proposed a wave under a given name; the others are LRBench's own.
_WAVE_REFERENCES = {"TRI": CLR, "TRI2": CLR, "TRIEXP": CLR, "COSRSW": SGDR}


def _cyclic_row(wave: Wave, envelope: Envelope) -> LRFunction:
    name = wave.name + envelope.suffix
    return LRFunction(
        name,
        wave.formula + envelope.formula.format(cycle=wave.cycle),
        ("k0", "k1", *envelope.parameters, "l"),
        partial(cyclic, wave=wave, envelope=envelope),
        _WAVE_REFERENCES.get(name, LRBENCH),
        wave=wave,
    )


CYCLIC = tuple(_cyclic_row(wave, envelope) for wave in WAVES for envelope in ENVELOPES)

FUNCTIONS: Mapping[str, LRFunction] = MappingProxyType(
    {function.name: function for function in DECAYING + CYCLIC}
)

ALL_FUNCTIONS: tuple[str, ...] = tuple(FUNCTIONS)

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
