"""``db``: the commands on the LR database itself."""

from __future__ import annotations

import click

from lrbench_hpo.cli.lazy import LazyCommand, LazyGroup

_COMMANDS: dict[str, click.Command] = {
    "stats": LazyCommand(
        "lrbench_hpo.cli.sync:stats",
        "What the database holds, and which runs wait to be stored.",
    ),
    "show": LazyCommand(
        "lrbench_hpo.cli.show:show",
        "The stored runs, newest first; or one RUN in full.",
    ),
    "best": LazyCommand(
        "lrbench_hpo.cli.show:best",
        "The runs of a task with the highest score, best first.",
    ),
    "similar": LazyCommand(
        "lrbench_hpo.cli.similar:similar",
        "The stored tasks that are most similar to DATASET MODEL.",
    ),
    "origins": LazyCommand(
        "lrbench_hpo.cli.provenance:origins",
        "Who stored the runs, when, and from which file.",
    ),
    "forget": LazyCommand(
        "lrbench_hpo.cli.provenance:forget",
        "Remove the runs of one source or of one imported file.",
    ),
    "sync": LazyCommand(
        "lrbench_hpo.cli.sync:sync",
        "Store the runs that wait in local files.",
    ),
    "roles": LazyCommand(
        "lrbench_hpo.cli.roles:roles",
        "Print the SQL that makes the roles of a PostgreSQL database.",
    ),
    "export": LazyCommand(
        "lrbench_hpo.cli.exchange:export_command",
        "Write runs to FILE, for others to import.",
    ),
    "import": LazyCommand(
        "lrbench_hpo.cli.exchange:import_command",
        "Store the runs of files from db export, or of LRBench's CSV.",
    ),
    "merge": LazyCommand(
        "lrbench_hpo.cli.exchange:merge_command",
        "Store the runs of another LR database in this one.",
    ),
    "import-optuna": LazyCommand(
        "lrbench_hpo.cli.import_foreign:import_optuna",
        "Store the finished trials of an Optuna study.",
    ),
    "import-ray": LazyCommand(
        "lrbench_hpo.cli.import_foreign:import_ray",
        "Store the finished trials of Ray Tune experiments.",
    ),
    "import-logs": LazyCommand(
        "lrbench_hpo.cli.import_foreign:import_logs",
        "Store runs from training logs of TensorBoard or in CSV.",
    ),
}


@click.group("db", cls=LazyGroup, commands=_COMMANDS)
def database_group() -> None:
    """Look into the LR database, and share it."""
