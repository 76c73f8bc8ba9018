"""Every example runs as its own docstring says."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(example, tmp_path, monkeypatch):
    monkeypatch.setenv("LRBENCH_DATABASE_URL", f"sqlite:///{tmp_path / 'lr.db'}")
    done = subprocess.run(
        [sys.executable, "-P", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert f"python examples/{example.name}" in example.read_text()


def test_there_are_four():
    assert len(EXAMPLES) >= 4
