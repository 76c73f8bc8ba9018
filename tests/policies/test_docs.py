from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from lrbench_hpo.cli.plots import curve
from lrbench_hpo.policies import FUNCTIONS, LRPolicy

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "images" / "policies"
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
    assert row.about in " ".join(text.split())


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_composition_is_described(name: str, sections: dict[str, str]) -> None:
    assert f"`{name}(" in sections[name]
    assert f"(images/policies/{name}.svg)" in sections[name]


def test_the_sections_on_functions_are_those_that_the_script_writes(script: dict[str, Any]) -> None:
    text = (DOCS / "policies.md").read_text(encoding="utf-8")
    assert script["page"](text) == text, "stale: run python docs/draw_policies.py"


def test_there_is_a_picture_of_everything_drawn(script: dict[str, Any]) -> None:
    assert list(script["pictures"]()) == [*FUNCTIONS, *COMPOSITIONS]
    drawn = {f"{name.lower()}.svg" for name in script["pictures"]()}
    assert {path.name for path in PICTURES.iterdir()} == drawn


def test_the_pictures_show_the_policies_of_the_script(script: dict[str, Any]) -> None:
    # A picture is compared with the LRs themselves: drawing all of them again takes seconds.
    for name, policy in script["pictures"]().items():
        apart = np.abs(drawn_lrs(PICTURES / f"{name.lower()}.svg") - lrs_of(policy, script)).mean()
        assert apart < 0.01, f"{name} is stale: run python docs/draw_policies.py"


def test_the_script_draws_the_pictures_that_are_kept(
    script: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("SINEXP", "STEP", "sgdr"):
        path = tmp_path / f"{name.lower()}.svg"
        script["draw"](script["pictures"]()[name], path)
        # Font metrics differ between machines and shift the axes by a bit.
        apart = np.abs(drawn_lrs(path) - drawn_lrs(PICTURES / path.name)).mean()
        assert apart < 0.01, f"{path.name} is stale: run python docs/draw_policies.py"


def lrs_of(policy: LRPolicy, script: dict[str, Any]) -> npt.NDArray[np.float64]:
    """The LR curve at 200 iterations, as the script draws it: a line between iterations."""
    t, lr = curve(policy, script["BUDGET"])
    return np.interp(np.linspace(t[0], t[-1], 200), t, lr)


def drawn_lrs(path: Path) -> npt.NDArray[np.float64]:
    """LRs at 200 places along the curve of a picture, whose axis ends at an LR of 1.08."""
    root = ElementTree.parse(path).getroot()  # noqa: S314 (our own file)
    svg = "{http://www.w3.org/2000/svg}"
    group = next(node for node in root.iter(f"{svg}g") if node.get("id", "").startswith("line2d"))
    drawn, frame = group.find(f"{svg}path"), root.find(f".//{svg}clipPath/{svg}rect")
    assert drawn is not None
    assert frame is not None
    numbers = [float(word) for word in drawn.get("d", "").split() if not word.isalpha()]
    x, y = np.array(numbers).reshape(-1, 2).T
    top, height = float(frame.get("y", "")), float(frame.get("height", ""))
    return np.interp(np.linspace(x[0], x[-1], 200), x, 1.08 * (1 - (y - top) / height))
