"""Draw the pictures of docs/policies.md: ``python docs/draw_policies.py``."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from lrbench_hpo.cli.plots import curve, save
from lrbench_hpo.policies import (
    FUNCTIONS,
    LRPolicy,
    compose,
    knee,
    one_cycle,
    sgdr,
    warmup,
    warmup_stable_decay,
)

FOLDER = Path(__file__).parent / "images" / "policies"
BUDGET = 480
# What a function is drawn with; only what it takes is used. Enough cycles to see the envelope.
VALUES = {"k0": 0.02, "k1": 1.0, "gamma": 0.996, "p": 1.2, "l": 60}
OWN_VALUES: dict[str, dict[str, object]] = {
    "FIX": {"k0": 0.5},
    "STEP": {"k0": 1.0, "gamma": 0.6},
    "NSTEP": {"k0": 1.0, "gamma": 0.4, "l": [120, 300, 380]},
    "EXP": {"k0": 1.0, "gamma": 0.99},
    "INV": {"k0": 1.0, "gamma": 0.02, "p": 0.75},
    "POLY": {"k0": 1.0, "k1": None, "l": 480},
    "SIG": {"k0": 1.0, "gamma": 0.02, "l": 240},
}


def pictures() -> dict[str, LRPolicy]:
    """What to draw, by the picture's name."""
    drawn = {}
    for name, row in FUNCTIONS.items():
        values = VALUES | OWN_VALUES.get(name, {})
        drawn[name] = LRPolicy(name, **{key: values[key] for key in row.takes})  # type: ignore[arg-type]
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


def main(folder: Path = FOLDER) -> None:
    """Draw them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, policy in pictures().items():
        draw(policy, folder / f"{name.lower()}.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
