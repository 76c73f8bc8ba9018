"""Tables and lines on the terminal, wide enough for a policy even when piped to a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrbench_hpo.checks import printable

_PIPED_WIDTH = 160  # columns: the longest policies of the published tables fit


def console() -> Console:
    """The terminal; wide and without colours where output goes to a file or pipe."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_PIPED_WIDTH)


def print_line(console: Console, line: str) -> None:
    """Print a line as plain text, unwrapped."""
    console.print(Text(line), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose cells are plain text: nothing in them is read as markup, or by a terminal.

    Args:
        title: what stands above it.
        columns: headings; those that begin with ``>`` are aligned to the right.
        rows: cells, one for each column.
    """
    made = Table(title=Text(title), title_justify="left")
    for column in columns:
        made.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def share(value: float | None) -> str:
    """A share as per cent, or a dash."""
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, or a dash."""
    return "-" if value is None else format(value, form)
