"""What a trial reports to a scheduler, and how it ended according to its last report.

Pure: a report is a flat dict of JSON types, so any host framework can carry it.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Self, TypeVar

from lrbench_hpo.records.run import STATUSES, CurvePoint, Run
from lrbench_hpo.records.score import ScoreWeights, score, score_run

RUNGS = 10  # a budget in so many parts
RUN = "lrbench_run"
RUNNING = "running"
# All metrics with a name of their own; others are stored by whatever name they have.
KNOWN_METRICS = (
    "top1",
    "top5",
    "ac",
    "cd",
    "cdac",
    "top1_std",  # of several runs
    "loss_difference",
    "train_loss",
    "eval_loss",
    "iterations_to_best",
    "classes_left_out",
    "final_top1",
)
METRICS = tuple(name for name in KNOWN_METRICS if name != "top1_std")  # of one training
COSTS = (
    "seconds",
    "eval_seconds",
    "samples_per_second",
    "cpu_percent",
    "rss_mib",
    "gpu_percent",
    "gpu_mib",
)

_E = TypeVar("_E")


def report(run: Run, weights: ScoreWeights, *, finished: bool) -> dict[str, Any]:
    """A run so far as the report of a trial: the same keys every time, whatever the policy.

    Args:
        run: the run so far, with at least one point in its curve.
        weights: of the score.
        finished: whether the run has ended by itself.

    Returns:
        ``score``, every metric, ``iteration`` and ``lr`` of the last evaluation,
        ``max_iterations``, ``progress`` in [0, 1], ``rung`` (whole tenths of the budget, for
        schedulers), ``status`` (``running`` until it ended), the cost so far, and the whole run as
        JSON text under ``lrbench_run``.
    """
    last = run.curve[-1]
    return {
        "score": score_run(run, weights),
        "iteration": last.iteration,
        "max_iterations": run.max_iterations,
        "progress": last.iteration / run.max_iterations,
        "rung": rung_at(last.iteration, run.max_iterations),
        "lr": last.lr,
        "status": run.status if finished else RUNNING,
        **{name: run.metrics.get(name) for name in METRICS},
        **run.cost,
        RUN: json.dumps(run.to_dict()),
    }


def best_evaluation(
    evaluations: Iterable[_E], top1: Callable[[_E], float | None] = attrgetter("top1")
) -> _E | None:
    """The evaluation with the highest Top-1, the first of equal ones; None if none has a Top-1.

    Args:
        evaluations: in order of their iterations, such as a run's curve.
        top1: gets the Top-1 of an evaluation, or None.

    >>> curve = [CurvePoint(10, top1=0.5), CurvePoint(20, top1=0.9), CurvePoint(30, top1=0.9)]
    >>> best_evaluation(curve).iteration
    20
    """
    best, highest = None, -math.inf
    for evaluation in evaluations:
        value = top1(evaluation)
        if value is not None and value > highest:
            best, highest = evaluation, value
    return best


def score_at(point: CurvePoint, max_iterations: int, weights: ScoreWeights) -> float:
    """The score that a run has if it is best at this evaluation.

    Args:
        point: the evaluation.
        max_iterations: the run's budget.
        weights: of the score.
    """
    known = point.train_loss is not None and point.eval_loss is not None
    return score(
        top1=point.top1,
        iterations_to_best=point.iteration,
        max_iterations=max_iterations,
        loss_difference=(point.eval_loss or 0.0) - (point.train_loss or 0.0) if known else None,
        weights=weights,
    )


def rung_at(iteration: int, max_iterations: int) -> int:
    """Whole tenths of the budget behind a trial that was just evaluated, at an LR minimum.

    >>> rung_at(0, 90), rung_at(45, 90), rung_at(90, 90)
    (0, 5, 10)
    """
    return RUNGS * iteration // max_iterations


def run_in(result: Mapping[str, Any]) -> Run | None:
    """The run in a report made by `report`, or None in any other report.

    Raises:
        RecordError: for a run whose fields break a rule.
    """
    text = result.get(RUN)
    return None if text is None else Run.from_dict(json.loads(text))


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended, as a study records it; it has a `Run`'s status, metrics and budget.

    Attributes:
        status: ``complete``, ``pruned``, ``diverged`` or ``failed``.
        metrics: what is known, by the names of `Run.metrics`.
        max_iterations: the budget, in iterations.
        iteration: how far it came, in iterations, or in reports where those were not reported.
        value: the number that trials are compared by; None if it is not known or not finite.
        run: the whole run, where the trainable reports it.
    """

    status: str
    metrics: Mapping[str, float | None]
    max_iterations: int
    iteration: int | None
    value: float | None
    run: Run | None

    @classmethod
    def from_report(
        cls, result: Mapping[str, Any], status: str, metric: str, max_iterations: int
    ) -> Self:
        """The outcome of a trial with this last report.

        Args:
            result: the last report; empty when there is none.
            status: how it ended, from `final_status`.
            metric: name of the number that trials are compared by.
            max_iterations: the budget, in iterations.

        >>> report = {"score": 0.9, "top1": 0.91}
        >>> TrialOutcome.from_report(report, "complete", "score", 400).metrics
        {'top1': 0.91}
        """
        found = {name: finite(result.get(name)) for name in METRICS if result.get(name) is not None}
        run = run_in(result)
        return cls(
            status=status,
            metrics=found if run is None else run.metrics,
            max_iterations=max_iterations,
            iteration=position(result),
            value=finite(result.get(metric)),
            run=run,
        )


