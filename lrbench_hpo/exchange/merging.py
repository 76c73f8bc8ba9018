"""The runs of one LR database in another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

from lrbench_hpo.checks import printable
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import database_url, sqlite_file, without_password
from lrbench_hpo.database.queries import Filters
from lrbench_hpo.exchange.importing import ImportReport, import_rows
from lrbench_hpo.exchange.rows import ExchangeError, Found, Progress, Rejected


def merge(
    database: Database,
    other: Database,
    *,
    source: str | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Store the runs of another database, with their curves, in this one.

    It can be done again at any time: a run is stored once. SQLite and PostgreSQL mix freely. Rows
    of the other one that break a rule, as only other programs can write, are rejected.

    Args:
        database: where to.
        other: where from; it is only read.
        source: the source to store all runs under, but for the published ones.
        progress: called with the number of runs done.

    Raises:
        ExchangeError: for a database and itself.
        DatabaseError: when one of them fails; the batches before it are stored.
    """
    if database is other or database.identity() == other.identity():
        raise ExchangeError(f"{shown(other.url)}: this is the database itself: name another one")
    name = _name(other)
    return import_rows(
        database,
        stored_runs(other, name),
        file=name,
        checksum=None,
        source=source,
        progress=progress,
    )


def _name(other: Database) -> str:
    url = without_password(other.url.render_as_string(hide_password=False))
    file = sqlite_file(other.url)
    return str(file if file is not None else url)


def connect_other(location: str) -> Database:
    """Open a database to be read; one that is not there is not made.

    Raises:
        DatabaseError: for one that cannot be opened, or is of another version.
        ExchangeError: for a file that is not there.
    """
    file = sqlite_file(database_url(location))
    if file is not None and not file.exists():
        raise ExchangeError(f"{printable(str(file))}: no such file: expected an LR database")
    return connect(location, migrated=False)


def stored_runs(
    database: Database, name: str, *, curves: bool = True, **filters: Unpack[Filters]
) -> Iterator[Found | Rejected]:
    """The runs that match all filters, in the order they were stored, and the bad rows.

    Args:
        database: where from.
        name: what bad rows call it.
        curves: whether to read learning curves too.
        filters: those of `Database.find`.

    Raises:
        LRBenchError: as `Database.stored`.
    """
    bad: list[Rejected] = []

    def reject(place: str, reason: str) -> None:
        bad.append(Rejected(name, place, reason))

    stored = database.stored(curves=curves, on_bad=reject, **filters)
    for number, (run, origin) in enumerate(stored, 1):
        yield from bad
        bad.clear()
        yield Found(run, origin, f"run {number}")
    yield from bad
