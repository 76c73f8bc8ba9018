"""``db export``, ``db import`` and ``db merge``: share results with others."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from lrbench_hpo.cli import filters, options
from lrbench_hpo.cli.exchange_output import Bar, show_export, show_import
from lrbench_hpo.cli.messages import print_error
from lrbench_hpo.database import Database, connect
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.exchange.export import export
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import ImportReport, checked_source, import_rows
from lrbench_hpo.exchange.merging import connect_other, merge
from lrbench_hpo.exchange.quarantine import Quarantine
from lrbench_hpo.exchange.rows import ExchangeError
from lrbench_hpo.exchange.shipped import import_measured

_source = click.option(
    "--source", metavar="NAME", help="Store all rows under this source, except the published ones."
)


@click.command("export")
@click.argument("file")
@options.database
@filters.runs
@click.option("--no-curves", is_flag=True, help="Leave the learning curves out.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def export_command(
    file: str, database: str | None, no_curves: bool, force: bool, **chosen: Any
) -> None:
    """Write runs to FILE, for others to import.

    FILE is .jsonl or .csv, also with .gz; - is stdout. Both keep all of a run and its origin; CSV
    opens in a spreadsheet, too. Rows of the database that break a rule are reported and left out;
    the exit status is 1 then.
    """
    with connect(database) as db, Bar("runs written") as bar:
        report = export(db, file, curves=not no_curves, force=force, progress=bar.at, **chosen)
    sys.exit(show_export(report))


@click.command("import")
@click.argument("files", nargs=-1, metavar="FILE...")
@options.database
@_source
@click.option(
    "--measured", is_flag=True, help="Store the runs that come with lrbench-hpo, instead of files."
)
@click.option("--rejected", metavar="FILE", help="Keep bad rows in FILE, not in the data folder.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=2 * 2**30,
    show_default=True,
    help="How long a file may be, unpacked.",
)
@click.option("--dry-run", is_flag=True, help="Only check the rows; store and keep nothing.")
def import_command(
    files: tuple[str, ...],
    database: str | None,
    source: str | None,
    measured: bool,
    rejected: str | None,
    max_bytes: int,
    dry_run: bool,
) -> None:
    """Store the runs of files from db export, or of LRBench's CSV.

    The file - is stdin. The format is detected from the contents of a file. A run is stored once,
    however often it is imported. Bad rows are reported and kept in a file: correct their text
    there, and import that file, too. The good rows are stored in any case. The exit status is 1
    if some rows were rejected, 2 if none could be read.
    """
    if measured or not files:
        _only_measured(measured, files, source, rejected)
        sys.exit(_import_measured(database, dry_run))
    source = None if source is None else checked_source(source)
    reports: list[ImportReport] = []
    unread = 0
    with ExitStack() as stack:
        kept = _quarantine(rejected, files, keep=not dry_run)
        db = None if dry_run else stack.enter_context(connect(database))
        if kept is not None:
            stack.enter_context(kept)
        for file in files:
            try:
                reports.append(_import_one(db, file, source, max_bytes, kept))
            except ExchangeError as error:
                unread += 1
                print_error(error)
            except DatabaseError:  # ends the command; report what was imported before
                show_import(reports, unread=unread)
                raise
            if reports and reports[-1].interrupted:
                break
    sys.exit(show_import(reports, unread=unread, dry_run=dry_run))


@click.command("merge")
@click.argument("url", callback=options.no_password)
@options.database
@_source
def merge_command(url: str, database: str | None, source: str | None) -> None:
    """Store the runs of another LR database in this one.

    URL is a URL or a file. The command can be repeated at any time: a run is stored once. The other
    database is only read. Its rows that break a rule are reported and rejected; the exit status
    is 1 then.
    """
    source = None if source is None else checked_source(source)
    with ExitStack() as stack:
        other = stack.enter_context(connect_other(url))
        db = stack.enter_context(connect(database))
        bar = stack.enter_context(Bar("runs read", other.stats().runs))
        report = merge(db, other, source=source, progress=lambda runs: bar.at(runs, runs))
    sys.exit(show_import([report]))


def _only_measured(measured: bool, *others: object) -> None:
    """Refuse options that contradict each other, or name nothing to import."""
    if not measured:
        raise click.UsageError("name a file to import, - for stdin, or --measured")
    if any(others):
        raise click.UsageError("--measured goes with neither files, --source nor --rejected")


def _import_measured(database: str | None, dry_run: bool) -> int:
    with ExitStack() as stack:
        db = None if dry_run else stack.enter_context(connect(database))
        bar = stack.enter_context(Bar("measured runs"))
        reports = import_measured(db, progress=bar.at)
    status = show_import(reports, dry_run=dry_run)
    if not dry_run:
        click.echo(f"{sum(report.new for report in reports):,} new runs in all")
    return status


def _quarantine(rejected: str | None, files: tuple[str, ...], *, keep: bool) -> Quarantine | None:
    """Where bad rows are kept; None: one file for each input, in the user's data folder."""
    if not keep:
        return Quarantine(None)
    if rejected is None:
        return None
    path = Path(rejected)
    if any(path.exists() and Path(file).exists() and path.samefile(file) for file in files):
        raise click.UsageError(f"--rejected {rejected}: is one of the files to import")
    return Quarantine.chosen(path)


def _import_one(
    db: Database | None, file: str, source: str | None, max_bytes: int, kept: Quarantine | None
) -> ImportReport:
    with open_input(file, max_bytes) as opened, Bar(opened.name, opened.size) as bar:
        return import_rows(
            db,
            runs_in(opened),
            file=opened.name,
            checksum=opened.checksum,
            source=source,
            progress=lambda rows: bar.at(rows, opened.position),
            quarantine=kept,
        )
