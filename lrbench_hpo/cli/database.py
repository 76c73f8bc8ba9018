"""``db``: the commands on the LR database itself."""

from __future__ import annotations

import click

from lrbench_hpo.cli.lazy import LazyGroup, lazy_commands

_COMMANDS = {
    "stats": ("sync:stats", "What the database holds, and which runs wait to be stored."),
    "show": ("show:show", "The stored runs, newest first; or one RUN in full."),
    "best": ("show:best", "The runs of a task with the highest score, best first."),
    "similar": ("similar:similar", "The stored tasks that are most similar to DATASET MODEL."),
    "origins": ("provenance:origins", "Who stored the runs, when, and from which file."),
    "forget": ("provenance:forget", "Remove the runs of one source or of one imported file."),
    "sync": ("sync:sync", "Store the runs that wait in local files."),
    "roles": ("roles:roles", "Print the SQL that makes the roles of a PostgreSQL database."),
    "export": ("exchange:export_command", "Write runs to FILE, for others to import."),
    "import": (
        "exchange:import_command",
        "Store the runs of files from db export, or of LRBench's CSV.",
    ),
    "merge": ("exchange:merge_command", "Store the runs of another LR database in this one."),
    "import-optuna": (
        "import_foreign:import_optuna",
        "Store the finished trials of an Optuna study.",
    ),
    "import-ray": (
        "import_foreign:import_ray",
        "Store the finished trials of Ray Tune experiments.",
    ),
    "import-logs": (
        "import_foreign:import_logs",
        "Store runs from training logs of TensorBoard or in CSV.",
    ),
}


@click.group("db", cls=LazyGroup, commands=lazy_commands(_COMMANDS))
def database_group() -> None:
    """Look into the LR database, and share it."""
