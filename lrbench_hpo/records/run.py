"""What the LR database keeps: a `Task`, and a `Run` of an LR policy on it.

Plain frozen values that go to JSON types and back. Whatever comes in is checked at the door, so a
`Run` that exists is a `Run` that can be stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy

STATUSES = ("complete", "pruned", "diverged", "failed")
SPLITS = ("train", "validation", "test")
SHARES = frozenset({"top1", "top5", "ac", "cd", "cdac", "top1_std"})  # metrics within [0, 1]
MAX_POINTS = 100_000  # points of a curve
MAX_POLICY_DEPTH = 40  # levels of a policy's dict; one with parts, which do not nest, has six

_Rule = Callable[[str, object], Any]


def own_source() -> str:
    """The source of what is measured here: ``LRBENCH_SOURCE``, else ``local``.

    A team names its members by it, to tell their runs apart.

    Raises:
        RecordError: for a name that could not be asked for with others, as ``--trust`` does.
    """
    name = os.environ.get("LRBENCH_SOURCE") or "local"
    if "," in name:
        checks.refuse("LRBENCH_SOURCE", name, "expected a name without commas")
    return name


def utc_timestamp(value: datetime | str) -> str:
    """A moment as UTC text of fixed width, so that text order is time order.

    Args:
        value: a datetime with a time zone, or ISO 8601 text with one.

    Raises:
        RecordError: for text that is no time, or a time without a zone.

    >>> utc_timestamp("2026-03-01T12:00:00+02:00")
    '2026-03-01T10:00:00.000000Z'
    """
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        in_utc = moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        checks.refuse("time", value, "expected ISO 8601, for example 2026-03-01T12:00:00Z")
    if moment.tzinfo is None:
        checks.refuse("time", value, "expected a time zone: end it with Z for UTC")
    return in_utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(frozen=True)
class Task:
    """What is trained on what: LR results of one task can be compared.

    Args:
        dataset: its name; case, dashes and underscores do not matter.
        model: its name, likewise.
        num_classes: classes to tell apart.
        num_train: samples to train on.
        image_shape: (channels, height, width), in pixels.
        num_parameters: the model's size.
        framework: what trained it, for example ``pytorch`` or ``Caffe``.
        optimizer: ``sgd``, ``nesterov``, ``adam``, ``adamw`` or another name, kept in lower case.
        momentum: SGD's momentum, or Adam's beta1, in [0, 1).
        weight_decay: L2 penalty.
        batch_size: samples in an iteration.
        init: how weights start.
        reference_lr: the best constant LR, or an estimate of it.

    Raises:
        RecordError: for a value of the wrong type or out of its range.

    >>> Task("CIFAR-10", "ResNet-32", num_classes=10).uid == Task("cifar10", "resnet32", 10).uid
    True
    """

    dataset: str
    model: str
    num_classes: int | None = None
    num_train: int | None = None
    image_shape: tuple[int, ...] | None = None
    num_parameters: int | None = None
    framework: str | None = None
    optimizer: str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    init: str | None = None
    reference_lr: float | None = None

    def __post_init__(self) -> None:
        for name, rule in _TASK_RULES.items():
            value = getattr(self, name)
            if value is not None or name in {"dataset", "model"}:
                object.__setattr__(self, name, rule(f"task.{name}", value))
        for name in ("dataset", "model"):
            if not canonical_name(getattr(self, name)):
                checks.refuse(f"task.{name}", getattr(self, name), "expected letters or digits")

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return {name: checks.json_types(getattr(self, name)) for name in _TASK_RULES}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`; null is the same as absent.

        Raises:
            RecordError: for an unknown key or a bad value.
        """
        return cls(**checks.known_fields("task", data, cls, ("dataset", "model")))

    def canonical_dict(self) -> dict[str, Any]:
        """`to_dict`, with the names as they are compared."""
        names = {"dataset": canonical_name(self.dataset), "model": canonical_name(self.model)}
        return {**self.to_dict(), **names}

    @cached_property
    def uid(self) -> str:
        """Content hash; two spellings of the names are one task."""
        return checks.content_hash(self.canonical_dict())


