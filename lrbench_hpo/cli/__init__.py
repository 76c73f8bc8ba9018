"""The command line: ``lrbench-hpo``, also ``python -m lrbench_hpo``."""

from __future__ import annotations

import os
import sys
import warnings

import click

from lrbench_hpo.cli.lazy import LazyGroup, lazy_commands
from lrbench_hpo.cli.messages import INTERRUPTED, print_error
from lrbench_hpo.errors import LRBenchError

_COMMANDS = {
    "tune": ("tune:tune", "Tune the LR policy of MODEL on DATASET from known results."),
    "recommend": ("query:recommend", "Policies worth trying on a task, each with its evidence."),
    "rank": ("query:rank", "Rank the stored policies of a task."),
    "explain": ("explain:explain", "Explain why TRIAL of STUDY got its policy."),
    "range-test": ("range_test:range_test", "Estimate the best constant LR of MODEL on DATASET."),
    "plot": ("plot:plot", "Draw the LR curves of POLICIES, each written as in the tables."),
    "functions": ("functions:functions", "The table of LR functions with their formulas."),
    "db": ("database:database_group", "Look into the LR database, and share it."),
}


@click.group(
    cls=LazyGroup,
    commands=lazy_commands(_COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="lrbench-hpo")
def app() -> None:
    """Tune learning-rate policies, starting from what is already known.

    Past results live in the LR database (a SQLite file of your own, or LRBENCH_DATABASE_URL). A
    new database already holds the published results of LRBench.
    """


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the place in the code that it comes from."""
    print_error(message)


def main() -> None:
    """Run the command line: errors are one line on stderr, never a traceback."""
    warnings.showwarning = _show_warning
    sys.path.insert(0, os.getcwd())  # for the user's own package.module:factory, as python -m does
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
        print_error(error)
        code = 2
    except Exception as error:
        # Unforeseen: an error in the user's model, a broken installation, or a bug of this package.
        if os.environ.get("LRBENCH_TRACEBACK"):
            raise
        reason = " ".join(str(error).split())
        print_error(f"{type(error).__name__}: {reason} (set LRBENCH_TRACEBACK=1 to see where)")
        code = 1
    sys.exit(code)
