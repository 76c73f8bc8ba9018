"""The config of a Ray trial, checked on the driver before any worker starts."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import RecordError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.member_reports import POLICIES
from lrbench_hpo.records.run import Task
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.records.tasks import MODELS, OPTIMIZERS

CHECKPOINT_SECONDS = 60.0
TRIAL_INDEX = "__trial_index__"  # of Ray's Repeater: which of a policy's trials this is
_OF_RAY = (TRIAL_INDEX, "log_sys_usage")
_EXAMPLE = "config={'dataset': 'digits', 'model': 'lenet'}"
EXECUTORS = ("auto", "stream", "stacked")
OF_POPULATION = ("executor", "early_stopping")


@dataclass(frozen=True, eq=False)
class TrialConfig:
    """One trial of `lrbench_hpo.train`; absent and None are the same.

    Attributes:
        dataset: a name, a path, or anything else that `load_data` takes.
        model: a name, ``torchvision:NAME``, ``package.module:factory``, or a callable.
        lr_policy: the LR policy of a trial that has one.
        lr_policies: the LR policies of a trial that is a population; empty for one policy.
        max_iterations: the budget, in iterations; the recipe's own when None.
        batch_size: images in an iteration; the recipe's own when None.
        optimizer: one of ``sgd``, ``nesterov``, ``adam``, ``adamw``; the recipe's own when None.
        momentum: SGD's momentum, or Adam's beta1; the recipe's own when None.
        weight_decay: L2 penalty; the recipe's own when None.
        data: folder of the data set; ``LRBENCH_DATA`` when None.
        download: whether torchvision may download what is missing.
        seed: of initial weights, data order and validation split.
        device: ``auto`` (the GPU that the trial was given, else CPU), ``cpu``, ``cuda``, ``mps``.
        amp: train in bfloat16 where it is safe.
        evaluations: most evaluations, and with them reports, in a run.
        score_weights: of the score.
        checkpoint_seconds: least seconds from one checkpoint to the next, but for the last.
        resources: CPUs and GPUs of the trial: ``{"cpu": 2, "gpu": 0.5}``.
        task: fields of `Task` to record beside what the trainer knows itself.
        executor: how a population is trained: ``stream``, ``stacked``, or ``auto`` for the faster.
        early_stopping: whether a population stops policies that fall behind.
    """

    dataset: Any
    model: Any
    lr_policy: LRPolicy | None = None
    lr_policies: tuple[LRPolicy, ...] = ()
    max_iterations: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    data: str | None = None
    download: bool = False
    seed: int = 0
    device: str = "auto"
    amp: bool = False
    evaluations: int = 10
    score_weights: ScoreWeights = dataclasses.field(default_factory=ScoreWeights)
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    resources: Mapping[str, float] | None = None
    task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    executor: str = "auto"
    early_stopping: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrialConfig:
        """The values of a trial's config.

        Raises:
            LRBenchError: for an unknown key, one that is missing, or a value that cannot work.

        >>> policy = LRPolicy("FIX", k0=0.1).to_dict()
        >>> TrialConfig.of({"dataset": "digits", "model": "mlp", "lr_policy": policy}).seed
        0
        """
        known = [entry.name for entry in dataclasses.fields(cls)]
        for key in config:
            if key not in known and key not in _OF_RAY:
                raise _unknown(key, known)
        given = {key: value for key, value in config.items() if value is not None}
        for key in ("dataset", "model"):
            if key not in given:
                raise RecordError(f"config has no {key!r}: give one, as in {_EXAMPLE}")
        _refuse_contradictions(given)
        values = {key: _RULES[key](f"config.{key}", given[key]) for key in known if key in given}
        index = given.get(TRIAL_INDEX, 0)
        values["seed"] = values.get("seed", 0) + checks.whole(TRIAL_INDEX, index, least=0)
        return cls(**values)

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """The config's part in the recipe, for `recipe_for`."""
        names = ("max_iterations", "batch_size", "optimizer", "momentum", "weight_decay")
        return {name: getattr(self, name) for name in names}


