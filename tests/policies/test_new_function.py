"""A new LR function is one row: with it in the table, everything else takes the function."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from lrbench_hpo import LRPolicy, Run, Task, connect, fit_policy, load_space, suggest_policy
from lrbench_hpo.cli.plots import plot_policies
from lrbench_hpo.exchange.export import export
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.policies import FUNCTIONS, LRFunction, table
from lrbench_hpo.policies.coordinates import Scale, to_coordinates, to_policy
from lrbench_hpo.policies.function import Codec, Coordinates, highest, log_range, peak
from lrbench_hpo.policies.grids import RATE, Grid, rates
from lrbench_hpo.policies.waves import UP, Array, Wave
from lrbench_hpo.prior.question import Question

BUDGET = 2_000
SCALE = Scale(BUDGET, 0.1)


def _read(given: Mapping[str, Any], scale: Scale) -> dict[str, float]:
    end = 1 / (1 + given["gamma"] * scale.max_iterations)
    return {"peak": peak(given, scale), "end": end}


def _write(point: Coordinates, scale: Scale) -> dict[str, Any]:
    gamma = min(1.0, (1 / point["end"] - 1) / scale.max_iterations)
    return {"k0": highest(point, scale), "gamma": gamma}


HYPERBOLIC = LRFunction(
    "HYP",
    "1/(1 + gamma t)",
    ("k0", "gamma"),
    lambda t, gamma: 1 / (1 + gamma * t),
    "Robbins & Monro 1951",
    about="Falls as stochastic approximation asks for.",
    codec=Codec(_read, _write),
    ranges={"peak": log_range(0.1, 20.0, "as INV"), "end": log_range(0.01, 0.9, "as INV")},
    grid=Grid((RATE,), lambda outline: [{"gamma": g} for g in rates(outline)], tail=True),
)


def _parabola(x: Array) -> Array:
    return 4 * x * (1 - x)


ARCH = Wave("ARCH", "4 u (1 - u), u = t/(2l) mod 1", UP, _parabola, 2, "Arches", "Parabolas.")

NEW = ["HYP", "ARCH", "ARCH2", "ARCHEXP"]
POINT = {"peak": 2.0, "floor": 0.01, "half_cycles": 5, "end": 0.1}


@pytest.fixture(autouse=True)
def new_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    load_space("cifar10-resnet32")  # what was loaded before does not hide what comes later
    for name, row in table.rows([HYPERBOLIC], [ARCH]).items():
        monkeypatch.setitem(table._ROWS, name, row)


@pytest.fixture(params=NEW)
def policy(request: pytest.FixtureRequest, new_functions: None) -> LRPolicy:
    row = FUNCTIONS[request.param]
    return to_policy(row.name, {name: POINT[name] for name in row.ranges}, SCALE)


def test_it_is_a_policy_with_coordinates(policy: LRPolicy) -> None:
    assert LRPolicy.from_dict(policy.to_dict()) == policy
    low, high = policy.bounds
    assert (low, high) == (pytest.approx(0.002 if policy.is_cyclic else 0), 0.2)
    lrs = policy(np.arange(BUDGET))
    assert low <= lrs.min() < 0.11 * high < 0.6 * high < lrs.max() <= high
    assert policy.is_cyclic == (policy.function != "HYP")
    assert policy.minima(BUDGET) == ((800, 1600) if policy.is_cyclic else ())
    point = to_coordinates(policy, SCALE)
    assert point == pytest.approx({name: POINT[name] for name in point})


def test_torch_schedules_it(policy: LRPolicy) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=policy(0))
    scheduler = policy.torch_scheduler(optimizer)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [policy(7)]


@pytest.mark.parametrize("name", ["default", "cifar10-resnet32"])
def test_the_spaces_have_it(policy: LRPolicy, name: str) -> None:
    space = load_space(name)
    assert policy.function in space.restricted("all").functions
    assert space.clip(policy.function, to_coordinates(policy, SCALE))[1] == []


def test_a_study_suggests_it(policy: LRPolicy) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"lr_function": policy.function})
    found = suggest_policy(
        study.ask(), functions="all", max_iterations=BUDGET, reference_lr=SCALE.reference_lr
    )
    assert found.function == policy.function
    assert set(study.trials[0].params) == {
        "lr_function",
        *(f"{policy.function}.{name}" for name in FUNCTIONS[policy.function].ranges),
    }


def test_it_is_recommended_where_it_is_asked_for(policy: LRPolicy, tmp_path: Path) -> None:
    with connect(tmp_path / "lr.db") as database:
        prior = Question(
            "cifar10", "resnet32", database=database, functions=[policy.function]
        ).prior()
    assert {entry.policy.function for entry in prior.portfolio} == {policy.function}


def test_a_logged_curve_is_recognised(policy: LRPolicy) -> None:
    t = np.arange(0, BUDGET, 8)
    fit = fit_policy(t, policy(t), functions=list(FUNCTIONS))
    assert fit.good, fit.doubt
    assert fit.policy.function == policy.function
    np.testing.assert_allclose(fit.policy(t), policy(t), rtol=1e-4)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_runs_with_it_are_exported_and_imported(
    policy: LRPolicy, form: str, tmp_path: Path
) -> None:
    run = Run(Task("digits", "mlp"), policy, BUDGET, metrics={"top1": 0.9})
    with connect(tmp_path / "one.db") as here, connect(tmp_path / "two.db") as there:
        here.add(run)
        export(here, tmp_path / f"runs.{form}")
        with open_input(tmp_path / f"runs.{form}") as file:
            import_rows(there, runs_in(file), file=file.name, checksum=file.checksum)
        assert [r.policy for r in there.find(function=policy.function)] == [policy]


def test_it_is_drawn_and_described(policy: LRPolicy, tmp_path: Path) -> None:
    assert plot_policies([policy], BUDGET, tmp_path / "lr.svg").stat().st_size > 0
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "draw_policies.py"))
    row = FUNCTIONS[policy.function]
    assert script["pictures"]()[row.name].function == row.name
    assert f"`g(t) = {row.formula}`" in script["page"](script["PAGE"].read_text(encoding="utf-8"))
