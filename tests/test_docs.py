"""Documentation that goes stale fails here."""

import ast
import configparser
import pathlib
import re

import click
import pytest

import lrbench_hpo
from lrbench_hpo.cli import app
from lrbench_hpo.policies.coordinates import KINDS
from lrbench_hpo.policies.space_files import load_space, published_spaces

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group=app, path="lrbench-hpo"):
    """Every command by its words, those of groups too."""
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name].load()
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize("command", [words for words, _ in commands()])
def test_the_readme_names_every_command(command):
    assert f"`{command}" in README


def test_the_readmes_test_command_is_what_ci_runs():
    command = "python3 -m venv .venv && . .venv/bin/activate && pip install tox && tox"
    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text()


def test_every_option_the_readme_names_exists():
    known = {
        flag
        for _, command in commands()
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"} <= known


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_of_the_layers_is_the_contract():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:layers"]["layers"].split("\n")
    rows = [sorted(re.findall(r"\w+", row)) for row in layers if row.strip() and "__" not in row]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("```")[1].strip().splitlines()
    drawn = [sorted(re.findall(r"\w+", re.split(r"\s{2,}", line)[0])) for line in picture]
    assert drawn == rows


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "lrbench_hpo"


def test_the_walk_of_a_trial_names_files_that_exist():
    named = set(re.findall(r"`(?:lrbench_hpo/)?(\w+/[\w/.]*)`", ARCHITECTURE))
    assert len(named) > 25
    assert sorted(n for n in named if not ((PACKAGE / n).exists() or (ROOT / n).exists())) == []


def imported_frameworks(wing):
    """The packages that any module of a wing imports, at its top or in a function."""
    for module in (PACKAGE / wing).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "optuna", "ray", "sqlalchemy", "matplotlib"])
def test_a_framework_is_imported_where_the_page_says(framework):
    (row,) = re.findall(rf"^\| {framework} \| (.*) \|$", ARCHITECTURE, flags=re.MULTILINE)
    wings = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir())
    assert sorted(row.split(", ")) == [w for w in wings if framework in imported_frameworks(w)]


def test_the_root_holds_the_wings_and_little_else():
    no_code = {"__pycache__", "py.typed", "search_spaces"}
    entries = {path.name for path in PACKAGE.iterdir()} - no_code
    assert len(entries) <= 14
    assert not {name.removesuffix(".py") for name in entries} & set(lrbench_hpo.__all__)


def test_prose_stands_in_lines_of_100_characters():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        # Rows of tables, pictures and doctests are as long as they are.
        lines = [line for line in prose.splitlines() if not re.match(r"\||!\[|>>>", line)]
        assert [line for line in lines if len(line) > 100] == [], page.name


def test_the_readmes_search_space_page_names_every_coordinate_and_space():
    page = (ROOT / "docs" / "search_spaces.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in (*KINDS, *published_spaces()))


def test_the_example_space_is_valid(tmp_path):
    page = (ROOT / "docs" / "search_spaces.md").read_text(encoding="utf-8")
    example = tmp_path / "my.yaml"
    example.write_text(page.split("```yaml\n")[1].split("```")[0])
    assert load_space(example).functions["SINEXP"]["floor"].low == 1e-4


def test_the_changelog_is_of_this_version():
    assert f"## {lrbench_hpo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
