"""``db sync``: what waited for the database is stored now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrbench_hpo.cli import options

if TYPE_CHECKING:
    from lrbench_hpo.database import Database
    from lrbench_hpo.records.run import Run

STILL_WAITING = 1
_UNREADABLE = "waiting-*.unreadable"


def waiting_lines(files: Sequence[tuple[Path, int]]) -> list[str]:
    """What waits in which file, and the command that stores it, one line each."""
    lines = [f"{counted(runs)} wait{'s' * (runs == 1)} in {path}" for path, runs in files]
    return [*lines, "store them with: lrbench-hpo db sync"] if lines else []


def counted(runs: int) -> str:
    """So many runs, in words."""
    return f"{runs:,} run{'s' * (runs != 1)}"


@click.command()
@options.database
def sync(database: str | None) -> None:
    """Store the runs that wait in local files because the database was away.

    They follow by themselves with the next search, too. The exit status is 1 if some still wait.
    """
    from lrbench_hpo.database.journal import other_files, user_folder
    from lrbench_hpo.database.run_store import RunStore, waiting_files

    before = waiting_files(database)
    if not before:
        click.echo("nothing waits for this database")
        for path in other_files():
            click.echo(f"runs wait for another one, or under another name of it, in {path}")
        return
    for line in waiting_lines(before)[:-1]:
        click.echo(line)
    tried: set[str] = set()
    earlier = set(user_folder().glob(_UNREADABLE))

    def counts(_: Database, run: Run) -> bool:
        tried.add(run.uid)
        return False

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = RunStore(database, already=counts).close()
    for reason in dict.fromkeys(str(warning.message) for warning in told):
        click.echo(f"lrbench-hpo: {reason}", err=True)
    unreadable = set(user_folder().glob(_UNREADABLE)) - earlier
    for path in sorted(unreadable):
        click.echo(f"lines that cannot be read are kept in {path}", err=True)
    left = waiting_files(database)
    waits = sum(runs for _, runs in left)
    click.echo(
        f"{counted(0 if kept else len(tried))} stored, {waits:,} still wait{'s' * (waits == 1)}"
    )
    if not kept:
        for path, runs in left:  # nobody may take a file from a process that is alive
            click.echo(f"{counted(runs)} in {path}: held by a search that runs, which stores them")
    if left or unreadable:
        sys.exit(STILL_WAITING)
