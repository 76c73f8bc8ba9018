"""Runs as CSV for a spreadsheet: one row a run, the same columns always, and exactly back again."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lrbench_hpo.checks import printable
from lrbench_hpo.database.origins import Origin
from lrbench_hpo.errors import RecordError, why
from lrbench_hpo.exchange.files import MAX_LINE, Line
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW, checked_run, parsed
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import COSTS, KNOWN_METRICS
from lrbench_hpo.records.run import Run, Task

_TEXT, _NUMBER, _JSON = "text", "number", "JSON"
_TEXTS = {"dataset", "model", "framework", "optimizer", "init"}
_OTHERS = "others"  # the column of metrics and costs that have none of their own, as JSON


def _task_kind(name: str) -> str:
    return _JSON if name == "image_shape" else _TEXT if name in _TEXTS else _NUMBER


def _policy_kind(name: str) -> str:
    # NSTEP's l is a list, which is JSON, as its numbers are.
    return {"function": _TEXT, "parts": _JSON, "l": _JSON}.get(name, _NUMBER)


_FLAT: Mapping[str, str] = {
    **{f"task.{name}": _task_kind(name) for name in Task("any", "any").to_dict()},
    **{f"policy.{name}": _policy_kind(name) for name in LRPolicy("FIX", k0=1.0).to_dict()},
    "max_iterations": _NUMBER,
    "seed": _NUMBER,
    "split": _TEXT,
    "status": _TEXT,
    **{f"metrics.{name}": _NUMBER for name in KNOWN_METRICS},
    f"metrics.{_OTHERS}": _JSON,
    **{f"cost.{name}": _NUMBER for name in COSTS},
    f"cost.{_OTHERS}": _JSON,
    "source": _TEXT,
    "created_at": _TEXT,
    "environment": _JSON,
    "notes": _JSON,
    "origin": _JSON,
    "curve": _JSON,
}
_NEEDED = ("task.dataset", "task.model", "policy.function", "max_iterations", "created_at")
_NULL = "null"  # a metric that was measured and came out as no number; an empty cell: none such

# What a spreadsheet would run, also after blanks, and what stands in front of it here.
_RUNS = re.compile(r"['\s]*[=+\-@\t\r＝＋－＠﹢﹣﹦﹫]")
_SHIELD = "'"
# Stricter than the csv module, which takes the second half of a broken row for a whole one.
_ENTRY = r'(?:"(?:[^"]++|"")*+"|[^",]*+)'
_ROW = re.compile(f"{_ENTRY}(?:,{_ENTRY})*+")
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+(\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def shielded(text: str) -> str:
    """Text that no spreadsheet takes for a formula.

    >>> shielded("=1+1"), shielded("mnist")
    ("'=1+1", 'mnist')
    """
    return _SHIELD + text if _RUNS.match(text) else text


def unshielded(cell: str) -> str:
    """The inverse of `shielded`, exactly.

    >>> unshielded("'=1+1"), unshielded("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith(_SHIELD) and _RUNS.match(cell[1:]) else cell


def header(*, curves: bool = True) -> str:
    """The line of column names."""
    return _line(_columns(curves))


def line_of(run: Run, origin: Origin | None, *, curves: bool = True) -> str:
    """The line of a run, without its end."""
    fields = run.to_dict()
    cells: dict[str, Any] = {name: fields[name] for name in _FLAT if name in fields}
    cells |= {f"task.{name}": value for name, value in fields["task"].items()}
    cells |= {f"policy.{name}": value for name, value in fields["policy"].items()}
    for kind, known in (("metrics", KNOWN_METRICS), ("cost", COSTS)):
        given = fields[kind]
        own = {name: given[name] for name in known if name in given}
        cells |= {f"{kind}.{name}": _NULL if v is None else v for name, v in own.items()}
        cells[f"{kind}.{_OTHERS}"] = {n: v for n, v in given.items() if n not in own}
    cells["origin"] = None if origin is None else origin.to_dict()
    return _line([_cell(_FLAT[name], cells.get(name)) for name in _columns(curves)])


def _columns(curves: bool) -> list[str]:
    return [name for name in _FLAT if curves or name != "curve"]


def _line(cells: Sequence[str]) -> str:
    made = io.StringIO()
    csv.writer(made, lineterminator="").writerow(cells)
    return made.getvalue()


def _cell(kind: str, value: Any) -> str:
    if value is None or value == {} or value == []:
        return ""
    if kind == _TEXT:
        return shielded(value)
    if kind == _NUMBER:
        return value if value == _NULL else repr(value)
    return json.dumps(value, allow_nan=False)


def cells_of(text: str) -> list[str]:
    """The cells of a line, each row being one line.

    Raises:
        ValueError: for a line that is no row of CSV.
    """
    if not _ROW.fullmatch(text):
        if text.count('"') % 2:
            raise ValueError("a quoted cell does not end on its line, or begins on another")
        raise ValueError("not CSV: a quote in the middle of a cell")
    if csv.field_size_limit() < MAX_LINE:
        csv.field_size_limit(MAX_LINE)
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def is_header(cells: Sequence[str]) -> bool:
    """Whether a file's first row names columns of `header`."""
    return any(name.strip() in _FLAT and "." in name for name in cells)


def read(
    file: str, columns: Sequence[str], lines: Iterable[Line | Rejected]
) -> Iterator[Found | Rejected]:
    """The runs in the lines below a header.

    Args:
        file: its name.
        columns: the cells of its header.
        lines: of `InputFile.lines`, without the header.

    Raises:
        ExchangeError: for columns that are unknown, missing or there twice, before any row.
    """
    names = [name.strip() for name in columns]
    _check_columns(file, names)
    for line in lines:
        if isinstance(line, Rejected):
            yield line
            continue
        try:
            cells = cells_of(line.text)
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise ValueError(f"expected {len(names)} cells, got {len(cells)}")
            yield _found(dict(zip(names, cells, strict=True)), line.place)
        except BAD_ROW as error:
            yield line.rejected(file, why(error))


def _check_columns(file: str, names: Sequence[str]) -> None:
    shown = printable(file)
    for name in names:
        if names.count(name) > 1:
            raise ExchangeError(f"{shown}: the column {name[:60]!r} is there twice")
        if name not in _FLAT and not name.startswith(("metrics.", "cost.")):
            near = difflib.get_close_matches(name, _FLAT, n=1)
            guess = f": did you mean {near[0]}?" if near else ""
            hint = f"{guess} `db export` shows which there are"
            raise ExchangeError(f"{shown}: unknown column {name[:60]!r}{hint}")
    for name in _NEEDED:
        if name not in names:
            raise ExchangeError(f"{shown}: no column {name}: a run needs {', '.join(_NEEDED)}")


def _found(cells: Mapping[str, str], place: str) -> Found:
    fields: dict[str, Any] = {"task": {}, "policy": {}, "metrics": {}, "cost": {}}
    origin = None
    for name, cell in cells.items():
        if not cell:
            continue
        kind, _, entry = name.partition(".")
        null = cell == _NULL and kind in ("metrics", "cost") and entry != _OTHERS
        value = None if null else _READ[_FLAT.get(name, _NUMBER)](name, cell)
        if name == "origin":
            origin = None if value is None else Origin.from_dict(value)
        elif entry:
            _add(fields[kind], name, value if entry == _OTHERS else {entry: value})
        else:
            fields[name] = value
    return Found(checked_run(fields), origin, place)


def _add(known: dict[str, Any], name: str, more: Any) -> None:
    if not isinstance(more, dict):
        raise RecordError(f"{name}: expected a JSON object")
    for key in more:
        if key in known:
            raise RecordError(f"{name}: {key[:60]!r} is there twice")
    known.update(more)


def _number(name: str, cell: str) -> float:
    if not (match := _PLAIN_NUMBER.fullmatch(cell)):
        raise ValueError(f"{name}={cell[:60]!a}: expected a number, as 0.5 or 1e-4")
    if len(cell) > 40:
        raise ValueError(f"{name}: a number of {len(cell)} characters: expected at most 40")
    if cell.lstrip("+-").isdigit():
        return int(cell)
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"{name}={match[0]}: larger than any number a database holds")
    return value


def _json(name: str, cell: str) -> Any:
    try:
        return parsed(cell)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


_READ: Mapping[str, Callable[[str, str], Any]] = {
    _TEXT: lambda _, cell: unshielded(cell),
    _NUMBER: _number,
    _JSON: _json,
}
