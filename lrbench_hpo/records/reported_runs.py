"""A run from what any trainable reports: its config, its reports, and how it ended.

Pure: reports are flat dicts with the names of `Run.metrics`, whatever framework carries them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import (
    COSTS,
    KNOWN_METRICS,
    best_evaluation,
    finite,
    position,
)
from lrbench_hpo.records.run import SPLITS, CurvePoint, Run, Task
from lrbench_hpo.records.tasks import task_for

_OF_TASK = ("batch_size", "optimizer", "momentum", "weight_decay")
_LOSSES = ("score", "top1", "train_loss", "eval_loss", "loss")  # NaN here means it diverged
_MAX_REPORTS = 2_000  # of a trial; beyond, every second one is dropped
_ANY_TASK, _ANY_POLICY = Task("any", "any"), LRPolicy("FIX", k0=1.0)


@dataclass
class Reports:
    """What one trial reported so far.

    Attributes:
        seen: iteration, LR and metrics of each report, in order of iterations.
        complaints: values that were left out, by name, and why.
    """

    seen: list[dict[str, Any]] = field(default_factory=list)
    complaints: dict[str, str] = field(default_factory=dict)

    def add(self, result: Mapping[str, Any]) -> None:
        """Keep a report; one of an earlier iteration means that the trial went back to it.

        >>> reports = Reports()
        >>> reports.add({"iteration": 100, "top1": 0.5, "training_iteration": 1})
        >>> reports.seen
        [{'at': 100, 'counted': True, 'top1': 0.5}]
        """
        at = position(result)
        if at is None or at < 0:
            return
        known = {name: self._allowed(name, result.get(name)) for name in (*KNOWN_METRICS, "lr")}
        counted = finite(result.get("iteration")) is not None
        report: dict[str, Any] = {"at": at, "counted": counted}
        report |= {name: value for name, value in known.items() if value is not None}
        while self.seen and self.seen[-1]["at"] >= at:
            self.seen.pop()
        self.seen.append(report)
        if len(self.seen) > _MAX_REPORTS:
            kept = {id(self.best()), id(self.seen[-1])}
            self.seen = [
                report for place, report in enumerate(self.seen) if place % 2 or id(report) in kept
            ]

    def best(self) -> Mapping[str, Any]:
        """The report with the highest Top-1, the first of several; else the last one."""
        last = self.seen[-1] if self.seen else {}
        if "iterations_to_best" in last:  # the trainable keeps the best itself
            return last
        return best_evaluation(self.seen, lambda report: report.get("top1")) or last

    def _allowed(self, name: str, value: Any) -> float | None:
        if (number := finite(value)) is None:
            return None
        try:
            if name == "lr":
                CurvePoint(0, lr=number)
            else:
                Run(_ANY_TASK, _ANY_POLICY, 2**62, metrics={name: number})
        except LRBenchError as error:
            self.complaints.setdefault(name, str(error))
            return None
        return number


def diverged(result: Mapping[str, Any], metric: str | None = None) -> bool:
    """Whether a report holds a loss or score that is NaN or infinite.

    >>> diverged({"train_loss": float("inf")}), diverged({"train_loss": 2.5})
    (True, False)
    """
    values = (result.get(name) for name in (*_LOSSES, metric) if name is not None)
    return any(isinstance(v, numbers.Real) and not math.isfinite(v) for v in values)


def recorded_name(value: Any) -> str | None:
    """The name under which a data set or model in a config is recorded.

    >>> recorded_name("digits"), recorded_name(dict), recorded_name(None)
    ('digits', 'builtins:dict', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(own := getattr(value, "name", None), str):
        return own
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def reported_run(
    config: Mapping[str, Any],
    policy: LRPolicy,
    reports: Reports,
    status: str,
    *,
    dataset: str,
    model: str,
    result: Mapping[str, Any],
    budget: int | None = None,
    seed: int | None = None,
    **fields: Any,
) -> Run:
    """The run of a trial that reported metrics, and not the run itself.

    Its metrics are those of the best report, as in every other run.

    Args:
        config: the trial's config, for facts about the task.
        policy: its LR policy.
        reports: what it reported.
        status: how it ended.
        dataset: name of the data set.
        model: name of the model.
        result: the last report, for cost and split.
        budget: iterations of a whole trial; as many as it reached when None.
        seed: its seed.
        fields: further fields of `Run`.

    Raises:
        LRBenchError: for names or fields that break a rule.
    """
    seen = reports.seen
    reached = max(1, seen[-1]["at"] if seen else 1)
    # A report's number is no iteration, unless it is all that is known.
    in_iterations = budget is None or all(report["counted"] for report in seen)
    total = max(budget or 1, reached if in_iterations else 1)
    return Run(
        task=task_for(dataset, model, details=_details(config)),
        policy=policy,
        max_iterations=total,
        seed=seed,
        split=result["split"] if result.get("split") in SPLITS else "validation",
        status=status,
        metrics=_metrics(reports, total, in_iterations, status == "complete"),
        curve=tuple(map(_point, seen)) if in_iterations else (),
        cost=_cost(result),
        **fields,
    )


def _details(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about the task in a config, without values that break a rule."""
    own = config.get("task")
    given = {name: config[name] for name in _OF_TASK if name in config}
    details = {}
    for name, value in (given | dict(own if isinstance(own, Mapping) else {})).items():
        try:
            Task.from_dict({"dataset": "any", "model": "any", name: value})
        except LRBenchError:
            continue
        if value is not None and name not in {"dataset", "model"}:
            details[name] = value
    return details


def _metrics(
    reports: Reports, total: int, in_iterations: bool, complete: bool
) -> dict[str, float | None]:
    best = reports.best()
    metrics = {name: best[name] for name in KNOWN_METRICS if name in best}
    if in_iterations and "top1" in metrics:
        metrics.setdefault("iterations_to_best", best["at"])
    if metrics.get("iterations_to_best", 0) > total:
        del metrics["iterations_to_best"]
    if "train_loss" in metrics and "eval_loss" in metrics:
        difference = metrics["eval_loss"] - metrics["train_loss"]
        metrics.setdefault("loss_difference", difference)
    if complete and reports.seen and "top1" in reports.seen[-1]:
        metrics.setdefault("final_top1", reports.seen[-1]["top1"])
    return metrics


def _point(report: Mapping[str, Any]) -> CurvePoint:
    return CurvePoint(
        report["at"],
        lr=report.get("lr"),
        train_loss=report.get("train_loss"),
        eval_loss=report.get("eval_loss"),
        top1=report.get("top1"),
    )


def _cost(result: Mapping[str, Any]) -> dict[str, float]:
    cost = {name: finite(result.get(name)) for name in COSTS}
    if cost["seconds"] is None:
        cost["seconds"] = finite(result.get("time_total_s"))
    return {name: value for name, value in cost.items() if value is not None and value >= 0}
