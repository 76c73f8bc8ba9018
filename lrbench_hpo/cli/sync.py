"""``db stats`` and ``db sync``: what the database holds, and the runs that wait to be stored."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

from lrbench_hpo.cli import filters, options, tables
from lrbench_hpo.cli.messages import print_error
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.journal import other_files, user_folder
from lrbench_hpo.database.run_store import RunStore, waiting_files
from lrbench_hpo.records.run import Run

STILL_WAITING = 1
_UNREADABLE = "waiting-*.unreadable"


@click.command()
@options.database
@filters.as_json
def stats(database: str | None, as_json: bool) -> None:
    """What the database holds, and which runs wait to be stored."""
    with connect(database) as db:
        files = waiting_files(database)
        if as_json:
            waiting = {str(path): runs for path, runs in files}
            click.echo(json.dumps({**dataclasses.asdict(db.stats()), "waiting": waiting}, indent=2))
            return
        tables.console().print(_stats_table(db))
    for line in _waiting_lines(files):
        click.echo(line)


def _stats_table(database: Database) -> Table:
    stats = database.stats()
    size = "-" if stats.size_bytes is None else f"{stats.size_bytes / 1024:,.0f} KiB"
    rows = [
        ("location", stats.location),
        ("size", size),
        ("schema version", str(stats.schema_version)),
        ("runs", f"{stats.runs:,}"),
        ("tasks", f"{stats.tasks:,}"),
        ("LR range tests", f"{stats.range_tests:,}"),
        *((f"runs from {source}", f"{count:,}") for source, count in stats.by_source.items()),
        *((f"runs {status}", f"{count:,}") for status, count in stats.by_status.items()),
    ]
    return tables.table("LR database", ("what", ">value"), rows)


def _waiting_lines(files: Sequence[tuple[Path, int]]) -> list[str]:
    """The runs that wait in each file, and the command that stores them, one line each."""
    lines = [f"{_counted(runs)} wait{'s' * (runs == 1)} in {path}" for path, runs in files]
    return [*lines, "store them with: lrbench-hpo db sync"] if lines else []


def _counted(runs: int) -> str:
    return f"{runs:,} run{'s' * (runs != 1)}"


@click.command()
@options.database
def sync(database: str | None) -> None:
    """Store the runs that wait in local files.

    They wait there because the database was unavailable when they were measured. The next search
    stores them, too. The exit status is 1 if some still wait.
    """
    before = waiting_files(database)
    if not before:
        click.echo("nothing waits for this database")
        for path in other_files():
            click.echo(f"runs wait for another one, or under another name of it, in {path}")
        return
    for line in _waiting_lines(before)[:-1]:
        click.echo(line)
    tried: set[str] = set()
    earlier = set(user_folder().glob(_UNREADABLE))

    def note_as_tried(_: Database, run: Run) -> bool:
        tried.add(run.uid)
        return False

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = RunStore(database, already=note_as_tried).close()
    for reason in dict.fromkeys(str(warning.message) for warning in caught):
        print_error(reason)
    unreadable = set(user_folder().glob(_UNREADABLE)) - earlier
    for path in sorted(unreadable):
        click.echo(f"lines that cannot be read are kept in {path}", err=True)
    left = waiting_files(database)
    waits = sum(runs for _, runs in left)
    click.echo(
        f"{_counted(0 if kept else len(tried))} stored, {waits:,} still wait{'s' * (waits == 1)}"
    )
    if not kept:
        for path, runs in left:  # the file of a live process is never taken from it
            click.echo(f"{_counted(runs)} in {path}: held by a search that runs, which stores them")
    if left or unreadable:
        sys.exit(STILL_WAITING)
