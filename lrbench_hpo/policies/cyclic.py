"""The rows of the cyclic LR functions: every wave under every envelope.

All waves have the same coordinates, default ranges and grid, because they differ in their shape
alone; those of the exponential envelope have ``gamma``, and the coordinate `end`, besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lrbench_hpo.policies.function import (
    Codec,
    Coordinates,
    LRFunction,
    Parameters,
    Scale,
    bounds,
    highest,
    interval,
    log_range,
    peak,
    tidy,
)
from lrbench_hpo.policies.grids import DECAY, LENGTH, Grid, Outline, Shape
from lrbench_hpo.policies.waves import ENVELOPES, Envelope, Wave, cyclic

_MAX_CYCLES, _MAX_DAMPED = 300.0, 100.0  # half cycles that are looked for in samples too few to say
_ENDS = (0.7, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6)  # what an envelope leaves at the end


def cyclic_rows(wave: Wave) -> Iterator[LRFunction]:
    """The LR functions of a wave: plain, halved with every cycle, and decaying.

    >>> from lrbench_hpo.policies.waves import WAVES
    >>> [row.name for row in cyclic_rows(WAVES[0])]
    ['TRI', 'TRI2', 'TRIEXP']
    """
    for envelope in ENVELOPES:
        decays = "gamma" in envelope.parameters
        yield LRFunction(
            wave.name + envelope.suffix,
            wave.formula + envelope.formula.format(cycle=wave.cycle),
            ("k0", "k1", *envelope.parameters, "l"),
            partial(cyclic, wave=wave, envelope=envelope),
            _reference(wave, envelope),
            about=envelope.about,
            codec=_DECAYING_WAVE if decays else _WAVE,
            ranges=_DECAYING_RANGES if decays else _RANGES,
            grid=_DECAYING_GRID if decays else _GRID,
            wave=wave,
        )


def _reference(wave: Wave, envelope: Envelope) -> str:
    return wave.damped_reference if envelope.suffix else wave.reference


def _read_wave(given: Parameters, scale: Scale) -> dict[str, float]:
    low, high = bounds(given)
    half_cycles = scale.max_iterations / given["l"]
    whole = round(half_cycles)
    # 10,000 iterations at l = 3,333 are three half cycles.
    half_cycles = whole if abs(whole - half_cycles) <= 0.02 * half_cycles else half_cycles
    return {"peak": peak(given, scale), "floor": low / high, "half_cycles": half_cycles}


# A whole number of half cycles keeps a minimum on the end of the budget, and holds the published
# policies exactly (2.5, 16 and 17.5 cycles).
def _write_wave(point: Coordinates, scale: Scale) -> dict[str, Any]:
    return {
        "k0": tidy(point["floor"] * (point["peak"] * scale.reference_lr)),
        "k1": highest(point, scale),
        "l": interval(scale.max_iterations, point["half_cycles"]),
    }


def _read_decaying_wave(given: Parameters, scale: Scale) -> dict[str, float]:
    return {**_read_wave(given, scale), "end": given["gamma"] ** scale.max_iterations}


def _write_decaying_wave(point: Coordinates, scale: Scale) -> dict[str, Any]:
    gamma = tidy(point["end"] ** (1 / scale.max_iterations))
    return {**_write_wave(point, scale), "gamma": gamma}


def _lengths(outline: Outline, most: float) -> list[float]:
    lengths = [outline.end / f for f in outline.half_cycles(most).tolist() if outline.end / f >= 1]
    # Half a cosine over the budget is the most usual of all waves.
    return lengths if outline.max_iterations is None else [*lengths, float(outline.max_iterations)]


def _shapes(outline: Outline) -> list[Shape]:
    return [{"l": n} for n in _lengths(outline, _MAX_CYCLES)]


def _decaying_shapes(outline: Outline) -> list[Shape]:
    decays = [share ** (1 / outline.end) for share in _ENDS]
    return [{"l": n, "gamma": g} for n in _lengths(outline, _MAX_DAMPED) for g in decays]


_WAVE = Codec(_read_wave, _write_wave)
_DECAYING_WAVE = Codec(_read_decaying_wave, _write_decaying_wave)
_GRID = Grid((LENGTH,), _shapes)
_DECAYING_GRID = Grid((LENGTH, DECAY), _decaying_shapes)

_FLOOR = log_range(5e-5, 0.5, "Tables IV to IX: 1.1e-4 to 0.17")
_RANGES = {
    "peak": log_range(0.3, 30.0, "Tables IV to IX: 3 to 10; the best rows 6, 6 and 9"),
    "floor": _FLOOR,
    "half_cycles": log_range(1, 64, "Tables V to IX: 5, 32 and 35, that is 3.3 to 5.1 epochs each"),
}
_DECAYING_RANGES = {
    "peak": log_range(0.3, 30.0, "Tables VII to IX: 6, 6 and 9"),
    "floor": _FLOOR,
    "half_cycles": log_range(1, 64, "Tables VII to IX: 5, 32 and 35"),
    "end": log_range(0.001, 0.9, "Tables VII to IX: 0.55, 0.015 and 0.022"),
}
