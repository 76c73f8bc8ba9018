"""Files of JSON that a command writes beside what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from lrbench_hpo.errors import LRBenchError


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is done.

    Raises:
        click.UsageError: for such a file.
    """
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise click.UsageError(
            f"--json {path}: {error.strerror}: expected a file in a folder that can be written"
        ) from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON types to a file.

    Raises:
        LRBenchError: when the file cannot be written.
    """
    try:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LRBenchError(
            f"{path}: {error.strerror}: free some space, or name another file"
        ) from None
