"""Optuna's RDB storage doing what the LR database does: one study, one finished trial a run."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import Run
from lrbench_hpo.policies import DEFAULT_FUNCTIONS
from lrbench_hpo.records.score import score_run

_STATES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_TRUE = 1_000  # trials stored one by one; larger studies are copies of them


def storage(url: str) -> RDBStorage:
    """An RDB storage; SQLite's waits for other writers as long as ours does."""
    made = sa.make_url(url)
    if made.get_backend_name() == "sqlite":
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    return RDBStorage(url)


def new_study(url: str) -> int:
    """A study in a new database: its key."""
    direction = [optuna.study.StudyDirection.MAXIMIZE]
    return storage(url).create_new_study(direction, study_name="runs")


def _single(value: object) -> bool:
    """Whether it can be a parameter; NSTEP's list of drops, and what is not used, cannot."""
    return isinstance(value, float | int)


def trial_of(run: Run) -> FrozenTrial:
    """A run as a finished trial: its policy as parameters, all else as user attributes."""
    fields = run.policy.to_dict()
    params: dict[str, object] = {
        name: value for name, value in fields.items() if name in _RANGES and _single(value)
    }
    distributions: dict[str, BaseDistribution] = {name: _RANGES[name] for name in params}
    params["function"] = run.policy.function
    distributions["function"] = CategoricalDistribution(DEFAULT_FUNCTIONS)
    rest = run.to_dict()
    curve = {p.iteration: p.top1 for p in run.curve if p.top1 is not None}
    # A point's LR and losses have no place among intermediate values.
    others = {"curve": [[p.lr, p.train_loss, p.eval_loss] for p in run.curve]} if curve else {}
    names = (
        "task",
        "policy",
        "metrics",
        "cost",
        "environment",
        "notes",
        "source",
        "status",
        "seed",
    )
    now = datetime.now(UTC).replace(tzinfo=None)
    state = _STATES.get(run.status, TrialState.COMPLETE)
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=None if state is TrialState.FAIL else score_run(run),
        datetime_start=now,
        datetime_complete=now,
        params=params,
        distributions=distributions,
        user_attrs={name: rest[name] for name in names} | others,
        system_attrs={},
        intermediate_values=curve,
    )


_RANGES = {
    "k0": FloatDistribution(1e-9, 100.0, log=True),
    "k1": FloatDistribution(1e-9, 100.0, log=True),
    "gamma": FloatDistribution(1e-9, 1.0),
    "p": FloatDistribution(1e-3, 100.0),
    "l": FloatDistribution(1, 1e9),
}


def fill(url: str, runs: list[Run], count: int) -> None:
    """A study with so many finished trials: true ones, and copies of them in plain SQL."""
    study = new_study(url)
    kept = storage(url)
    for run in runs[: min(count, _TRUE)]:
        kept.create_new_trial(study, trial_of(run))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for copy in range(1, -(-count // _TRUE)):
            _copy(connection, copy * _TRUE)
        if engine.dialect.name == "postgresql":
            for table, key in (("trials", "trial_id"), ("trial_params", "param_id")):
                command = f"SELECT setval('{table}_{key}_seq', max({key})) FROM {table}"  # noqa: S608
                connection.exec_driver_sql(command)
    engine.dispose()


def _copy(connection: sa.Connection, shift: int) -> None:
    tables = {
        "trials": (None, "number + {0}, study_id, state, datetime_start, datetime_complete"),
        "trial_values": ("trial_value_id", "objective, value, value_type"),
        "trial_params": ("param_id", "param_name, param_value, distribution_json"),
        "trial_user_attributes": ("trial_user_attribute_id", "key, value_json"),
    }
    for table, (key, columns) in tables.items():
        keys = f"trial_id + {shift}" + (f", {key} + {shift * 20}" if key else "")
        names = columns.replace(" + {0}", "")
        into = f"{table} (trial_id{f', {key}' if key else ''}, {names})"
        where = f"trial_id <= {_TRUE}" + (f" AND {key} <= {_TRUE * 20}" if key else "")
        connection.exec_driver_sql(
            f"INSERT INTO {into} SELECT {keys}, {columns.format(shift)} FROM {table} WHERE {where}"  # noqa: S608
        )


def seconds_to_suggest(url: str) -> tuple[float, float]:
    """To load the study again, and then to make one suggestion from all of its trials."""
    started = time.perf_counter()
    study = optuna.load_study(
        study_name="runs", storage=storage(url), sampler=optuna.samplers.TPESampler(seed=0)
    )
    loaded = len(study.get_trials(deepcopy=False)) and time.perf_counter() - started
    started = time.perf_counter()
    trial = study.ask()
    trial.suggest_categorical("function", DEFAULT_FUNCTIONS)
    for name, distribution in _RANGES.items():
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    asked = time.perf_counter() - started
    study.tell(trial, state=TrialState.FAIL)
    return loaded, asked
