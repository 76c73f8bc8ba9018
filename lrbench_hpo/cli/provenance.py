"""``db origins`` and ``db forget``: where runs come from, and how to remove some of them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence

import click

from lrbench_hpo import checks
from lrbench_hpo.checks import printable
from lrbench_hpo.cli import filters, options, tables
from lrbench_hpo.database import Database, Origin, connect
from lrbench_hpo.errors import UnknownNameError

NOTHING_REMOVED = 1
_CHECKSUM = re.compile(r"[0-9a-fA-F]{8,64}")  # or its beginning


@click.command()
@options.database
@filters.as_json
def origins(database: str | None, as_json: bool) -> None:
    """Who stored the runs, when, and from which file."""
    with connect(database) as db:
        found = db.origins()
    if as_json:
        click.echo(json.dumps([{**o.to_dict(), "runs": runs} for o, runs in found], indent=2))
        return
    rows = [(*_described(origin), f"{runs:,}") for origin, runs in found]
    columns = ("who", "when (UTC)", "version", "file", "before that", ">runs")
    tables.console().print(tables.table("How runs came in", columns, rows))


def _described(origin: Origin) -> tuple[str, str, str, str, str]:
    """The cells of one origin in the table; the last one describes the origin before it."""
    before = "" if origin.before is None else f"{origin.before.who}, {origin.before.at[:10]}"
    file = origin.file or ""
    if origin.checksum:
        file += f" (SHA-256 {origin.checksum[:12]}…)"
    return origin.who, origin.at[:16].replace("T", " "), origin.version, file, before


@click.command()
@options.database
@click.option("--source", help="Remove the runs that this source measured.")
@click.option(
    "--file",
    "file",
    metavar="NAME|SHA-256",
    help="Remove the runs imported from this file, as in db origins: its name, or at least the "
    "first 8 digits of its SHA-256.",
)
@click.option("--dry-run", is_flag=True, help="Only print how many runs there are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(
    database: str | None, source: str | None, file: str | None, dry_run: bool, yes: bool
) -> None:
    """Remove the runs of one source or of one imported file.

    They are removed for good, once you have confirmed it.
    """
    if (source is None) == (file is None):
        raise click.UsageError("say what to forget: --source NAME, or --file NAME")
    with connect(database) as db:
        name, checksum = (None, None) if file is None else _file_meant(db, file)
        count = db.forget(source=source, file=name, checksum=checksum, dry_run=True)
        if source is not None and not count:
            raise _unknown("source", source, db.stats().by_source)
        stats = db.stats()
        what = f"source {source!r}" if source is not None else f"file {file!r}"
        click.echo(f"{count:,} of {stats.runs:,} runs in {stats.location} are of {what}")
        if dry_run:
            click.echo("nothing was removed: --dry-run")
            return
        if not yes:
            _ask(source)
        removed = db.forget(source=source, file=name, checksum=checksum)
        click.echo(f"removed {removed:,} runs")


def _ask(source: str | None) -> None:
    """Ask the user; end the command unless the answer is yes."""
    copy = "" if source is None else f" --source {shlex.quote(source)}"
    click.echo(f"this keeps a copy: lrbench-hpo db export copy.jsonl.gz{copy}")
    answer = "nothing was removed"
    try:
        if click.confirm("remove them for good?"):
            return
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        click.echo()  # ends the line of the question
        answer += ": nobody answered; --yes removes them without asking"
    click.echo(answer, err=True)
    raise click.exceptions.Exit(NOTHING_REMOVED)


def _file_meant(db: Database, file: str) -> tuple[str | None, str | None]:
    """The name of one imported file, its checksum, or both: what identifies it.

    Raises:
        UnknownNameError: for a file that nothing was imported from.
        RecordError: for one that could be several files.
    """
    imported = [origin for origin, _ in db.origins() if origin.file is not None]
    named = [origin.checksum for origin in imported if origin.file == file]
    if named:
        return file, _only(file, named)
    if _CHECKSUM.fullmatch(file):
        known = [origin.checksum for origin in imported if origin.checksum is not None]
        if fits := [checksum for checksum in known if checksum.lower().startswith(file.lower())]:
            return None, _only(file, fits)
    if db.forget(file=file, dry_run=True):  # of an origin that breaks a rule, and is not listed
        return file, None
    raise _unknown("imported file", file, [origin.file or "" for origin in imported])


def _only(file: str, checksums: Sequence[str | None]) -> str | None:
    first, *others = dict.fromkeys(checksums)
    if others:
        known = ", ".join("none" if c is None else f"{c[:16]}…" for c in (first, *others))
        rule = f"is {len(others) + 1} different files: name one by its SHA-256 ({known})"
        checks.refuse("--file", file, rule)
    return first


def _unknown(kind: str, name: str, known: Iterable[str]) -> Exception:
    names = list(dict.fromkeys(map(printable, known)))
    return UnknownNameError.among(kind, name, names or ["none: nothing was imported"])
