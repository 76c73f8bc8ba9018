"""The results of trials: what of a run a study keeps, its objective values, and the winner."""

from __future__ import annotations

from typing import Any

import optuna

from lrbench_hpo.errors import StudyError
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import Scorable

# Objective values of a diverged trial in a Pareto study: no accuracy, the whole budget, and a loss
# difference that no trained network has. Its constraint keeps it off the front.
_DIVERGED_LOSS_DIFFERENCE = 10.0
CONSTRAINT = "diverged"


def note(trial: optuna.Trial, run: Run, score: float) -> None:
    """Set the results of a trial's run as its user attributes.

    Args:
        trial: a trial under way.
        run: its run, ended or so far.
        score: the run's score.
    """
    for name, value in attributes(run, run.status, score).items():
        trial.set_user_attr(name, value)
    note_divergence(trial, run.status)


def attributes(run: Run, status: str, score: float) -> dict[str, Any]:
    """The user attributes of a trial with this run."""
    return {
        **run.metrics,
        "cost": dict(run.cost),
        "run": run.uid,
        "evaluation_samples": run.notes.get("evaluation_samples"),
        "status": status,
        "score": score,
    }


def note_divergence(trial: optuna.Trial, status: str) -> None:
    """Set the constraint that a diverged trial violates, so that samplers learn from it."""
    trial.set_constraint(CONSTRAINT, 1.0 if status == "diverged" else 0.0)


def values(run: Scorable, score: float, objective: str) -> float | tuple[float, ...]:
    """The objective value or values of a finished trial.

    Args:
        run: the run, or anything with its status, metrics and budget.
        score: the run's score.
        objective: the study's, ``score`` or ``pareto``.

    Returns:
        The score; or Top-1, iterations to best and absolute loss difference.
    """
    if objective == "score":
        return score
    if run.status == "diverged":
        return 0.0, float(run.max_iterations), _DIVERGED_LOSS_DIFFERENCE
    # Floats: with whole numbers TPE raises at its next suggestion.
    return (
        float(run.metrics.get("top1") or 0.0),
        float(run.metrics.get("iterations_to_best") or run.max_iterations),
        abs(float(run.metrics.get("loss_difference") or 0.0)),
    )


def diverged(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial's loss was not finite: by its status, or by its constraint.

    >>> diverged(optuna.trial.create_trial(value=0.0, user_attrs={"status": "diverged"}))
    True
    """
    status = trial.user_attrs.get("status") == "diverged"
    return status or trial.constraints.get(CONSTRAINT, 0.0) > 0


def ranked_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials with a result, best score first, pruned and diverged ones last.

    >>> ranked_trials(optuna.create_study())
    []
    """
    ended = [t for t in study.get_trials(deepcopy=False) if "score" in t.user_attrs]
    return sorted(
        ended,
        key=lambda t: (t.user_attrs["status"] != "complete", -t.user_attrs["score"], t.number),
    )


def winner(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The trial with the best score, if any has finished without diverging."""
    best = next(iter(ranked_trials(study)), None)
    return best if best is not None and best.user_attrs["status"] == "complete" else None


def winner_to_test(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The `winner`.

    Raises:
        StudyError: when no trial has finished without diverging.
    """
    best = winner(study)
    if best is None:
        raise StudyError(
            "no trial has finished without diverging: give a lower reference_lr, or a "
            "search_space of your own"
        )
    return best


def tested(study: optuna.Study, best: optuna.trial.FrozenTrial) -> dict[str, Any] | None:
    """The metrics on the test split, if they are of this winner."""
    known = study.user_attrs.get("test")
    return dict(known) if known is not None and known["trial"] == best.number else None