_TASK_RULES: Mapping[str, _Rule] = {
    "dataset": checks.name,
    "model": checks.name,
    "num_classes": checks.whole,
    "num_train": checks.whole,
    "image_shape": checks.image_shape,
    "num_parameters": checks.whole,
    "framework": checks.name,
    "optimizer": checks.lower_case_name,
    "momentum": checks.momentum,
    "weight_decay": checks.finite,
    "batch_size": checks.whole,
    "init": checks.name,
    "reference_lr": checks.learning_rate,
}


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation while training: after `iteration` updates, at learning rate `lr`.

    Values keep six significant digits, which is what a curve is stored with. NaN and infinity are
    kept as None.

    >>> CurvePoint(250, lr=0.01, top1=0.91).top1
    0.91
    """

    iteration: int
    lr: float | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    top1: float | None = None

    def __post_init__(self) -> None:
        iteration = checks.whole("curve.iteration", self.iteration, least=0)
        object.__setattr__(self, "iteration", iteration)
        for name, rule in _POINT_RULES.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _rounded(rule(f"curve.{name}", value)))

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return {"iteration": self.iteration, **{name: getattr(self, name) for name in _POINT_RULES}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CurvePoint:
        """The inverse of `to_dict`; null is the same as absent.

        Raises:
            RecordError: for an unknown key or a bad value.
        """
        return cls(**checks.known_fields("curve point", data, cls, ("iteration",)))


def _rounded(value: float | None) -> float | None:
    return checks.rounded(value) if isinstance(value, float) else value


_POINT_RULES: Mapping[str, _Rule] = {
    "lr": checks.not_negative,
    "train_loss": checks.number,
    "eval_loss": checks.number,
    "top1": checks.share,
}


@dataclass(frozen=True)
class Run:
    """One training run with one LR policy, and all that was measured.

    Args:
        task: what was trained on what.
        policy: the LR policy, in absolute units.
        max_iterations: the budget, in iterations.
        seed: the run's random seed.
        split: where the metrics come from: ``train``, ``validation`` or ``test``.
        status: ``complete``, ``pruned``, ``diverged`` or ``failed``.
        metrics: numbers by name: top1, top5, ac, cd, cdac, top1_std (shares in [0, 1]),
            loss_difference, train_loss, eval_loss, iterations_to_best, ...; NaN and infinity are
            kept as None.
        curve: evaluations in order of iterations.
        cost: seconds, eval_seconds, samples_per_second, cpu_percent, rss_mib, ...
        environment: device, precision, threads, versions, ... in JSON types.
        source: who measured it.
        created_at: UTC time, now by default. It is part of the run's identity: give it when the
            same run may be read twice.
        notes: whatever else is worth keeping, in JSON types.

    Raises:
        RecordError: for a value of the wrong type or out of its range.

    >>> run = Run(Task("mnist", "lenet"), LRPolicy("FIX", k0=0.01), 1_000, metrics={"top1": 0.98})
    >>> Run.from_dict(run.to_dict()) == run
    True
    """

    task: Task
    policy: LRPolicy
    max_iterations: int
    seed: int | None = None
    split: str = "validation"
    status: str = "complete"
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    cost: Mapping[str, float | None] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    source: str = field(default_factory=own_source)
    created_at: str = field(default_factory=lambda: utc_timestamp(datetime.now(UTC)))
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            checks.refuse("run.task", self.task, "expected a Task")
        if not isinstance(self.policy, LRPolicy):
            checks.refuse("run.policy", self.policy, "expected an LRPolicy")
        budget = checks.whole("run.max_iterations", self.max_iterations)
        seed = self.seed
        values = {
            "max_iterations": budget,
            "seed": None if seed is None else checks.whole("run.seed", seed, -checks.MAX_COUNT),
            "split": checks.choice("run.split", self.split, SPLITS),
            "status": checks.choice("run.status", self.status, STATUSES),
            "metrics": _metrics(self.metrics, budget),
            "curve": _curve(self.curve, budget),
            "cost": _numbers("run.cost", self.cost, lambda _: checks.not_negative),
            "environment": checks.read_only("run.environment", self.environment),
            "source": checks.name("run.source", self.source),
            "created_at": utc_timestamp(self.created_at),
            "notes": checks.read_only("run.notes", self.notes),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash((self.task, self.policy, self.max_iterations, self.seed, self.created_at))

    def __reduce__(self) -> tuple[Any, ...]:
        return Run.from_dict, (self.to_dict(),)  # read-only mappings do not pickle

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types."""
        return {**self._fields(), "curve": [point.to_dict() for point in self.curve]}

    def _fields(self) -> dict[str, Any]:
        return {
            "task": self.task.to_dict(),
            "policy": self.policy.to_dict(),
            "max_iterations": self.max_iterations,
            "seed": self.seed,
            "split": self.split,
            "status": self.status,
            "metrics": dict(self.metrics),
            "cost": dict(self.cost),
            "environment": checks.json_types(self.environment),
            "source": self.source,
            "created_at": self.created_at,
            "notes": checks.json_types(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The inverse of `to_dict`; null is the same as absent.

        Raises:
            RecordError: for an unknown key or a bad value.
            PolicyError: for a policy that its function does not allow.
            UnknownNameError: for an unknown LR function.
        """
        values = checks.known_fields("run", data, cls, ("task", "policy", "max_iterations"))
        checks.shallow("run.policy", values["policy"], MAX_POLICY_DEPTH)
        values["task"] = Task.from_dict(values["task"])
        values["policy"] = LRPolicy.from_dict(checks.mapping("run.policy", values["policy"]))
        if not isinstance(points := values.get("curve", ()), (list, tuple)):
            checks.refuse("run.curve", points, "expected a list of curve points")
        values["curve"] = tuple(CurvePoint.from_dict(point) for point in points[: MAX_POINTS + 1])
        return cls(**values)

    @cached_property
    def uid(self) -> str:
        """Content hash of the dict without the curve, which may be left out when a run is read.

        Two spellings of the task's names are one run; so is one run under two sources, as
        another user may file it under another name.
        """
        fields = {**self._fields(), "task": self.task.canonical_dict()}
        del fields["source"]
        return checks.content_hash(fields)


def _metrics(value: object, budget: int) -> Mapping[str, float | None]:
    metrics = _numbers("run.metrics", value, _metric_rule)
    for name, number in metrics.items():
        if name.startswith("iterations_to_") and number is not None and number > budget:
            checks.refuse(f"run.metrics.{name}", number, f"more than max_iterations={budget}")
    return metrics


def _metric_rule(name: str) -> _Rule:
    if name in SHARES:
        return checks.share
    counted = name.startswith("iterations_to_") or name == "classes_left_out"
    return checks.not_negative if counted else checks.number


def _numbers(where: str, value: object, rule: Callable[[str], _Rule]) -> Mapping[str, float | None]:
    entries = checks.mapping(where, value).items()
    return MappingProxyType(
        {str(k): None if v is None else rule(k)(f"{where}.{k}", v) for k, v in entries}
    )


def _curve(value: object, budget: int) -> tuple[CurvePoint, ...]:
    if not isinstance(value, (list, tuple)):
        checks.refuse("run.curve", value, "expected a tuple of CurvePoint")
    if len(value) > MAX_POINTS:
        raise RecordError(f"run.curve: more than {MAX_POINTS} points: keep every n-th")
    last = -1
    for point in value:
        if not isinstance(point, CurvePoint):
            checks.refuse("run.curve", point, "expected a CurvePoint")
        if not last < point.iteration <= budget:
            rule = f"expected iterations that increase, up to max_iterations={budget}"
            checks.refuse("run.curve.iteration", point.iteration, rule)
        last = point.iteration
    return tuple(value)