def _refuse_contradictions(given: Mapping[str, Any]) -> None:
    """A trial is one policy, or a population of them."""
    if POLICIES in given:
        if "lr_policy" in given:
            raise RecordError(f"config has both 'lr_policy' and {POLICIES!r}: give one of them")
        return
    if "lr_policy" not in given:
        raise RecordError(
            "config has no 'lr_policy': give search_alg=lrbench_hpo.LRBenchSearcher(), which "
            "suggests one for each trial, or config['lr_policy'] = policy.to_dict()"
        )
    for key in OF_POPULATION:
        if key in given:
            checks.refuse(
                f"config.{key}",
                given[key],
                f"only a population has it: give {POLICIES}, or LRBenchSearcher(population=8)",
            )


def _unknown(key: object, known: list[str]) -> UnknownNameError:
    near = difflib.get_close_matches(str(key), known, n=3)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return UnknownNameError(
        f"unknown config key {key!r} of lrbench_hpo.train: {guess}Known: {', '.join(known)}"
    )


def _dataset(where: str, value: Any) -> Any:
    return checks.name(where, value) if isinstance(value, str) else value


def _model(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if ":" not in value and canonical_name(value) not in MODELS:
        hint = "torchvision:NAME and package.module:factory are understood too"
        raise UnknownNameError.among("model", value, MODELS, hint)
    return checks.text(where, value)


def _policy(where: str, value: Any) -> LRPolicy:
    if isinstance(value, LRPolicy):
        return value
    return LRPolicy.from_dict(checks.mapping(where, value))


def _policies(where: str, value: Any) -> tuple[LRPolicy, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        checks.refuse(where, value, "expected a list of at least one policy")
    return tuple(_policy(f"{where}[{place}]", entry) for place, entry in enumerate(value))


def _executor(where: str, value: Any) -> str:
    if value not in EXECUTORS:
        raise UnknownNameError.among("executor", value, EXECUTORS)
    return str(value)


def _optimizer(where: str, value: Any) -> str:
    name = checks.lower_case_name(where, value)
    if name not in OPTIMIZERS:
        raise UnknownNameError.among("optimizer", value, OPTIMIZERS)
    return name


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        checks.refuse(where, value, "expected True or False")
    return value


def _path(where: str, value: Any) -> str:
    return checks.text(where, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _resources(where: str, value: Any) -> Mapping[str, float]:
    amounts = {
        name.lower() if name.lower() in ("cpu", "gpu") else name: checks.finite(
            f"{where}.{name}", amount
        )
        for name, amount in checks.mapping(where, value).items()
    }
    for wrong in amounts.keys() & {"cpus", "gpus"}:
        checks.refuse(f"{where} key", wrong, f"did you mean {wrong[:-1]!r}?")
    gpus = amounts.get("gpu", 0)
    if gpus > 1 and gpus != int(gpus):
        checks.refuse(f"{where}.gpu", gpus, "above 1, expected a whole number")
    if not any(amounts.values()):
        checks.refuse(where, value, "expected at least one CPU or GPU, as in {'cpu': 1}")
    return amounts


def _task(where: str, value: Any) -> Mapping[str, Any]:
    # Whatever is no field of a task, or breaks its rule, is refused by name.
    Task.from_dict({"dataset": "any", "model": "any", **checks.mapping(where, value)})
    return dict(value)


_RULES: Mapping[str, Any] = {
    "dataset": _dataset,
    "model": _model,
    "lr_policy": _policy,
    POLICIES: _policies,
    "max_iterations": checks.whole,
    "batch_size": checks.whole,
    "optimizer": _optimizer,
    "momentum": checks.momentum,
    "weight_decay": checks.finite,
    "data": _path,
    "download": _flag,
    "seed": lambda where, value: checks.whole(where, value, least=0),
    "device": checks.name,
    "amp": _flag,
    "evaluations": checks.whole,
    "score_weights": lambda where, value: ScoreWeights.of(value),
    "checkpoint_seconds": checks.finite,
    "resources": _resources,
    "task": _task,
    "executor": _executor,
    "early_stopping": _flag,
}
