"""How rows came into a database: who stored them, when, with which version, from which file."""

from __future__ import annotations

import dataclasses
import getpass
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any, Self

import sqlalchemy as sa

from lrbench_hpo import checks
from lrbench_hpo.database import tables
from lrbench_hpo.database.dialects import AT_ONCE, TRIES, insert_new
from lrbench_hpo.database.failures import BadRowError, OnBadRow, left_out, vanished
from lrbench_hpo.errors import LRBenchError, why
from lrbench_hpo.records.run import utc_timestamp

MAX_STEPS = 8  # origins before an origin that are kept


@dataclass(frozen=True)
class Origin:
    """One step on a run's way into a database.

    Args:
        who: user and host.
        at: when, in UTC; the day where nothing was imported, so that a machine's runs share one.
        version: of this package.
        file: what the runs were imported from: a file, or a URL without its password.
        checksum: SHA-256 of that file, in hexadecimal.
        before: the origin that the file itself gave.

    Raises:
        RecordError: for a value of the wrong type, or a longer way than is kept.

    >>> Origin("ann@lab", "2026-03-01T00:00:00Z", "0.1.0", file="runs.jsonl").file
    'runs.jsonl'
    """

    who: str
    at: str
    version: str
    file: str | None = None
    checksum: str | None = None
    before: Origin | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", utc_timestamp(self.at))
        for name in ("who", "version", "checksum"):
            if (value := getattr(self, name)) is not None or name != "checksum":
                checks.name(f"origin.{name}", value)
        if self.file is not None:
            checks.text("origin.file", self.file)
        if self.before is not None and not isinstance(self.before, Origin):
            checks.refuse("origin.before", self.before, "expected an Origin")
        if len(self.steps) > MAX_STEPS:
            rule = f"expected at most {MAX_STEPS} steps, from database to database"
            checks.refuse("origin.before", len(self.steps), rule)

    @classmethod
    def here(
        cls, file: str | None = None, checksum: str | None = None, before: Origin | None = None
    ) -> Self:
        """The origin of what this process stores now; an over-long way loses its oldest steps."""
        now = datetime.now(UTC)
        if file is None:
            now = now.replace(hour=0, minute=0, second=0, microsecond=0)
        steps = before.steps[: MAX_STEPS - 1] if before is not None else ()
        before = None
        for step in reversed(steps):
            before = dataclasses.replace(step, before=before)
        return cls(_who(), utc_timestamp(now), _version(), file, checksum, before)

    @property
    def steps(self) -> tuple[Origin, ...]:
        """This origin and those before it, newest first."""
        found, step = [self], self.before
        while step is not None:
            found.append(step)
            step = step.before
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "before": None if self.before is None else self.before.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; null is the same as absent.

        Raises:
            RecordError: for an unknown key or a bad value.
        """
        checks.shallow("origin", data, MAX_STEPS + 1)
        values = checks.known_fields("origin", data, cls, ("who", "at", "version"))
        if "before" in values:
            values["before"] = Origin.from_dict(values["before"])
        return cls(**values)

    @cached_property
    def uid(self) -> str:
        """Content hash."""
        return checks.content_hash(self.to_dict())


@cache
def _version() -> str:
    return version("lrbench-hpo")


@cache
def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    name = f"{user}@{socket.gethostname()}"
    return "".join(char if char.isprintable() else "?" for char in name)[: checks.MAX_NAME]


def origin_id(connection: sa.Connection, origin: Origin) -> int:
    """The key of an origin's row, which is made if it is not there."""
    table = tables.origins
    known = sa.select(table.c.id).where(table.c.uid == origin.uid)
    if (key := connection.scalar(known)) is not None:
        return int(key)
    before = None if origin.before is None else origin_id(connection, origin.before)
    fields = {name: value for name, value in origin.to_dict().items() if name != "before"}
    row = {**fields, "uid": origin.uid, "before_id": before}
    for _ in range(TRIES):
        connection.execute(insert_new(connection, table).values(row))
        if (key := connection.scalar(known)) is not None:
            return int(key)
    raise vanished("an origin")


def origins_by_id(
    connection: sa.Connection, ids: Iterable[int | None], on_bad: OnBadRow | None = None
) -> dict[int, Origin]:
    """Origins by their keys, with all before them; one that breaks a rule is left out."""
    table = tables.origins
    rows: dict[int, sa.RowMapping] = {}
    wanted = {key for key in ids if key is not None}
    while wanted:
        some = sorted(wanted)[:AT_ONCE]
        found = connection.execute(sa.select(table).where(table.c.id.in_(some))).mappings()
        rows |= {row["id"]: row for row in found}
        before = {rows[key]["before_id"] for key in some if key in rows} - {None}
        wanted = (wanted - set(some)) | (before - rows.keys())
    known: dict[int, Origin] = {}
    for key in sorted(rows):  # an origin's row is made after that of the one before it
        with left_out(on_bad):
            known[key] = _origin_of(rows[key], known)
    return known


def _origin_of(row: sa.RowMapping, known: Mapping[int, Origin]) -> Origin:
    fields = {name: row[name] for name in ("who", "at", "version", "file", "checksum")}
    try:
        return Origin(**fields, before=known.get(row["before_id"]))
    except LRBenchError as error:
        raise BadRowError(f"origin {row['id']}", why(error)) from None
