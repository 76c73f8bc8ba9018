"""The programs in benchmarks/: each starts, and the documentation names those that exist."""

import ast
import importlib
import math
import pathlib
import re
import sys

import numpy as np
import pytest

from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.study.stopping import Observed, StoppingRule
from lrbench_hpo.study.stopping.signs import NAMES

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "benchmarks").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def module_of(source):
    return ".".join(source.relative_to(ROOT).with_suffix("").parts)


def has_main(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


PROGRAMS = {module_of(source): source for source in SOURCES if has_main(source)}


def commands():
    for page in [*PAGES, *SOURCES]:
        for found in re.finditer(
            r"python -m (benchmarks\.[\w.]+)([^`\n]*)", page.read_text(encoding="utf-8")
        ):
            yield page.name, found[1], found[2].partition("#")[0]


@pytest.fixture(autouse=True)
def _checkout(monkeypatch):
    """The checkout comes last: what is tested may be an installed package."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # some programs set it when they are imported


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_program_answers_help(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_program_says_how_it_is_run(module):
    text = PROGRAMS[module].read_text(encoding="utf-8")
    assert f"    python -m {module.removesuffix('.__main__')}" in text


@pytest.mark.parametrize(("page", "module", "arguments"), list(commands()))
def test_every_named_command_exists(page, module, arguments):
    if module == "benchmarks.NAME":
        return
    source = PROGRAMS.get(module) or PROGRAMS.get(f"{module}.__main__")
    assert source is not None, f"{page}: {module}"
    for option in re.findall(r"--[a-z][a-z-]+", arguments):
        assert f'"{option}"' in source.read_text(encoding="utf-8"), f"{page}: {module} {option}"


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    json_lines = importlib.import_module("benchmarks.json_lines")
    file = tmp_path / "folder" / "rows.jsonl"
    assert json_lines.read(file) == []
    json_lines.append(file, {"seed": 0})
    with file.open("a", encoding="utf-8") as opened:
        opened.write('\n{"seed": 1, "sco')
    json_lines.append(file, {"seed": 2})
    assert json_lines.read(file) == [{"seed": 0}, {"seed": 2}]


# --- learning of the stopping rule's weights ------------------------------------------------------

BUDGET = 100
TENTHS = tuple(range(10, BUDGET + 1, 10))


def curve(end, steps=10):
    """A trial that rises from 0.1 towards a value."""
    values = tuple(end - (end - 0.1) * math.exp(-3.0 * t / BUDGET) for t in TENTHS[:steps])
    policy = LRPolicy("FIX", k0=0.1)
    return Observed(policy, BUDGET, TENTHS[:steps], values, finished=steps == 10)


def test_weights_are_learnt_from_curves():
    """Where the value at a tenth tells the end, the worst are known at once."""
    learn = importlib.import_module("benchmarks.stopping.learn").learn
    chance = np.random.default_rng(0)
    ends = [chance.uniform(0.1, 0.9, 60) for _ in range(2)]
    tasks = [[curve(end) for end in task] for task in ends]
    learnt = StoppingRule(weights=learn(tasks, searches=80, seed=1))
    bad, best = ends[0].argmin(), ends[0].argmax()

    def others(place):
        return [trial for number, trial in enumerate(tasks[0]) if number != place]

    assert learnt.should_stop(curve(ends[0][bad], steps=1), others(bad))
    assert not learnt.should_stop(curve(ends[0][best], steps=1), others(best))
    assert learn(tasks, searches=80, seed=1) == learnt.weights
    assert learn(tasks, searches=80, seed=1, unused=("rank",))[NAMES.index("rank")] == 0


def test_too_few_trials_to_learn_from_are_refused():
    learn = importlib.import_module("benchmarks.stopping.learn").learn
    with pytest.raises(RecordError, match="cases to learn from"):
        learn([[curve(0.8)]])
