"""Third-party results in this package's terms: their names, units, tasks and policies."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.errors import RecordError, UnknownNameError
from lrbench_hpo.exchange.rows import UNKNOWN_TIME
from lrbench_hpo.policies import ALL_FUNCTIONS, FUNCTIONS, LRPolicy
from lrbench_hpo.records.reports import METRICS
from lrbench_hpo.records.run import SHARES, CurvePoint, Run, Task
from lrbench_hpo.records.tasks import known_facts

POLICY = ("function", "k0", "k1", "gamma", "p", "l")
L_EPOCHS = "l_epochs"  # an l that counts epochs
OF_TASK = tuple(f"task.{name}" for name in Task("any", "any").to_dict())
MEASURED = (*METRICS, "top1_std")
_MOST_L = {"NSTEP": 100}  # an l is at least so small a part of the budget
_MOST_OTHER_L = 1_000
TARGETS = (
    *POLICY,
    L_EPOCHS,
    "max_iterations",
    "epochs",
    "iteration",
    "epoch",
    "lr",
    "seed",
    *MEASURED,
    *OF_TASK,
)
_ALIASES = {
    "fixed": "FIX",
    "const": "FIX",
    "constant": "FIX",
    "none": "FIX",
    "multistep": "NSTEP",
    "exponential": "EXP",
    "inverse": "INV",
    "polynomial": "POLY",
    "triangular": "TRI",
    "triangular2": "TRI2",
    "exprange": "TRIEXP",
    "cosine": "COS",
}


@dataclass(frozen=True)
class Translation:
    """How the names and units of third-party results map to this package's own.

    Args:
        dataset: name of the data set, where they do not name it.
        model: name of the model, likewise.
        mapping: their names to ours: parameters of a policy (``function``, ``k0``, ``k1``,
            ``gamma``, ``p``, ``l``, or ``l_epochs`` for an l that counts epochs),
            ``max_iterations``, ``epochs``, ``seed``, metrics
            (``top1``, ``eval_loss``, ...), ``iteration``, ``epoch``, ``lr``, and fields of the
            task (``task.batch_size``, ...).
        constants: values, by our names, that they do not record, as ``{"k1": 0.0}``.
        function: the LR function, where no parameter names it.
        max_iterations: the budget of a run, in iterations, where no parameter names it.
        iterations_per_epoch: what turns their epochs into iterations.
        metric: the metric that an objective's value is.
        percent: whether accuracies are per cent, not shares.
        split: where the metrics were measured.
        source: who measured it; the reader's own name when None.
        created_at: when, where the file has no time.

    Raises:
        UnknownNameError: for an unknown target name, metric or LR function.
        RecordError: for any other invalid value.

    >>> translation = Translation("mnist", "lenet", {"lr": "k0"}, max_iterations=100)
    >>> print(translation.policy({"k0": 0.1}))
    FIX(k0=0.1)
    """

    dataset: str | None = None
    model: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    function: str = "FIX"
    max_iterations: int | None = None
    iterations_per_epoch: float | None = None
    metric: str = "top1"
    percent: bool = False
    split: str = "validation"
    source: str | None = None
    created_at: str | None = None

    def __post_init__(self) -> None:
        for target in (*self.mapping.values(), *self.constants):
            if target not in TARGETS:
                raise UnknownNameError.among("name to map to", target, TARGETS)
        for target in self.mapping.values():
            if list(self.mapping.values()).count(target) > 1:
                checks.refuse("mapping", target, "two of their names are mapped to it: give one")
        if self.metric not in MEASURED:
            raise UnknownNameError.among("metric", self.metric, MEASURED)
        known_function(self.function)
        if self.max_iterations is not None:
            checks.whole("max_iterations", self.max_iterations)
        if self.iterations_per_epoch is not None:
            per_epoch = checks.finite("iterations_per_epoch", self.iterations_per_epoch)
            if per_epoch == 0:
                checks.refuse("iterations_per_epoch", per_epoch, "expected a number above 0")

    def named(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Their values by our names; what is absent or None is left out.

        Raises:
            RecordError: for an ``l_epochs`` when the iterations of an epoch are unknown.
        """
        found = {
            ours: theirs[name]
            for name, ours in self.mapping.items()
            if theirs.get(name) is not None
        }
        named = {**self.constants, **found}
        if (epochs := named.pop(L_EPOCHS, None)) is not None:
            several = isinstance(epochs, list | tuple)
            drops = [round(self.in_iterations(each)) for each in (epochs if several else [epochs])]
            named["l"] = drops if several else drops[0]
        return named

    def policy(self, ours: Mapping[str, Any]) -> LRPolicy:
        """The policy of values by our names; those that its function does not take are left out.

        Raises:
            PolicyError: for a value that is missing, or that the function does not allow.
            UnknownNameError: for an unknown LR function.
        """
        function = known_function(ours.get("function", self.function))
        takes = FUNCTIONS[function].takes
        return LRPolicy(function, **{name: ours[name] for name in takes if name in ours})

    def task(self, ours: Mapping[str, Any]) -> Task:
        """The task: the names, what is known of these names, and the given fields.

        Raises:
            RecordError: for names that are missing, or invalid values.
        """
        fields = {name.removeprefix("task."): v for name, v in ours.items() if name in OF_TASK}
        fields = {"dataset": self.dataset, "model": self.model} | fields
        for name in ("dataset", "model"):
            if fields[name] is None:
                raise RecordError(f"task.{name} is missing: give --{name}, or map a name to it")
        return Task.from_dict(known_facts(fields["dataset"], fields["model"]) | fields)

    def budget(self, ours: Mapping[str, Any]) -> int:
        """The budget of a run, in iterations.

        Raises:
            RecordError: when it is unknown.
        """
        if (given := ours.get("max_iterations")) is not None:
            return whole("max_iterations", given)
        if (epochs := ours.get("epochs")) is not None:
            return max(1, round(self.in_iterations(epochs)))
        if self.max_iterations is None:
            raise RecordError("max_iterations is missing: give --max-iterations, or map a name")
        return self.max_iterations

    def in_iterations(self, epochs: Any) -> float:
        """Epochs as iterations.

        Raises:
            RecordError: when the iterations of an epoch are unknown.
        """
        if self.iterations_per_epoch is None:
            raise RecordError("it counts epochs: give --iterations-per-epoch")
        return checks.finite("epochs", epochs) * self.iterations_per_epoch

    def measure(self, name: str, value: Any) -> float | None:
        """A measured value in our unit; None for NaN and infinity.

        Raises:
            RecordError: for something that is no number, or per cent without `percent`.
        """
        number = checks.number(name, value)
        if number is None or (name not in SHARES and name != "final_top1"):
            return number
        if self.percent:
            return float(Decimal(repr(number)) / 100)
        if 1 < number <= 100:
            # Without the value, so that all trials have one reason.
            raise RecordError(
                f"{name} is above 1, and looks like per cent: give --percent if it is"
            )
        return number

    def run(self, ours: Mapping[str, Any], policy: LRPolicy, source: str, **fields: Any) -> Run:
        """The run of values by our names.

        Args:
            ours: the values.
            policy: its LR policy.
            source: who measured it, where this names no source.
            fields: further fields of `Run`.

        Raises:
            LRBenchError: for a value that is missing or invalid.
        """
        for name, made in (("task", self.task), ("max_iterations", self.budget)):
            if name not in fields:
                fields[name] = made(ours)
        if "l" in ours:
            _check_l(policy, fields["max_iterations"])
        seed = ours.get("seed")
        fields.setdefault("seed", None if seed is None else whole("seed", seed))
        fields.setdefault("split", self.split)
        fields.setdefault("source", self.source or source)
        fields.setdefault("created_at", self.created_at or UNKNOWN_TIME)
        return Run(policy=policy, **fields)


