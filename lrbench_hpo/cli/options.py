"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _functions(_: click.Context, __: click.Parameter, value: str | None) -> str | list[str] | None:
    if value is None or value.lower() == "all":
        return value
    return [name.strip() for name in value.split(",")]


_TASK: Sequence[Callable[[Any], Any]] = (
    click.argument("dataset"),
    click.argument("model"),
    click.option("--max-iterations", "-T", type=int, help="Budget of a run, in iterations."),
    click.option("--batch-size", type=int, help="Images in an iteration."),
    click.option("--optimizer", help="sgd, nesterov, adam or adamw."),
    click.option(
        "--functions",
        callback=_functions,
        help="LR functions to choose from, with commas between, or 'all' for all 34.",
    ),
    click.option("--search-space", metavar="FILE", help="Your own search space (YAML)."),
    click.option(
        "--reference-lr", type=float, help="The task's best constant LR, which peaks relate to."
    ),
)

database = click.option(
    "--database",
    metavar="URL",
    help="The LR database: a file or URL. Default: LRBENCH_DATABASE_URL, else a file of your own.",
)


def task(command: _Command) -> _Command:
    """Add DATASET MODEL and the options that describe a search on them."""
    for decorate in reversed((*_TASK, database)):
        command = decorate(command)
    return command
