"""Detection of a file's format by its content, and its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain

from lrbench_hpo.checks import printable
from lrbench_hpo.exchange.files import InputFile, Line
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl, kept_rows, lrbench_csv
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected

_LOOKED_AT = 20  # lines at the start of a file, for what it is
_MOST_LOOKED_AT = 2**24  # characters in them
_FORMATS = "JSON Lines or CSV as `lrbench-hpo db export` writes them, or LRBench's CSV"


def runs_in(file: InputFile) -> Iterator[Found | Rejected]:
    """The rows of a file in any of the formats that are known here.

    Args:
        file: of `open_input`.

    Raises:
        ExchangeError: for a file in none of them, before any row.
    """
    lines = file.lines()
    start: list[Line | Rejected] = []
    while len(start) < _LOOKED_AT and sum(len(line.text) for line in start) < _MOST_LOOKED_AT:
        if (line := next(lines, None)) is None:
            break
        start.append(line)
    good = [line for line in start if isinstance(line, Line)]
    if not start:
        raise ExchangeError(f"{printable(file.name)}: nothing in it: expected {_FORMATS}")
    all_lines = chain(start, lines)
    if good and good[0] is start[0] and not good[0].text.lstrip().startswith("{"):
        columns = _columns(good[0].text)
        if table.is_header(columns):
            return table.read(file.name, columns, _rest(all_lines))
        if lrbench_csv.is_header(columns):
            return lrbench_csv.read(file.name, columns, _rest(all_lines))
    if any(line.text.lstrip().startswith("{") for line in good):
        return jsonl.read(file.name, kept_rows.unpacked(file.name, all_lines))
    raise ExchangeError(f"{printable(file.name)}: {_what(start[0])}: expected {_FORMATS}")


def _rest(lines: Iterable[Line | Rejected]) -> Iterator[Line | Rejected]:
    """The lines below the header, each with it."""
    below = iter(lines)
    header = first.text if (first := next(below, None)) is not None else ""
    for line in below:
        if isinstance(line, Rejected):
            yield dataclasses.replace(line, text=f"{header}\n{line.text}")
        else:
            yield dataclasses.replace(line, header=header)


def _columns(text: str) -> list[str]:
    try:
        return table.cells_of(text)
    except ValueError:
        return []


def _what(first: Line | Rejected) -> str:
    """Why nothing was found, from the first line."""
    if isinstance(first, Rejected):
        return f"{first.place}: {first.reason}"
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if table.is_header(first.text.split(delimiter)):
            return f"its columns are separated by {name}: save it with commas"
    if first.text.lstrip().startswith("["):
        return "a JSON list: write one run a line, as jq -c '.[]' does"
    return "neither a run nor a known header in its first lines"
