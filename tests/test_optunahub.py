"""The form of the sampler for OptunaHub's registry."""

import importlib.util
import inspect
import pathlib
import re
import sys

import optuna
import pytest
import yaml

from lrbench_hpo import connect

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "examples" / "optunahub" / "package" / "samplers" / "lrbench"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def hub(monkeypatch):
    """The package as OptunaHub loads it: from its file, under OptunaHub's own name."""
    name = "optunahub_registry.package.samplers.lrbench"
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_it_searches_policies(hub):
    with connect("sqlite://") as database:
        sampler = hub.LRBenchSampler("mnist", "lenet", database=database, seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: float(hub.suggest_policy(trial)(1)), n_trials=3)
    assert len({str(trial.user_attrs["policy"]) for trial in study.trials}) == 3
    assert sampler.__class__.__module__ == "lrbench_hpo.study.sampler"


def test_it_offers_what_its_page_names(hub):
    for name in hub.__all__:
        assert f"- `{name}(" in README
    signature = re.search(r"- `LRBenchSampler\((.*?)\)`", README)[1]
    asked = [part.partition("=")[0].strip() for part in signature.split(",")]
    parameters = inspect.signature(hub.LRBenchSampler).parameters
    assert [name for name in asked if name != "*"] == list(parameters)


def test_its_page_has_what_the_registry_asks_for():
    _, head, body = README.split("---\n", 2)
    told = yaml.safe_load(head)
    assert set(told) == {
        *("author", "title", "description", "tags", "optuna_versions", "license"),
    }
    assert "sampler" in told["tags"]
    assert told["license"] == "MIT License"
    assert all(re.fullmatch(r"5\.\d+\.\d+", version) for version in told["optuna_versions"])
    sections = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert sections[:4] == ["Abstract", "APIs", "Installation", "Example"]


def test_it_is_whole():
    assert {file.name for file in PACKAGE.iterdir() if file.is_file()} == {
        *("__init__.py", "README.md", "LICENSE", "example.py", "requirements.txt"),
    }
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    needed = (PACKAGE / "requirements.txt").read_text().split()
    assert needed == ["lrbench-hpo", "optuna>=5.0"]
