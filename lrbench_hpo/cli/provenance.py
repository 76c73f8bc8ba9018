"""``db origins`` and ``db forget``: where rows come from, and the end of those not trusted."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from lrbench_hpo.cli import filters, options

if TYPE_CHECKING:
    from lrbench_hpo.database import Database, Origin

NOTHING_REMOVED = 1


@click.command()
@options.database
@filters.as_json
def origins(database: str | None, as_json: bool) -> None:
    """How the runs came in: who stored them, when, with which version, from which file."""
    from lrbench_hpo.cli import tables
    from lrbench_hpo.database import connect

    with connect(database) as db:
        found = db.origins()
    if as_json:
        click.echo(json.dumps([{**o.to_dict(), "runs": runs} for o, runs in found], indent=2))
        return
    rows = [(*described(origin), f"{runs:,}") for origin, runs in found]
    columns = ("who", "when (UTC)", "version", "file", "before that", ">runs")
    tables.console().print(tables.table("How runs came in", columns, rows))


def described(origin: Origin) -> tuple[str, str, str, str, str]:
    """One origin as cells of a table: the last one tells of the origin before it."""
    before = "" if origin.before is None else f"{origin.before.who}, {origin.before.at[:10]}"
    file = origin.file or ""
    if origin.checksum:
        file += f" (SHA-256 {origin.checksum[:12]}…)"
    return origin.who, origin.at[:16].replace("T", " "), origin.version, file, before


@click.command()
@options.database
@click.option("--source", help="Remove the runs that this source measured.")
@click.option("--file", "file", help="Remove the runs imported from this file, as db origins says.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(database: str | None, source: str | None, file: str | None, yes: bool) -> None:
    """Remove the runs of one source or of one imported file, for good."""
    from lrbench_hpo.database import connect

    if (source is None) == (file is None):
        raise click.UsageError("say what to forget: --source NAME, or --file NAME")
    with connect(database) as db:
        count = db.forget(source=source, file=file, dry_run=True)
        if not count:
            raise _unknown(db, source, file)
        stats = db.stats()
        what = f"source {source!r}" if source is not None else f"file {file!r}"
        click.echo(f"{count:,} of {stats.runs:,} runs in {stats.location} are of {what}")
        if not yes:
            copy = "" if source is None else f" --source {shlex.quote(source)}"
            click.echo(f"this keeps a copy: lrbench-hpo db export copy.jsonl.gz{copy}")
            if not click.confirm("remove them for good?"):
                click.echo("nothing was removed", err=True)
                raise click.exceptions.Exit(NOTHING_REMOVED)
        click.echo(f"removed {db.forget(source=source, file=file):,} runs")


def _unknown(db: Database, source: str | None, file: str | None) -> Exception:
    from lrbench_hpo.checks import printable
    from lrbench_hpo.errors import UnknownNameError

    if source is not None:
        return UnknownNameError.among("source", source, map(printable, db.stats().by_source))
    files = dict.fromkeys(printable(origin.file) for origin, _ in db.origins() if origin.file)
    known = list(files) or ["none: nothing was imported"]
    return UnknownNameError.among("imported file", file, known)
