"""Progress bars on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(console: Console, *amount: ProgressColumn, **options: Any) -> Progress:
    """A bar with the time left; a file or pipe gets none.

    Args:
        console: where to print.
        amount: the columns that say how much is done.
        options: further ones of `rich.progress.Progress`.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *amount,
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        **options,
    )


@contextmanager
def range_test_progress(
    console: Console, *, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of an LR range test.

    Args:
        console: where to print.
        quiet: show nothing.

    Yields:
        What to call with the iterations done and planned.
    """
    amount = (MofNCompleteColumn(), TextColumn("iterations"))
    with progress_bar(console, *amount, transient=True) as bar:
        bar.disable = bar.disable or quiet
        shown = bar.add_task("range test", total=None)
        yield lambda done, planned: bar.update(shown, completed=done, total=planned)
