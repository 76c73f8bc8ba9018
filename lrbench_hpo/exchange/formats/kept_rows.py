"""Rows that a quarantine kept, imported again after they were mended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from lrbench_hpo.checks import printable
from lrbench_hpo.errors import why
from lrbench_hpo.exchange.files import Line
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl, lrbench_csv
from lrbench_hpo.exchange.quarantine import FIELDS
from lrbench_hpo.exchange.rows import MAX_TEXT, ExchangeError, Found, Rejected


def unpacked(file: str, lines: Iterable[Line | Rejected]) -> Iterator[Line | Found | Rejected]:
    """The same lines, but those of a quarantine as the row that each of them holds.

    Args:
        file: its name.
        lines: of `InputFile.lines`.
    """
    # Rows of one header are read together, for the readers that number equal rows.
    for header, rows in groupby(_rows(file, lines), key=_header_of):
        if header is None:
            yield from rows
        else:
            yield from _csv(file, header, (row for row in rows if isinstance(row, Line)))


def _header_of(row: Line | Rejected) -> str | None:
    return row.header if isinstance(row, Line) else None


def _rows(file: str, lines: Iterable[Line | Rejected]) -> Iterator[Line | Rejected]:
    for line in lines:
        kept = _kept(line.text) if isinstance(line, Line) else None
        if kept is None or isinstance(line, Rejected):
            yield line
        else:
            yield from _row(file, line.number, kept)


def _kept(text: str) -> Mapping[str, str] | None:
    """The entries of a line of a quarantine; None for any other line."""
    if '"place"' not in text:  # nearly all lines are spared a second look
        return None
    try:
        value = jsonl.parsed(text)
    except jsonl.BAD_ROW:
        return None
    if not isinstance(value, dict) or set(value) != set(FIELDS):
        return None
    return value if all(isinstance(entry, str) for entry in value.values()) else None


def _row(file: str, number: int, kept: Mapping[str, str]) -> Iterator[Line | Rejected]:
    text = kept["text"].strip("\r\n")
    line = Line(number, text)
    if text.lstrip().startswith("{"):
        again, reason = _json(kept)
        if reason is not None:
            yield line.rejected(file, reason)
        else:
            # What could not be read as a line of a quarantine was kept in another one.
            yield from _rows(file, [Line(number, again)])
        return
    header, end, row = text.rpartition("\n")
    if (cut := _cut(kept)) is not None:  # half a row of CSV may look like a whole one
        yield line.rejected(file, cut)
    elif end:
        yield Line(number, row, header.rstrip("\r"))
    elif text and kept["place"].startswith("line "):
        yield line
    else:
        yield line.rejected(file, _elsewhere(kept, "this is no row that was kept"))


def _elsewhere(kept: Mapping[str, str], why_not: str) -> str:
    place = f"{printable(kept['place'])[:60]} of {printable(kept['file'])[:200]}"
    return f"{why_not}: mend {place} and import that again"


def _json(kept: Mapping[str, str]) -> tuple[str, str | None]:
    """The text of a row without the checksum it had before, and why it cannot be read."""
    text = kept["text"].strip("\r\n")
    try:
        value: dict[str, Any] = jsonl.parsed(text)
    except jsonl.BAD_ROW:
        return text, _cut(kept)
    if "format" in value:
        return text, kept["reason"]
    if not kept["place"].startswith("line ") and not value.keys() & {"run", "task"}:
        return text, _elsewhere(kept, "this is what another program says of it")
    if "run" in value and kept["reason"] != jsonl.WRONG_CHECKSUM:
        # It is that of the row before it was mended; one that never fitted must go by hand.
        value.pop("checksum", None)
    return json.dumps(value), None


def _cut(kept: Mapping[str, str]) -> str | None:
    """Why a row can never be read, if it was too long to be kept."""
    if len(kept["text"]) != MAX_TEXT:
        return None
    return _elsewhere(kept, f"only its first {MAX_TEXT:,} characters were kept")


def _csv(file: str, header: str, lines: Iterator[Line]) -> Iterator[Found | Rejected]:
    try:
        columns = table.cells_of(header)
        if table.is_header(columns):
            yield from table.read(file, columns, lines)
        elif lrbench_csv.is_header(columns):
            yield from lrbench_csv.read(file, columns, lines)
        else:
            raise ValueError("expected a header of CSV, and its row on the next line")
    except (ExchangeError, ValueError) as error:
        reason = why(error).removeprefix(f"{printable(file)}: ")
        yield from (line.rejected(file, reason) for line in lines)
