"""The command line: ``lrbench-hpo``, also ``python -m lrbench_hpo``."""

from __future__ import annotations

import os
import sys
import warnings

import click

from lrbench_hpo.cli.database import database_group
from lrbench_hpo.cli.explain import explain
from lrbench_hpo.cli.plot import plot
from lrbench_hpo.cli.query import functions, rank, recommend
from lrbench_hpo.cli.range_test import range_test
from lrbench_hpo.cli.tune import tune
from lrbench_hpo.errors import LRBenchError

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lrbench-hpo")
def app() -> None:
    """Tune learning-rate policies, starting from what is already known.

    Past results live in the LR database (a SQLite file of your own, or LRBENCH_DATABASE_URL),
    which is born with the published results of LRBench.
    """


for command in (tune, recommend, rank, explain, range_test, plot, functions, database_group):
    app.add_command(command)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in the code that it comes from."""
    _tell(str(message))


def _tell(line: str) -> None:
    from lrbench_hpo.checks import printable

    click.echo(f"lrbench-hpo: {printable(line)}", err=True)


def main() -> None:
    """Run the command line: errors are one line on stderr, never a traceback."""
    warnings.showwarning = _warn
    sys.path.insert(0, os.getcwd())  # for one's own package.module:factory, as with python -m
    try:
        code = app.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        code = INTERRUPTED
    except LRBenchError as error:
        _tell(str(error))
        code = 2
    except Exception as error:
        # Not foreseen: one's own model, a broken installation, or a mistake of this package.
        if os.environ.get("LRBENCH_TRACEBACK"):
            raise
        reason = " ".join(str(error).split())
        hint = "set LRBENCH_TRACEBACK=1 to see where"
        _tell(f"{type(error).__name__}: {reason} ({hint})")
        code = 1
    sys.exit(code)
