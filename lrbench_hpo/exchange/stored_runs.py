"""The runs of a database for others: those that break a rule as bad rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Unpack

from lrbench_hpo.database import Database
from lrbench_hpo.database.queries import Filters
from lrbench_hpo.exchange.reading import Found, Rejected

_LEFT_OUT = "; it is left out"  # how `Database.stored` ends the warning of a row that breaks a rule


def stored_runs(
    database: Database, name: str, *, curves: bool = True, **filters: Unpack[Filters]
) -> Iterator[Found | Rejected]:
    """The runs that fit all that is given, in the order they were stored.

    `Database.stored` leaves a row that breaks a rule out with a warning, which nobody counts:
    here it is a bad row.

    Args:
        database: where from.
        name: what bad rows call it.
        curves: whether to read learning curves too.
        filters: those of `Database.find`.

    Raises:
        LRBenchError: as `Database.stored`.
    """
    runs, number = database.stored(curves=curves, **filters), 0
    while True:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            found = next(runs, None)
        yield from _bad_rows(name, told)
        if found is None:
            return
        number += 1
        yield Found(*found, f"run {number}")


def _bad_rows(name: str, told: list[warnings.WarningMessage]) -> Iterator[Rejected]:
    for warning in told:
        text = str(warning.message)
        if not text.endswith(_LEFT_OUT):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
            continue
        place, there, reason = text.removesuffix(_LEFT_OUT).partition(" in the database ")
        yield Rejected(name, place if there else "a row", reason if there else text)