def finite(value: Any) -> float | None:
    """A finite number as a float; anything else as None."""
    known = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None


def position(result: Mapping[str, Any]) -> int | None:
    """How far a report is: in iterations if it has them, else in reports.

    >>> position({"iteration": 400, "training_iteration": 2}), position({"training_iteration": 2})
    (400, 2)
    """
    for name in ("iteration", "training_iteration"):
        value = finite(result.get(name))
        if value is not None and value >= 0:  # Optuna raises for a step below 0
            return int(value)
    return None


def final_status(
    result: Mapping[str, Any] | None,
    *,
    error: bool = False,
    metric: str | None = None,
    budget: int | None = None,
    cut: bool = False,
    stop: Mapping[str, float] | None = None,
) -> str:
    """How a trial ended: ``complete``, ``pruned``, ``diverged`` or ``failed``.

    A trial that a scheduler cut ends just like one that used up its budget; only what it has
    reached distinguishes them.

    Args:
        result: its last report; None when there is none.
        error: whether it ended with an error.
        metric: name of the number that trials are compared by.
        budget: the iterations of a whole trial, if they are known.
        cut: whether the last report is also what ended the trial, as when a scheduler stops it;
            False when the trial returned by itself after that report.
        stop: the experiment's stopping criteria, by the name of a reported number.

    >>> final_status({"score": 0.9, "iteration": 100, "done": True}, budget=400)
    'pruned'
    >>> final_status({"score": 0.9, "iteration": 400, "done": True}, budget=400)
    'complete'
    >>> final_status({"score": float("nan"), "done": True}, metric="score")
    'diverged'
    """
    if error:
        return "failed"
    if not result:
        return "pruned"
    status = result.get("status")
    if status in STATUSES:
        return str(status)
    if status == RUNNING:
        return "pruned"
    value = result.get(metric) if metric is not None else 0.0
    if not isinstance(value, numbers.Real):
        return "failed"
    if not math.isfinite(value):
        return "diverged"
    return "complete" if _reached_its_end(result, budget, cut, stop or {}) else "pruned"


def _reached_its_end(
    result: Mapping[str, Any], budget: int | None, cut: bool, stop: Mapping[str, float]
) -> bool:
    iteration = finite(result.get("iteration"))
    if budget is not None and iteration is not None:
        return iteration >= budget
    if "training_iteration" not in result:
        return True  # a mean over finished trials, as of several seeds
    if not result.get("done"):
        return False  # ended from outside: time was up
    if not cut:
        return True
    limits = list(stop.items())
    if budget is not None:
        limits.append(("training_iteration", budget))
    reached = [(finite(result.get(name)), limit) for name, limit in limits]
    return any(number is not None and number >= limit for number, limit in reached)
