from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import CurvePoint, Run, Task


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "share"))
    monkeypatch.delenv("LRBENCH_DATABASE_URL", raising=False)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(number: int = 0, **changes) -> Run:
        fields = {
            "task": Task("digits", "mlp", num_classes=10, image_shape=(1, 8, 8), batch_size=32),
            "policy": LRPolicy("TRI", k0=1e-3, k1=0.1, l=50),
            "max_iterations": 1000,
            "seed": number,
            "metrics": {"top1": 0.9, "iterations_to_best": 900, "loss_difference": 0.1},
            "curve": (CurvePoint(500, 0.1, 0.4, 0.5, 0.8), CurvePoint(900, top1=0.9)),
            "cost": {"seconds": 1.5},
            "environment": {"device": "cpu", "versions": {"torch": "2"}},
            "created_at": f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z",
            "notes": {"text": "naïve × λ 😀", "list": [1, None, True]},
        }
        return Run(**{**fields, **changes})

    return make


@pytest.fixture
def start_python(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Start a real Python process on a piece of code; what is left of it ends with the test."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ.copy(),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
