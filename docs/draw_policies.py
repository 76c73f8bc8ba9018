"""Write what docs/policies.md takes from the table of LR functions, and draw its pictures.

Run ``python docs/draw_policies.py`` after a change of the table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure

from lrbench_hpo.cli.plots import curve, save
from lrbench_hpo.policies import (
    FUNCTIONS,
    LRFunction,
    LRPolicy,
    compose,
    knee,
    one_cycle,
    sgdr,
    warmup,
    warmup_stable_decay,
)
from lrbench_hpo.policies.coordinates import Scale, to_policy

PAGE = Path(__file__).parent / "policies.md"
FOLDER = PAGE.parent / "images" / "policies"
BUDGET = 480
# What waves are drawn with; only what they take is used. Enough cycles to see the envelope.
WAVE_VALUES = {"k0": 0.02, "k1": 1.0, "gamma": 0.996, "l": 60}
# What decaying functions are drawn with; others are taken from the middle of the default space.
OWN_VALUES: dict[str, dict[str, object]] = {
    "FIX": {"k0": 0.5},
    "STEP": {"k0": 1.0, "gamma": 0.6, "l": 60},
    "NSTEP": {"k0": 1.0, "gamma": 0.4, "l": [120, 300, 380]},
    "EXP": {"k0": 1.0, "gamma": 0.99},
    "INV": {"k0": 1.0, "gamma": 0.02, "p": 0.75},
    "POLY": {"k0": 1.0, "p": 1.2, "l": 480},
    "SIG": {"k0": 1.0, "gamma": 0.02, "l": 240},
}


def pictures() -> dict[str, LRPolicy]:
    """What to draw, by the picture's name."""
    drawn = {name: example(row) for name, row in FUNCTIONS.items()}
    high, low = (LRPolicy("TRI", k0=0.02, k1=k, l=60) for k in (1.0, 0.3))
    drawn["compose"] = compose([(240, high), (None, low)])
    drawn["warmup"] = warmup(LRPolicy("POLY", k0=1.0, p=1.2, l=400), 80)
    drawn["knee"] = knee(1.0, 280, 480)
    drawn["one_cycle"] = one_cycle(1.0, 480)
    drawn["warmup_stable_decay"] = warmup_stable_decay(
        1.0, 480, warmup_iterations=40, decay_iterations=120
    )
    drawn["sgdr"] = sgdr(1.0, 0.02, 69, multiplier=2, cycles=3)
    return drawn


def example(row: LRFunction) -> LRPolicy:
    """What a function is drawn with: its highest LR is 1, or a half for FIX."""
    if row.is_cyclic:
        values = {name: WAVE_VALUES[name] for name in row.takes}
        return LRPolicy(row.name, **values)  # type: ignore[arg-type]
    if row.name in OWN_VALUES:
        return LRPolicy(row.name, **OWN_VALUES[row.name])  # type: ignore[arg-type]
    point = {
        name: math.sqrt(entry.low * entry.high) if entry.log else (entry.low + entry.high) / 2
        for name, entry in row.ranges.items()
    }
    return to_policy(row.name, point | {"peak": 1.0}, Scale(BUDGET, 1.0))


def draw(policy: LRPolicy, path: Path) -> None:
    """One small picture."""
    figure = Figure(figsize=(3.2, 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*curve(policy, BUDGET), linewidth=1.5)
    axes.set(xlim=(0, BUDGET), ylim=(0, 1.08), xticks=[], yticks=[])
    axes.set_xlabel("iteration", fontsize="small")
    axes.set_ylabel("LR", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def section(row: LRFunction) -> str:
    """What the page has on one function."""
    optional = f", and if wanted {_listed(row.optional)}" if row.optional else ""
    return "\n\n".join(
        [
            f"{'####' if row.is_cyclic else '###'} {row.name}",
            f"![LR of {row.name} over the iterations](images/policies/{row.name.lower()}.svg)",
            f"`g(t) = {row.formula}` · parameters: {_listed(row.parameters)}{optional}",
            _wrapped(row.about),
            f"From {row.reference}.",
        ]
    )


def sections() -> Iterator[str]:
    """What the page has on all functions; a wave's come after a few words on the wave."""
    for wave, rows in groupby(FUNCTIONS.values(), key=lambda row: row.wave):
        if wave is not None:
            yield f"### {wave.title}\n\n{_wrapped(wave.about)}"
        yield from map(section, rows)


def page(text: str) -> str:
    """The page with its sections on the functions as the table has them today."""
    before, _, rest = text.partition("## Decaying functions\n")
    _, cyclic, rest = rest.partition("## Cyclic functions\n")
    introduction, _, rest = rest.partition("### ")
    _, composition, after = rest.partition("## Composition\n")
    written = list(sections())
    decaying = sum(not row.is_cyclic for row in FUNCTIONS.values())
    return "".join(
        [
            f"{before}## Decaying functions\n\n",
            *(f"{entry}\n\n" for entry in written[:decaying]),
            f"{cyclic}{introduction}",
            *(f"{entry}\n\n" for entry in written[decaying:]),
            f"{composition}{after}",
        ]
    )


def _wrapped(text: str) -> str:
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(folder: Path = FOLDER) -> None:
    """Write the page and draw all pictures."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for name, policy in pictures().items():
        draw(policy, folder / f"{name.lower()}.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
