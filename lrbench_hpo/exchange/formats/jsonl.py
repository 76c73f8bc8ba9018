"""Runs as JSON Lines: a header, then one run a line with its origin and a checksum."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, NoReturn

from lrbench_hpo import checks
from lrbench_hpo.checks import printable
from lrbench_hpo.database.origins import Origin
from lrbench_hpo.errors import LRBenchError, RecordError, why
from lrbench_hpo.exchange.files import Line
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.records.run import Run, utc_timestamp

FORMAT = "lrbench-hpo-runs"
VERSION = 1
WRONG_CHECKSUM = (
    "its checksum is wrong: the row was changed; without its checksum it is taken as it is"
)
MAX_LEVELS = 64  # of lists and mappings in a line
_MAX_DIGITS = 40  # of a whole number; a database holds 19
# To the end where a text is not closed: linear in the line, whatever is in it.
_TEXTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]++")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
# What a third-party row may raise while it is read.
BAD_ROW = (LRBenchError, ValueError, TypeError, LookupError, OverflowError, RecursionError)


def header() -> str:
    """The first line of a file that is written now."""
    here, now = Origin.here(), utc_timestamp(datetime.now(UTC))
    made = {"format": FORMAT, "version": VERSION, "lrbench_hpo": here.version}
    return _text(made | {"by": here.who, "at": now})


def line_of(run: Run, origin: Origin | None, *, curves: bool = True) -> str:
    """The line of a run.

    >>> from lrbench_hpo.policies import LRPolicy
    >>> from lrbench_hpo.records.run import Task
    >>> line_of(Run(Task("mnist", "lenet"), LRPolicy("FIX", k0=0.1), 10), None)[:30]
    '{"run":{"task":{"dataset":"mni'
    """
    fields = run.to_dict()
    if not curves:
        fields["curve"] = []
    row = {"run": fields, "origin": None if origin is None else origin.to_dict()}
    return _text(row | {"checksum": checks.content_hash(fields)})


def _text(value: object) -> str:
    # ASCII: nothing in it can break a line or a terminal.
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def read(file: str, lines: Iterable[Line | Found | Rejected]) -> Iterator[Found | Rejected]:
    """The runs in the lines of a file: those of `line_of`, or bare dicts of runs.

    Args:
        file: its name.
        lines: of `InputFile.lines`; what is a row already is passed on.

    Raises:
        ExchangeError: for a file of a newer version, before any row.
    """
    first = True
    for line in lines:
        if not isinstance(line, Line):
            yield line
            continue
        try:
            value = parsed(line.text)
            if not isinstance(value, dict):
                raise RecordError("expected a run as a JSON object: {...}")
            if "format" not in value:
                yield _found(value, line.place)
            elif (reason := _unknown_format(value)) and first:
                raise ExchangeError(f"{printable(file)}: {reason}")
            elif reason:
                yield line.rejected(file, f"{reason}; the rest is left out")
                return
        except ExchangeError:
            raise
        except BAD_ROW as error:
            yield line.rejected(file, why(error))
        first = False


def _unknown_format(header: dict[str, Any]) -> str | None:
    if header["format"] != FORMAT:
        return f"its header says {str(header['format'])[:60]!r}: expected {FORMAT!r}"
    if header.get("version") != VERSION:
        return (
            f"made by a newer lrbench-hpo (format {str(header.get('version'))[:60]}, known here: "
            f"{VERSION}): pip install --upgrade lrbench-hpo"
        )
    return None


def _found(row: dict[str, Any], place: str) -> Found:
    if "run" not in row:
        return Found(checked_run(row), None, place)
    for key in row:
        if key not in ("run", "origin", "checksum"):
            checks.refuse("row key", key, "expected run, origin and checksum")
    fields = row["run"]
    if row.get("checksum") is not None and checks.content_hash(fields) != row["checksum"]:
        raise RecordError(WRONG_CHECKSUM)
    origin = None if row.get("origin") is None else Origin.from_dict(row["origin"])
    return Found(checked_run(fields), origin, place)


def checked_run(fields: Any) -> Run:
    """A run of a third-party dict, which must have the time at which it was made.

    Raises:
        RecordError: for a bad value, or none where one is needed.
        PolicyError: for a policy that its function does not allow.
        UnknownNameError: for an unknown LR function.
    """
    if isinstance(fields, dict) and fields.get("created_at") is None:
        # Now, as a run's own default would be, made it another run at each import.
        raise RecordError("run.created_at is missing: without it, a run cannot be told from others")
    run = Run.from_dict(fields)
    _ = run.uid  # what cannot be hashed is refused here, with its line
    return run


def parsed(text: str) -> Any:
    """Third-party JSON, parsed strictly: no NaN, no key twice; digits and levels are limited.

    Raises:
        ValueError: for anything that is not JSON, or breaks a limit.

    >>> parsed('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    brackets = _NO_BRACKETS.sub("", _TEXTS.sub("", text))
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_LEVELS:
        raise ValueError(f"expected at most {MAX_LEVELS} levels of lists and mappings")
    try:
        return json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_once_each,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON: write null")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:60]} is larger than any number a database holds")
    return value


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits: expected at most {_MAX_DIGITS}")
    return int(text)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return values
