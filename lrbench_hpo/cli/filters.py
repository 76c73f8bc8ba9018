"""Options that choose runs, and the form of what is printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from lrbench_hpo.records.run import utc_timestamp

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DAY = re.compile(r"\d{4}-\d\d-\d\d")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def moment(value: str | None, *, end_of_day: bool = False) -> str | None:
    """Parse a time of the command line, where a day alone is a day of UTC.

    >>> moment("2026-03-01"), moment("2026-03-01", end_of_day=True)
    ('2026-03-01T00:00:00.000000Z', '2026-03-02T00:00:00.000000Z')
    """
    if value is None or not _DAY.fullmatch(value):
        return None if value is None else utc_timestamp(value)
    try:
        start = datetime.fromisoformat(value).replace(tzinfo=UTC)
        return utc_timestamp(start + timedelta(days=end_of_day))
    except (ValueError, OverflowError):
        return utc_timestamp(value)  # which refuses it


def _since(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return moment(value)


def _until(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return moment(value, end_of_day=True)


_RUNS: Sequence[Callable[[Any], Any]] = (
    click.option("--dataset", help="Of this data set."),
    click.option("--model", help="Of this model."),
    click.option("--function", help="With this LR function."),
    click.option("--source", help="Measured by this source, exactly."),
    click.option("--status", help="complete, pruned, diverged or failed."),
    click.option(
        "--since", callback=_since, help="From this day (UTC) or time (ISO 8601, with a zone) on."
    ),
    click.option(
        "--until", callback=_until, help="Up to the end of this day (UTC), or before this time."
    ),
)


def runs(command: _Command) -> _Command:
    """Add the options that choose runs, named as the arguments of `Database.find`."""
    for decorate in reversed(_RUNS):
        command = decorate(command)
    return command
