"""The command line in a home of its own: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings

import optuna
import pytest

from lrbench_hpo.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("LRBENCH_DATABASE_URL", "LRBENCH_DATA", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def run(home, capsys):
    """Run the command line in this process: exit code, stdout, stderr.

    The process is as a new one in what a command can see or change; `run_process` is a new one.
    """

    def run(*arguments, **environment):
        with contextlib.ExitStack() as undo, pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            patch.setattr(sys, "argv", ["lrbench-hpo", *map(str, arguments)])
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            for name, value in environment.items():
                patch.setenv(name, value)
            undo.enter_context(fresh_warnings())
            undo.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
            undo.callback(forget_modules_of, home)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code or 0, out, err

    return run


@contextlib.contextmanager
def fresh_warnings():
    """The warning filters of a new process, in place of those of pytest."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        yield


def forget_modules_of(folder):
    """Another test may have a module of the same name there."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
            del sys.modules[name]


@pytest.fixture
def run_process(home):
    """Run ``python -m lrbench_hpo`` in a process of its own: exit code, stdout, stderr."""

    def run_process(*arguments, **environment):
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

    return run_process
