"""The command line as people use it: a process of its own, in a home of its own."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("LRBENCH_DATABASE_URL", "LRBENCH_DATA", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def run(home):
    """Run ``python -m lrbench_hpo`` with some arguments: exit code, stdout, stderr."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "lrbench_hpo", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=home,
            env={**os.environ, **environment},
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    return run
