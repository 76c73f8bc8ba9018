"""The help of the command line, which imports the commands only when they are called."""

import subprocess
import sys

import click
import pytest

from lrbench_hpo.cli import app
from lrbench_hpo.cli.lazy import LazyCommand

DATABASE = app.commands["db"].load()
ENTRIES = [(group, name) for group in (app, DATABASE) for name in group.commands]
HEAVY = ("torch", "ray", "optuna", "matplotlib", "pandas", "sqlalchemy", "numpy")


@pytest.mark.parametrize(("group", "name"), ENTRIES, ids=lambda part: getattr(part, "name", part))
def test_a_group_says_of_a_command_what_the_command_says_of_itself(group, name):
    entry = group.commands[name]
    command = entry.load()
    assert entry.get_short_help_str() == command.get_short_help_str(limit=1000)
    assert command.name == name


@pytest.mark.parametrize("group", [app, DATABASE])
def test_the_help_of_a_group_has_one_line_a_command(group):
    lines = group.get_help(click.Context(group)).partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(group.commands)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ((), ()),
        (("db",), ()),
        (("tune",), ()),
        (("functions",), ("numpy",)),
        (("db", "show"), ("sqlalchemy", "numpy")),
        (("range-test",), ("sqlalchemy", "numpy")),
        (("explain",), ("optuna", "sqlalchemy", "numpy")),
    ],
    ids=" ".join,
)
def test_help_loads_no_more_than_its_command_needs(words, allowed):
    code = (
        "import sys\nfrom lrbench_hpo.cli import app\n"
        f"app.main([*{words!r}, '--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert set(eval(done.stderr)) <= set(allowed)  # noqa: S307 (written a line above)


def test_an_unknown_command_is_compared_with_the_known_ones(run):
    code, out, err = run("functoins")
    assert (code, out) == (2, "")
    assert "No such command 'functoins'" in err


def test_a_place_without_a_command_is_refused():
    with pytest.raises(TypeError, match="lazy:LazyGroup: expected a command"):
        LazyCommand("lazy:LazyGroup", "").load()
