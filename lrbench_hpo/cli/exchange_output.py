"""What the commands that import or export rows print."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import TaskProgressColumn, TextColumn

from lrbench_hpo.checks import printable
from lrbench_hpo.cli.messages import INTERRUPTED, print_error
from lrbench_hpo.cli.progress import progress_bar
from lrbench_hpo.exchange.export import ExportReport
from lrbench_hpo.exchange.files import STANDARD
from lrbench_hpo.exchange.importing import ImportReport
from lrbench_hpo.exchange.quarantine import MAX_KEPT
from lrbench_hpo.exchange.rows import Rejected
from lrbench_hpo.records.run import own_source

SOME_REJECTED = 1
NOTHING_READ = 2


class Bar:
    """A bar with the time left on standard error, if that is a terminal; a context manager.

    Args:
        what: what is counted, such as ``runs written``, or the name of a file.
        total: how much there is; None when it is unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        console = Console(stderr=True)
        rows = TextColumn("{task.fields[rows]:,} rows")
        self._bar = progress_bar(console, TaskProgressColumn(), rows, transient=True)
        self._task = self._bar.add_task(printable(what), total=total, rows=0)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def at(self, rows: int, done: int | None = None) -> None:
        """Show how many rows are done, and how much of the total."""
        self._bar.update(self._task, rows=rows, completed=done)


def show_export(report: ExportReport) -> int:
    """Print what was written and what was left out; return the exit status."""
    for row in report.reasons:
        _show_row(row)
    if report.left_out:
        click.echo(f"{report.left_out:,} rows break a rule, and are left out", err=True)
    if report.file != STANDARD:
        click.echo(f"{printable(report.file)}: {report.runs:,} runs")
    return SOME_REJECTED if report.left_out else 0


def show_import(reports: Sequence[ImportReport], *, unread: int = 0, dry_run: bool = False) -> int:
    """Print how many rows of each file were stored or rejected; return the exit status.

    Args:
        reports: one for each file that could be read.
        unread: files that could not be read at all.
        dry_run: whether nothing was stored.
    """
    for report in reports:
        _show_rejected(report)
    for report in reports:
        click.echo(_summary(report, dry_run=dry_run))
    _show_kept(reports)
    if own := sum(report.own for report in reports if report.new):
        click.echo(
            f"{own:,} of these rows are from {own_source()!r}, and count as your own: --source "
            "NAME files the rows of others under their name"
        )
    if any(report.interrupted for report in reports):
        click.echo(
            "stopped: what is counted here is done; the same command does the rest", err=True
        )
        return INTERRUPTED
    rejected = sum(report.rejected for report in reports)
    if (unread or rejected) and not any(report.good for report in reports):
        return NOTHING_READ
    return SOME_REJECTED if unread or rejected else 0


def _summary(report: ImportReport, *, dry_run: bool) -> str:
    file = printable(report.file)
    if dry_run:
        return f"{file}: {report.good:,} good rows, {report.rejected:,} rejected; nothing stored"
    return (
        f"{file}: {report.new:,} new, {report.known:,} known already, {report.rejected:,} rejected"
    )


def _show_rejected(report: ImportReport) -> None:
    for row in report.reasons:
        others = report.alike[row.reason] - 1
        more = f" (and {others:,} more like it)" if others else ""
        _show_row(row, more)
    if others := report.rejected - report.alike.total():
        click.echo(f"{printable(report.file)}: and {others:,} rows for other reasons", err=True)


def _show_row(row: Rejected, more: str = "") -> None:
    click.echo(f"{printable(row.file)}: {printable(row.place)}: {row.reason}{more}", err=True)


def _show_kept(reports: Sequence[ImportReport]) -> None:
    for path in dict.fromkeys(r.quarantine for r in reports if r.quarantine is not None):
        click.echo(f"rejected rows are kept in {printable(str(path))}")
    for report in reports:
        if report.rejected > MAX_KEPT:
            click.echo(
                f"of {printable(report.file)}, the first {MAX_KEPT:,} rejected rows are kept"
            )
    for reason in dict.fromkeys(report.unkept for report in reports if report.unkept):
        print_error(f"rejected rows could not be kept: {reason}")
