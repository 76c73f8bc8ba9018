"""The numbers of one training log, whatever wrote it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrbench_hpo.errors import MissingExtraError, RecordError
from lrbench_hpo.exchange import folders

MAX_SERIES = 1_000  # names in a log
MAX_POINTS = 1_000_000  # values of a name
MAX_VALUES = 5_000_000  # of a log


@dataclass
class Log:
    """What was logged: for each name its values by step, in order.

    Attributes:
        values: values by step, by name; a CSV's counting columns are among them.
        is_table: whether names are columns of a table, which counts steps itself.
        began: seconds since 1970 at its first entry, if it has one.
        count: entries that were read.
    """

    values: dict[str, dict[int, float]]
    is_table: bool
    began: float | None = None
    count: int = 0


def read_files(
    files: list[Path],
    is_lr: Callable[[str], bool],
    bad: Callable[[RecordError], object] = lambda error: None,
) -> Log | None:
    """The log in the files of a folder: TensorBoard's, or a CSV with a column that holds LRs.

    Args:
        files: plain files.
        is_lr: whether a name is that of a learning rate.
        bad: called with what is wrong with a CSV whose header cannot be read.

    Raises:
        RecordError: for several logs in one folder, or one that cannot be read.
        MissingExtraError: for TensorBoard's without tensorboard.
    """
    events = [file for file in files if ".tfevents." in file.name]
    if events:
        return read_events(events)
    tables = [file for file in files if file.suffix.lower() == ".csv"]
    fitting = [file for file in tables if any(map(is_lr, _header(file, bad)))]
    if len(fitting) > 1:
        fitting = [file for file in fitting if file.name == "metrics.csv"] or fitting
    if len(fitting) > 1:
        names = ", ".join(file.name for file in fitting[:5])
        raise RecordError(f"several logs with learning rates ({names}): give the file itself")
    return read_csv(fitting[0]) if fitting else None


def _header(file: Path, bad: Callable[[RecordError], object]) -> list[str]:
    try:
        first = next(folders.lines(file), "").removeprefix("\ufeff")
        return next(csv.reader([first]), [])
    except RecordError as error:
        bad(error)
    except csv.Error as error:
        bad(RecordError(f"{file.name}: line 1: not CSV: {error}"))
    return []


def read_csv(file: Path) -> Log:
    """The columns of a CSV, each by the number of its row.

    Raises:
        RecordError: for a file that is no such table.
    """
    rows = csv.reader(_unmarked(folders.lines(file)), strict=True)
    values: dict[str, dict[int, float]] = {}
    count = 0
    try:
        names = [name.strip() for name in next(rows, [])]
        if len(names) > MAX_SERIES or len(set(names)) < len(names):
            raise RecordError(f"{file.name}: expected at most {MAX_SERIES} columns, each once")
        for number, row in enumerate(rows):
            if number >= MAX_POINTS:
                raise RecordError(f"{file.name}: more than {MAX_POINTS:,} rows")
            for name, cell in zip(names, row, strict=False):
                if (value := _number(cell)) is not None:
                    values.setdefault(name, {})[number] = value
                    count += 1
            if count > MAX_VALUES:
                raise RecordError(f"{file.name}: more than {MAX_VALUES:,} values")
    except csv.Error as error:
        raise RecordError(f"{file.name}: line {rows.line_num}: not CSV: {error}") from None
    return Log(values, is_table=True)


def _unmarked(lines: Iterator[str]) -> Iterator[str]:
    """The lines without the mark that spreadsheets put before the first."""
    for index, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if index == 0 else line


def _number(cell: str) -> float | None:
    text = cell.strip()
    if not text or len(text) > 40:
        return None
    try:
        return float(text.removeprefix("tensor(").removesuffix(")"))
    except ValueError:
        return None


def read_events(files: list[Path]) -> Log:
    """The scalars of TensorBoard event files of one run.

    Raises:
        RecordError: for a file that is too large, or damaged beyond reading.
        MissingExtraError: when tensorboard is not installed.
    """
    with MissingExtraError.unless_installed("tensorboard", "logs"):
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    size = sum(file.stat().st_size for file in files)
    if size > folders.MAX_LARGE:
        raise RecordError(f"event files of more than {folders.MAX_LARGE // 2**30} GiB")
    log = Log({}, is_table=False)
    for file in files:
        try:
            for event in EventFileLoader(str(file)).Load():
                _note(log, event)
        except RecordError:
            raise
        except Exception as error:  # whatever protobuf says of bytes that are no events
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RecordError(f"{file.name}: cannot be read: {reason}") from None
    return log


def _note(log: Log, event: Any) -> None:
    if log.began is None and math.isfinite(event.wall_time) and event.wall_time > 0:
        log.began = event.wall_time
    for value in event.summary.value:
        number = _scalar(value)
        if number is None:
            continue
        if value.tag not in log.values and len(log.values) >= MAX_SERIES:
            raise RecordError(f"more than {MAX_SERIES} scalars in one log")
        series = log.values.setdefault(value.tag, {})
        # A run that was resumed logs some steps again: the later value counts.
        series.pop(event.step, None)
        series[event.step] = number
        log.count += 1
        if len(series) > MAX_POINTS or log.count > MAX_VALUES:
            raise RecordError(f"more than {MAX_POINTS:,} values of one scalar, or too many in all")


def _scalar(value: Any) -> float | None:
    """A scalar, which the loader has made a tensor of."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    tensor = value.tensor
    for numbers, width in ((tensor.float_val, "<f4"), (tensor.double_val, "<f8")):
        if len(numbers) == 1:
            return float(numbers[0])
        if tensor.dtype == {"<f4": 1, "<f8": 2}[width] and tensor.tensor_content:
            import numpy as np

            found = np.frombuffer(tensor.tensor_content, dtype=width)
            return float(found[0]) if len(found) == 1 else None
    return None
