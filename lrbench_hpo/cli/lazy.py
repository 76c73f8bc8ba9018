"""Command groups that import the module of a command when the command is called.

Help, completion and "did you mean" need the names and short helps of commands alone, which stand
in the group's table. Thus the command modules can import what they need at their top.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click


class LazyCommand(click.Command):
    """The entry of a command that is not imported yet.

    Args:
        place: where the command is, as ``module:attribute``; the module is one of this package.
        short_help: the first sentence of the command's own help, for the help of its group.
    """

    def __init__(self, place: str, short_help: str) -> None:
        super().__init__(name=None, short_help=short_help)
        self.place = place

    def load(self) -> click.Command:
        """Import the command itself.

        Raises:
            TypeError: there is no command at the place.
        """
        module, _, attribute = self.place.partition(":")
        command = getattr(import_module(f"{__package__}.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.place}: expected a command, got {command!r}")
        return command


class LazyGroup(click.Group):
    """A group with a table of `LazyCommand`: the one that is called is imported."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest


def lazy_commands(table: Mapping[str, tuple[str, str]]) -> dict[str, click.Command]:
    """The entries of a group, from the place and the short help of each command by name."""
    return {name: LazyCommand(*entry) for name, entry in table.items()}
