"""Draw the picture of docs/range_test.md: ``python docs/draw_range_test.py``.

It trains, so another machine draws points a little elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lrbench_hpo
from lrbench_hpo.cli.plots import plot_range_test

FILE = Path(__file__).parent / "images" / "range_test.svg"


def main(file: Path = FILE) -> None:
    """Test digits / lenet for trials of 600 iterations, and draw it."""
    found = lrbench_hpo.range_test("digits", "lenet", max_iterations=600, device="cpu", store=False)
    plot_range_test(found, file, title="digits / lenet, SGD with momentum 0.9")
    print(found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
