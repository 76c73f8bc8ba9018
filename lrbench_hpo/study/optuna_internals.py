"""Everything that reads private state of Optuna, in one place.

`tests/study/test_optuna_internals.py` names the versions that this was tried on. In a version
without this state, no trial is enqueued, no loop runs, and no storage has a heartbeat.
"""

from __future__ import annotations

from typing import Any

import optuna

_ENQUEUED = "fixed_params"  # system attribute in which `Study.enqueue_trial` keeps the parameters


def enqueued_params(trial: optuna.trial.FrozenTrial) -> dict[str, Any] | None:
    """The parameters that a trial was enqueued with; None for a trial that was not enqueued.

    >>> study = optuna.create_study()
    >>> study.enqueue_trial({"lr": 0.1})
    >>> enqueued_params(study.trials[0]), enqueued_params(optuna.trial.create_trial(value=0.0))
    ({'lr': 0.1}, None)
    """
    params: dict[str, Any] | None = getattr(trial, "system_attrs", {}).get(_ENQUEUED)
    return params


def in_optimize_loop(study: optuna.Study) -> bool:
    """Whether this thread is inside ``study.optimize``, which ends the trials that it asks for.

    >>> in_optimize_loop(optuna.create_study())
    False
    """
    return bool(getattr(getattr(study, "_thread_local", None), "in_optimize_loop", False))


def is_bracket(study: optuna.Study) -> bool:
    """Whether a sampler is shown a pruner's bracket of a study, without the study's attributes.

    >>> is_bracket(optuna.create_study())
    False
    """
    return not hasattr(study, "user_attrs")


def has_heartbeat(storage: str | optuna.storages.BaseStorage | None) -> bool:
    """Whether Optuna itself ends the trials of dead processes.

    >>> has_heartbeat("sqlite:///study.db")
    False
    """
    interval = getattr(storage, "get_heartbeat_interval", None)
    return interval is not None and interval() is not None


def is_stop_outside_optimize(error: RuntimeError) -> bool:
    """Whether an error is the one that ``study.stop()`` raises outside of ``study.optimize``."""
    return "Study.stop" in str(error)
