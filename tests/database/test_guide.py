"""docs/database.md and its picture say what is so."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import click
import pytest

from lrbench_hpo.cli import app
from lrbench_hpo.database import tables
from lrbench_hpo.database.location import database_url
from lrbench_hpo.database.roles import OWNER, READER, WRITER

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "database.md").read_text(encoding="utf-8")
GROUP = app.commands["db"].load()


def documented(table: str) -> list[str]:
    """The columns that the table's own section names, in their order."""
    section = GUIDE.split(f"### {table}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| [^|\s][^|]* \|$", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("table", tables.metadata.tables)
def test_every_column_is_described_in_its_place(table: str) -> None:
    assert documented(table) == list(tables.metadata.tables[table].columns.keys())


def test_the_guide_describes_no_other_table() -> None:
    assert set(re.findall(r"^### (lrbench_\w+)", GUIDE, re.MULTILINE)) == set(
        tables.metadata.tables
    )


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (column, unit)
        for unit, columns in {
            "iterations": ("max_iterations", "iterations_to_best", "policy"),
            "share": ("top1", "top5", "top1_std", "points"),
            "nats": ("loss_difference", "points"),
            "count": ("num_classes", "num_train", "num_parameters", "batch_size"),
            "pixels": ("image_shape",),
            "UTC": ("created_at", "at", "applied_at"),
            "MiB": ("cost",),
        }.items()
        for column in columns
    ],
)
def test_columns_with_a_unit_name_it(column: str, unit: str) -> None:
    rows = re.findall(rf"^\|[^|]*`{column}`[^|]*\|([^|]*)\|$", GUIDE, re.MULTILINE)
    assert rows
    assert all(unit in row for row in rows)


def test_the_picture_is_that_of_the_tables(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(DOCS / "draw_database.py"))
    script["main"](tmp_path / "drawn.svg")
    kept = (DOCS / "images" / "database.svg").read_text(encoding="utf-8")
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert drawn == kept, "the picture is stale: run python docs/draw_database.py"
    for table in tables.metadata.sorted_tables:
        assert all(f">{column.name}<" in drawn for column in table.columns)


def named_commands() -> set[tuple[str, ...]]:
    """The commands of the guide, each with the options given to it."""
    found = set()
    one_line = GUIDE.replace("\\\n", " ")
    for text in re.findall(r"`([^`\n]+)`|^(lrbench-hpo .*)$", one_line, re.MULTILINE):
        for words in re.findall(r"lrbench-hpo db ([a-z-]+)([^|#]*)", " ".join(text)):
            found.add((words[0], *re.findall(r"(?<![\w-])--?[a-z][\w-]*", words[1])))
    return found


@pytest.mark.parametrize("words", sorted(named_commands()), ids=" ".join)
def test_what_the_guide_says_to_type_exists(words: tuple[str, ...]) -> None:
    assert isinstance(GROUP, click.Group)
    command = GROUP.commands[words[0]].load()
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert set(words[1:]) <= known


def test_every_command_is_in_the_guide() -> None:
    assert isinstance(GROUP, click.Group)
    assert set(GROUP.commands) <= {words[0] for words in named_commands()}


def test_every_option_that_the_guide_names_alone_exists() -> None:
    assert isinstance(GROUP, click.Group)
    commands = [*GROUP.commands.values(), app.commands["tune"], app.commands["recommend"]]
    known = {flag for command in commands for p in command.load().params for flag in p.opts}
    alone = set(re.findall(r"`(--[a-z][\w-]*)[^`]*`", GUIDE)) - {"--help"}
    assert alone <= known


def test_urls_of_the_guide_are_understood() -> None:
    urls = set(re.findall(r"\b(?:postgresql|sqlite)://[^\s`]+", GUIDE))
    assert len(urls) > 6
    for url in urls:
        assert database_url(url)


def test_the_guide_names_the_roles() -> None:
    for role in (OWNER, WRITER, READER):
        assert f"| `{role}` |" in GUIDE
