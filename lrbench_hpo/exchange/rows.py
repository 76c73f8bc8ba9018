"""What every reader of results yields: a good row, or a bad one with its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lrbench_hpo.checks import printable
from lrbench_hpo.database.origins import Origin
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.records.run import Run

MAX_TEXT = 10_000  # characters of a bad row that are kept to be looked at
MOST_SHOWN = 10  # bad rows, or reasons, that a report holds: as many as a person reads
# Part of a run's identity: a file without a time gets the same one whenever it is imported.
UNKNOWN_TIME = "1970-01-01T00:00:00Z"

Progress = Callable[[int], object]  # called now and then with the number of rows done


class ExchangeError(LRBenchError):
    """A file or database that cannot be read at all, or a file that cannot be made."""


@dataclass(frozen=True)
class Found:
    """One good row.

    Args:
        run: the run that the row describes.
        origin: the origin that the row has in the file or database that it comes from.
        place: where in the file, as in `Rejected`.
    """

    run: Run
    origin: Origin | None = None
    place: str = "a row"


@dataclass(frozen=True)
class Rejected:
    """One bad row.

    Args:
        file: the file or URL, as it was given.
        place: where in it, as ``line 7``, ``trial 12`` or ``folder run_3``.
        reason: what is wrong, in one line.
        text: the row itself; what is longer than `MAX_TEXT` is cut.
    """

    file: str
    place: str
    reason: str
    text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(" ".join(self.reason.split())))
        object.__setattr__(self, "text", self.text[:MAX_TEXT])


def numbered(rows: Iterator[Found | Rejected]) -> Iterator[Found | Rejected]:
    """The rows; equal ones are numbered by a note, so that each of them is stored."""
    seen: dict[str, int] = {}
    for row in rows:
        if isinstance(row, Found):
            uid = row.run.uid
            seen[uid] = count = seen.get(uid, 0) + 1
            if count > 1:
                notes = {**row.run.notes, "repeat": count}
                row = dataclasses.replace(row, run=dataclasses.replace(row.run, notes=notes))
        yield row
