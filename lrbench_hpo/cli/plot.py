"""``plot``: LR curves as a picture."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from lrbench_hpo.cli import options
from lrbench_hpo.cli.plots import plot_policies
from lrbench_hpo.errors import LRBenchError, PolicyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.prior.question import Question

_WRITTEN = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*(\w+)\s*=\s*(\[[^\]]*\]|[^,\[\]]+?)\s*(?:,|$)")


@click.command()
@click.argument("policies", nargs=-1)
@click.option("--output", "-o", required=True, metavar="FILE", help="A .png or .svg file.")
@click.option("--max-iterations", "-T", type=int, help="Length of the curves, in iterations.")
@click.option(
    "--recommended",
    nargs=2,
    metavar="DATASET MODEL",
    help="Draw the policies recommended for this task.",
)
@click.option("--log/--linear", "log", default=True, show_default=True, help="Scale of the LR.")
@options.database
def plot(
    policies: tuple[str, ...],
    output: str,
    max_iterations: int | None,
    recommended: tuple[str, str] | None,
    log: bool,
    database: str | None,
) -> None:
    """Draw the LR curves of POLICIES, each written as in the tables.

    For example: lrbench-hpo plot "SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)"
    --max-iterations 64000 -o sinexp.png
    """
    drawn = [parse_policy(written) for written in policies]
    if recommended:
        prior = Question(*recommended, max_iterations=max_iterations, database=database).prior()
        max_iterations = prior.scale.max_iterations
        drawn += [entry.policy for entry in prior.portfolio]
    if not drawn:
        raise click.UsageError("nothing to draw: give policies, or --recommended DATASET MODEL")
    if max_iterations is None:
        raise click.UsageError("policies have no length of their own: give --max-iterations")
    if max_iterations < 1:
        raise PolicyError(f"max_iterations={max_iterations}: expected at least 1 iteration")
    plot_policies(drawn, max_iterations, output, log=log)
    click.echo(f"wrote {output}")


def parse_policy(written: str) -> LRPolicy:
    """Read a policy as it is printed, or from its JSON.

    >>> parse_policy("NSTEP(k0=0.1, gamma=0.1, l=[32000, 48000])").l
    (32000, 48000)
    """
    match = _WRITTEN.fullmatch(written)
    try:
        if not match:
            return LRPolicy.from_dict(json.loads(written))
        values: dict[str, Any] = {}
        inside, position = match[2], 0
        while position < len(inside):
            parameter = _PARAMETER.match(inside, position)
            if not parameter:
                raise ValueError(inside)
            values[parameter[1]] = json.loads(parameter[2])
            position = parameter.end()
        return LRPolicy.from_dict({"function": match[1].upper(), **values})
    except LRBenchError:
        raise
    except (ValueError, TypeError):
        raise PolicyError(
            f"{written!r}: expected a policy such as "
            '"SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)", or its JSON'
        ) from None
