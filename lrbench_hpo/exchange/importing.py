"""Import of third-party rows into a database: checked, stored once, bad ones kept in a file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lrbench_hpo import checks
from lrbench_hpo.checks import printable
from lrbench_hpo.database import Database, Origin
from lrbench_hpo.database.paper import claims_paper, published_uids
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.quarantine import Quarantine
from lrbench_hpo.exchange.rows import MOST_SHOWN, ExchangeError, Found, Progress, Rejected
from lrbench_hpo.records.run import Run, own_source, utc_timestamp

BATCH = 300  # runs in a transaction
_MOST_POINTS = 100_000  # of curves in memory, waiting for their batch
_EVERY = 50  # rows between two signs of progress
_AHEAD = timedelta(days=1)  # of our clock: that much another one may be wrong


@dataclass
class ImportReport:
    """What became of the rows of a file.

    Attributes:
        file: the file or URL, as it was given.
        new: rows that were stored.
        known: good rows that were there already.
        rejected: bad rows.
        quarantine: the file that holds the bad rows; None when there are none.
        reasons: the first bad row for each reason, as many as a person reads.
        alike: bad rows for each of these reasons.
        own: good rows under the source of the user's own runs.
        unkept: why the bad rows could not be kept, if they could not.
        interrupted: whether Ctrl-C ended it; what is counted here is done.
    """

    file: str
    new: int = 0
    known: int = 0
    rejected: int = 0
    quarantine: Path | None = None
    reasons: list[Rejected] = dataclasses.field(default_factory=list)
    alike: Counter[str] = dataclasses.field(default_factory=Counter)
    own: int = 0
    unkept: str | None = None
    interrupted: bool = False

    @property
    def good(self) -> int:
        """Rows without a fault."""
        return self.new + self.known


def import_rows(
    database: Database | None,
    rows: Iterable[Found | Rejected],
    *,
    file: str,
    checksum: str | None,
    source: str | None = None,
    progress: Progress | None = None,
    quarantine: Quarantine | None = None,
) -> ImportReport:
    """Store the good rows, a few hundred at a time, and keep the bad ones in a file.

    It can be done again at any time: a run is stored once. Ctrl-C ends it after a whole batch.

    Args:
        database: where to; None only checks the rows, which all count as new then.
        rows: of a reader.
        file: what the rows come from, for their origin: a file, or a URL without its password.
        checksum: SHA-256 of the file.
        source: the source to store all rows under, but for the published ones.
        progress: called with the number of rows done.
        quarantine: where bad rows go; a file in the user's data folder when None.

    Raises:
        RecordError: for a `source` that is no name.
        ExchangeError: for a `source` that is the paper's, or a file that cannot be read at all.
        DatabaseError: when a batch could not be stored; those before it are.
    """
    source = None if source is None else checked_source(source)
    report = ImportReport(file)
    latest = utc_timestamp(datetime.now(UTC) + _AHEAD)
    own = Quarantine.of_file(file, checksum) if quarantine is None else nullcontext(quarantine)
    with own as kept:
        batches = _Batches(database, report, checksum)
        try:
            for number, row in enumerate(rows, 1):
                checked = _validated(row, source, file, latest) if isinstance(row, Found) else row
                if isinstance(checked, Found):
                    batches.add(checked)
                else:
                    _reject(checked, report, kept)
                if progress is not None and number % _EVERY == 0:
                    progress(number)
            batches.flush()
        except KeyboardInterrupt:
            report.interrupted = True
    report.unkept = kept.failure
    report.quarantine = kept.path if report.rejected and not kept.failure else None
    return report


def checked_source(source: str) -> str:
    """A source that imported rows may be stored under.

    Raises:
        RecordError: for something that is no name, or two of them.
        ExchangeError: for the paper's.
    """
    if "," in checks.name("source", source):
        checks.refuse("source", source, "a comma stands between sources (--trust a,b): name one")
    if claims_paper(source):
        raise ExchangeError(f"source={source!r}: is the published rows' alone: name another")
    return source


def _validated(row: Found, source: str | None, file: str, latest: str) -> Found | Rejected:
    """The row under the source it belongs to, if it was not made after `latest`."""
    if row.run.uid in published_uids():
        return row  # published rows are recognized wherever they come from
    if claims_paper(row.run.source):
        reason = f"source={row.run.source!r}, but it is none of the paper's rows"
        return Rejected(file, row.place, reason, jsonl.line_of(row.run, row.origin))
    if row.run.created_at > latest:  # it would be the newest of all until then
        reason = f"run.created_at={row.run.created_at!r}: more than a day ahead of this clock"
        return Rejected(file, row.place, reason, jsonl.line_of(row.run, row.origin))
    if source is None or source == row.run.source:
        return row
    return dataclasses.replace(row, run=dataclasses.replace(row.run, source=source))


def _reject(row: Rejected, report: ImportReport, kept: Quarantine) -> None:
    report.rejected += 1
    if row.reason not in report.alike and len(report.reasons) < MOST_SHOWN:
        report.reasons.append(row)
        report.alike[row.reason] = 0
    if row.reason in report.alike:
        report.alike[row.reason] += 1
    kept.add(row)


class _Batches:
    """Good rows, until there are enough of them for a transaction."""

    def __init__(
        self, database: Database | None, report: ImportReport, checksum: str | None
    ) -> None:
        self._database, self._report = database, report
        name = printable(report.file)[: checks.MAX_TEXT]
        self._origin = Origin.here(file=name, checksum=checksum)
        self._rows: list[tuple[Run, Origin | None]] = []
        self._origins: dict[Origin | None, Origin] = {}
        self._points = 0

    def add(self, row: Found) -> None:
        """Take a row, and store what is waiting if it is enough."""
        if row.origin not in self._origins:
            self._origins[row.origin] = self._behind(row.origin)
        self._rows.append((row.run, self._origins[row.origin]))
        self._points += len(row.run.curve)
        if len(self._rows) >= BATCH or self._points >= _MOST_POINTS:
            self.flush()

    def flush(self) -> None:
        """Store what is waiting, in one transaction."""
        waiting, self._rows = self._rows, []
        self._origins, self._points = {}, 0
        new = len(waiting) if self._database is None else self._stored(self._database, waiting)
        self._report.new += new
        self._report.known += len(waiting) - new
        self._report.own += sum(run.source == own_source() for run, _ in waiting)

    def _behind(self, before: Origin | None) -> Origin:
        if before is None:
            return self._origin
        here = Origin.here(self._origin.file, self._origin.checksum, before)
        # One moment for the whole file, so that rows of one origin share one here too.
        return dataclasses.replace(here, at=self._origin.at)

    def _stored(self, database: Database, rows: list[tuple[Run, Origin | None]]) -> int:
        try:
            return database.add_from(rows)
        except DatabaseError as error:
            done = f"{self._report.good} runs of {self._origin.file} are stored"
            raise DatabaseError(f"{error} ({done}; the same command goes on)") from None