def _check_l(policy: LRPolicy, budget: int) -> None:
    """Refuse an l that is so short, relative to the budget, that it must count epochs."""
    if policy.l is None:
        return
    longest = policy.l if isinstance(policy.l, int | float) else max(policy.l)
    most = _MOST_L.get(policy.function, _MOST_OTHER_L)
    if longest * most < budget:
        raise RecordError(
            f"l={longest:g}: is less than 1/{most:,} of max_iterations={budget:,}: if it counts "
            "epochs, map it to l_epochs, and give --iterations-per-epoch"
        )


def known_function(name: object) -> str:
    """The LR function of a usual name for it.

    >>> known_function("cosine"), known_function("step")
    ('COS', 'STEP')
    """
    key = str(name).casefold().translate(str.maketrans("", "", "-_ "))
    found = _ALIASES.get(key.removesuffix("lr"), key.upper())
    if found not in FUNCTIONS:
        raise UnknownNameError.among("LR function", str(name)[:60], ALL_FUNCTIONS)
    return found


def whole(where: str, value: Any) -> int:
    """A whole number, also one written 10.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return checks.whole(where, value, -checks.MAX_COUNT)


def is_nan(value: Any) -> bool:
    """Whether a value is a number that is not finite."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, numbers.Integral)
        and not math.isfinite(value)
    )


def summary(curve: Sequence[CurvePoint], complete: bool) -> dict[str, float | None]:
    """The metrics at the highest Top-1 of a curve, or at its end where it has no Top-1."""
    if not curve:
        return {}
    measured = [point for point in curve if point.top1 is not None]
    best = max(measured, key=lambda point: point.top1 or 0.0, default=curve[-1])
    found: dict[str, float | None] = {
        name: getattr(best, name)
        for name in ("top1", "train_loss", "eval_loss")
        if getattr(best, name) is not None
    }
    if measured:
        found["iterations_to_best"] = best.iteration
        if complete:
            found["final_top1"] = measured[-1].top1
    train, evaluated = best.train_loss, best.eval_loss
    if train is not None and evaluated is not None:
        found["loss_difference"] = evaluated - train
    return found
