"""``functions``: the table of LR functions."""

from __future__ import annotations

import click

from lrbench_hpo.cli import tables
from lrbench_hpo.policies import DEFAULT_FUNCTIONS, FUNCTIONS


@click.command()
def functions() -> None:
    """The table of LR functions with their formulas."""
    rows = [
        (name, row.formula, ", ".join(row.parameters), "yes" if name in DEFAULT_FUNCTIONS else "")
        for name, row in FUNCTIONS.items()
    ]
    columns = ("function", "g(t)", "parameters", "default")
    table = tables.table("LR(t) = |k0 - k1| g(t) + min(k0, k1)", columns, rows)
    tables.console().print(table)
