"""The outcome of a trial, beside its expectation and the best value before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo.study.explanation.parts import Expectation
from lrbench_hpo.study.settings import StudySettings

_PARETO = ("top1", "iterations_to_best", "loss_difference")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: ``complete``, ``diverged``, ``pruned``, ``failed``, ``running`` or ``waiting``.
        values: the trial's objective values by name.
        step: of the last report of a pruned trial.
        best_before: the best value when the trial began; None for several objectives.
        best_trial: the number of the trial that had it.
        against_expectation: ``better``, ``as expected`` or ``worse``; None if one is unknown.
        against_best: its value less the best before, signed so that more is better.
    """

    state: str
    values: Mapping[str, float]
    step: int | None
    best_before: float | None
    best_trial: int | None
    against_expectation: str | None
    against_best: float | None


def outcome_of(
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    trial: FrozenTrial,
    expected: Expectation,
) -> Outcome:
    """The outcome of a trial.

    Args:
        study: the study.
        trials: all of its trials.
        trial: the trial.
        expected: what was expected of it.
    """
    up = study.directions[0] == StudyDirection.MAXIMIZE
    best = _best_before(trials, trial, up=up) if len(study.directions) == 1 else None
    state = _state(trial)
    reports = [s for s, value in trial.intermediate_values.items() if math.isfinite(value)]
    step = max(reports, default=None) if state == "pruned" else None
    reached = trial.value if state == "complete" and len(study.directions) == 1 else None
    gain = None
    if reached is not None and best is not None and best.value is not None:
        gain = (reached - best.value) * (1 if up else -1)
    return Outcome(
        state=state,
        values=_values(study, trial, step),
        step=step,
        best_before=None if best is None else best.value,
        best_trial=None if best is None else best.number,
        against_expectation=_verdict(reached, expected, up=up),
        against_best=gain,
    )


def _state(trial: FrozenTrial) -> str:
    if trial.state.is_finished() and trial.user_attrs.get("status") == "diverged":
        return "diverged"
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def _values(study: optuna.Study, trial: FrozenTrial, step: int | None) -> dict[str, float]:
    """The objective values of a finished trial, or the last report of a stopped one."""
    if trial.state != TrialState.COMPLETE:
        return {} if step is None else {_name(study): trial.intermediate_values[step]}
    names = [_name(study)]
    if len(trial.values) > 1:
        ours = StudySettings.known_to(study) and len(trial.values) == len(_PARETO)
        names = list(_PARETO) if ours else [f"value{n}" for n in range(len(trial.values))]
    found = zip(names, trial.values, strict=True)
    return {name: value for name, value in found if math.isfinite(value)}


def _name(study: optuna.Study) -> str:
    ours = StudySettings.known_to(study) and study.directions[0] == StudyDirection.MAXIMIZE
    return "score" if ours else "value"


def _best_before(
    trials: Sequence[FrozenTrial], trial: FrozenTrial, *, up: bool
) -> FrozenTrial | None:
    """The best of the trials that had finished when this one began."""
    start = trial.datetime_start
    earlier = [
        other
        for other in trials
        if other.state == TrialState.COMPLETE
        and other.number != trial.number
        and other.value is not None
        and start is not None
        and other.datetime_complete is not None
        and other.datetime_complete <= start
    ]
    sign = 1 if up else -1
    return max(earlier, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)


def _verdict(value: float | None, expected: Expectation, *, up: bool) -> str | None:
    if value is None or expected.low is None or expected.high is None:
        return None
    if expected.low <= value <= expected.high:
        return "as expected"
    return "better" if (value > expected.high) == up else "worse"
