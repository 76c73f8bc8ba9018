"""Error messages, and the exit status after Ctrl-C, which several commands share."""

from __future__ import annotations

import click

from lrbench_hpo.checks import printable

INTERRUPTED = 130  # what shells report of a process that SIGINT has ended: 128 + 2


def print_error(message: object) -> None:
    """Print a message as one line on standard error, after the name of the program."""
    click.echo(f"lrbench-hpo: {printable(str(message))}", err=True)
