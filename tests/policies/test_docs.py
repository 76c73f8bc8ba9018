from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from lrbench_hpo.policies import FUNCTIONS

DOCS = Path(__file__).parents[2] / "docs"
COMPOSITIONS = ["compose", "warmup", "knee", "one_cycle", "warmup_stable_decay", "sgdr"]


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The text under each heading of the page, up to the next heading."""
    found: dict[str, str] = {}
    heading = ""
    for line in (DOCS / "policies.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            found[heading] = ""
        else:
            found[heading] += f"{line}\n"
    return found


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "draw_policies.py"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_described_as_in_the_table(name: str, sections: dict[str, str]) -> None:
    row, text = FUNCTIONS[name], sections[name]
    assert f"`g(t) = {row.formula}`" in text
    listed = text.split("parameters: ")[1].splitlines()[0]
    assert listed.split("`")[1::2] == [*row.parameters, *row.optional]
    assert f"(images/policies/{name.lower()}.svg)" in text
    assert row.reference in text


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_composition_is_described(name: str, sections: dict[str, str]) -> None:
    assert f"`{name}(" in sections[name]
    assert f"(images/policies/{name}.svg)" in sections[name]


def test_the_pictures_are_those_that_the_script_draws(
    script: dict[str, Any], tmp_path: Path
) -> None:
    assert list(script["pictures"]()) == [*FUNCTIONS, *COMPOSITIONS]
    script["main"](tmp_path)
    kept = {path.name: path for path in (DOCS / "images" / "policies").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    for path in tmp_path.iterdir():
        # Font metrics differ between machines and shift the axes by a bit.
        apart = np.abs(curve_of(path) - curve_of(kept[path.name])).mean()
        assert apart < 1, f"{path.name} is stale: run python docs/draw_policies.py"


def curve_of(path: Path) -> npt.NDArray[np.float64]:
    """Heights of the drawn curve at 200 places along it, in points of a picture 108 high."""
    root = ElementTree.parse(path).getroot()  # noqa: S314 (our own file)
    svg = "{http://www.w3.org/2000/svg}"
    group = next(node for node in root.iter(f"{svg}g") if node.get("id", "").startswith("line2d"))
    drawn = group.find(f"{svg}path")
    assert drawn is not None
    numbers = [float(word) for word in drawn.get("d", "").split() if not word.isalpha()]
    x, y = np.array(numbers).reshape(-1, 2).T
    return np.interp(np.linspace(x[0], x[-1], 200), x, y)
