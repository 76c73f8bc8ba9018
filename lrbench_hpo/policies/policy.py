"""``LRPolicy``: an LR function with its parameters, as a frozen value that knows no optimizer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

from lrbench_hpo.errors import MissingExtraError, PolicyError, UnknownNameError
from lrbench_hpo.policies import evaluation, parameters
from lrbench_hpo.policies.parameters import short
from lrbench_hpo.policies.table import COMPOSED, FUNCTIONS
from lrbench_hpo.policies.waves import Array

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lrbench_hpo.policies.torch_scheduler import PolicyScheduler

_RULES = {
    "k0": parameters.learning_rate,
    "k1": parameters.learning_rate,
    "gamma": parameters.decay_factor,
    "p": parameters.power,
    "l": parameters.iterations,
}


@dataclass(frozen=True, repr=False)
class LRPolicy:
    """A learning-rate policy: ``LR(t) = |k0 - k1| g(t) + min(k0, k1)``, t = iteration from 0.

    ``g`` is the LR function's formula (see ``FUNCTIONS``); decaying functions have k1 = 0. Exactly
    the parameters of the function must be given. From Wu et al. 2019, arXiv 1908.06477.

    Args:
        function: name of the LR function, or ``"COMPOSED"`` (made by ``compose``).
        k0: one bound of the LR (start of decaying functions), 0 < k0 <= 1e3.
        k1: the other bound of the LR, 0 <= k1 <= 1e3.
        gamma: decay factor in (0, 1], an iteration or a step.
        p: power > 0.
        l: iterations: half a cycle (a whole one for restarts), a step, the length of POLY, the
            middle of SIG, or for NSTEP a strictly increasing list (kept as a tuple).
        parts: of a composed policy: (end iteration, policy) pairs.

    Raises:
        UnknownNameError: no such LR function.
        PolicyError: a parameter is missing, is not the function's, or breaks its rule.

    >>> policy = LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
    >>> policy(0)
    0.0001
    >>> policy([0, 2000, 4000]).round(4).tolist()
    [0.0001, 0.7982, 0.0001]
    >>> LRPolicy.from_dict(policy.to_dict()) == policy
    True
    """

    function: str
    _: KW_ONLY
    k0: float | None = None
    k1: float | None = None
    gamma: float | None = None
    p: float | None = None
    l: float | Sequence[float] | None = None  # noqa: E741 (the papers' name)
    parts: tuple[tuple[float | None, LRPolicy], ...] | None = None

    def __post_init__(self) -> None:
        if self.function == COMPOSED:
            self._set_parts()
        elif not isinstance(self.function, str):
            raise PolicyError(f"function={short(self.function)}: expected an LR function's name")
        elif self.function not in FUNCTIONS:
            raise UnknownNameError.among("LR function", self.function[:60], FUNCTIONS)
        else:
            self._set_parameters()

    def _set_parameters(self) -> None:
        row = FUNCTIONS[self.function]
        for name in (*_RULES, "parts"):
            value = getattr(self, name)
            if value is None:
                if name in row.parameters:
                    raise PolicyError(
                        f"{name}=None: {row.name} needs {name} "
                        f"(its parameters: {', '.join(row.parameters)})"
                    )
            elif name not in row.takes:
                raise PolicyError(
                    f"{name}={short(value)}: {row.name} takes no {name}, leave it out "
                    f"(its parameters: {', '.join(row.takes)})"
                )
            else:
                is_list = name == "l" and row.l_is_list
                rule = parameters.milestones if is_list else _RULES[name]
                object.__setattr__(self, name, rule(name, value))

    def _set_parts(self) -> None:
        for name in _RULES:
            if getattr(self, name) is not None:
                raise PolicyError(f"{name}={short(getattr(self, name))}: COMPOSED takes only parts")
        parts = self.parts
        if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
            raise PolicyError(f"parts={short(parts)}: expected (end iteration, LRPolicy) pairs")
        checked: list[tuple[float | None, LRPolicy]] = []
        for index, pair in enumerate(parts):
            name = f"parts[{index}]"
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise PolicyError(
                    f"{name}={short(pair)}: expected an (end iteration, LRPolicy) pair"
                )
            end, policy = pair
            if not isinstance(policy, LRPolicy) or policy.function == COMPOSED:
                raise PolicyError(
                    f"{name}={short(policy)}: expected an LRPolicy that is not composed itself "
                    "(compose() flattens compositions)"
                )
            if end is not None:
                end = parameters.iterations(f"{name} end", end)
            elif index < len(parts) - 1:
                raise PolicyError(f"{name} end=None: only the last part may have no end")
            previous = checked[-1][0] if checked else None
            if end is not None and previous is not None and end <= previous:
                raise PolicyError(
                    f"{name} end={end}: expected more than the end before, {previous}"
                )
            checked.append((end, policy))
        object.__setattr__(self, "parts", tuple(checked))

    @property
    def spans(self) -> tuple[tuple[float, float, LRPolicy], ...]:
        """(start, end, policy) of each part; the last one goes on for ever.

        A policy that is not composed is its own only part.
        """
        parts = self.parts or ((None, self),)
        ends = [math.inf if end is None else float(end) for end, _ in parts[:-1]] + [math.inf]
        starts = [0.0, *ends[:-1]]
        return tuple((s, e, part) for s, e, (_, part) in zip(starts, ends, parts, strict=True))

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest LR that the k's allow."""
        if self.parts is not None:
            lows, highs = zip(*(policy.bounds for _, policy in self.parts), strict=True)
            return min(lows), max(highs)
        k0, k1 = self.k0 or 0.0, self.k1 or 0.0
        return min(k0, k1), max(k0, k1)

    @overload
    def __call__(self, t: float | np.number[Any]) -> float: ...
    @overload
    def __call__(self, t: npt.NDArray[Any] | Sequence[float]) -> Array: ...
    def __call__(self, t: Any) -> float | Array:
        """LR at iteration ``t`` (a number, or an array of them): finite, within the bounds.

        Raises:
            PolicyError: t is negative, not finite or not a number.
        """
        try:
            given = np.asarray(t)
        except ValueError as error:  # lists of unequal length
            raise PolicyError(f"t={short(t)}: expected a number or an array of them") from error
        if given.dtype.kind not in "iuf":
            raise PolicyError(f"t={short(t)}: expected iterations, numbers >= 0")
        # One array code for scalars and arrays, so that both give the same bits.
        times = np.ravel(given).astype(np.float64)
        valid = np.isfinite(times) & (times >= 0)
        if not valid.all():
            bad = float(times[~valid][0])
            raise PolicyError(f"t={bad}: expected iterations, finite numbers >= 0")
        with np.errstate(under="ignore"):
            values = self._evaluate(times)
        return float(values[0]) if given.ndim == 0 else values.reshape(given.shape)

    def _evaluate(self, t: Array) -> Array:
        if self.function == COMPOSED:
            values = np.empty_like(t)
            for start, end, policy in self.spans:
                inside = (t >= start) & (t < end)
                values[inside] = policy._evaluate(t[inside] - start)
            return values
        row = FUNCTIONS[self.function]
        shape = {name: getattr(self, name) for name in row.takes if name not in ("k0", "k1")}
        low, high = self.bounds
        # The clip takes off the last bit that rounding may add to a bound.
        return np.clip(low + (high - low) * row.g(t, **shape), low, high)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, always with the same keys; unused ones are None."""
        result: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if isinstance(self.l, tuple):
            result["l"] = list(self.l)
        if self.parts is not None:
            result["parts"] = [[end, policy.to_dict()] for end, policy in self.parts]
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The policy that ``to_dict`` described; everything in it is checked.

        Raises:
            UnknownNameError: no such LR function.
            PolicyError: a key is unknown or missing, or a value breaks its rule.
        """
        if not isinstance(values, Mapping):
            raise PolicyError(
                f"policy={short(values)}: expected a dict like LRPolicy.to_dict() makes"
            )
        known = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in known:
                raise PolicyError(f"policy key {short(key)}: expected one of {', '.join(known)}")
        if "function" not in values:
            raise PolicyError("policy without 'function': expected the name of an LR function")
        given = dict(values)
        if isinstance(given.get("parts"), list):
            given["parts"] = [
                cls._part_from_json(index, p) for index, p in enumerate(given["parts"])
            ]
        return cls(**given)

    @classmethod
    def _part_from_json(cls, index: int, pair: object) -> tuple[Any, LRPolicy]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[1], Mapping):
            raise PolicyError(
                f"parts[{index}]={short(pair)}: expected [end iteration, policy dict]"
            )
        # Refused before it is read, so that no depth of nesting costs anything.
        if pair[1].get("function") == COMPOSED:
            raise PolicyError(f"parts[{index}] is COMPOSED: a part must be a plain LR function")
        return pair[0], cls.from_dict(pair[1])

    @property
    def fingerprint(self) -> str:
        """16 hex digits that are the same for every spelling of the same policy.

        >>> up = LRPolicy("TRI", k0=0.1, k1=1, l=10)
        >>> up.fingerprint == LRPolicy("TRI", k0=1.0, k1=0.1, l=10.0).fingerprint
        True
        """
        text = json.dumps(self._canonical(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _canonical(self) -> dict[str, Any]:
        result = self.to_dict()
        if self.parts is not None:
            # The last part goes on after its end, so that end changes no LR.
            spans = [(end, policy._canonical()) for _, end, policy in self.spans]
            result["parts"] = [[None if math.isinf(e) else e, policy] for e, policy in spans]
        elif "k1" in FUNCTIONS[self.function].takes:
            # The formula is symmetric in k0 and k1.
            result["k1"], result["k0"] = self.bounds
        return result

    @property
    def num_parameters(self) -> int:
        """LRBench's #parameters: one for each number that was chosen (NSTEP: n + 2)."""
        if self.parts is not None:
            ends = sum(end is not None for end, _ in self.parts)
            return ends + sum(policy.num_parameters for _, policy in self.parts)
        given = sum(getattr(self, name) is not None for name in _RULES)
        return given + (len(self.l) - 1 if isinstance(self.l, tuple) else 0)

    @property
    def is_cyclic(self) -> bool:
        """Whether the LR rises again after it came down to a minimum."""
        return evaluation.is_cyclic(self)

    def minima(self, max_iterations: int) -> tuple[int, ...]:
        """Numbers of updates after which a cycle has come down to its minimum.

        ``m`` means: after the updates ``t = 0 .. m - 1``, so all of the cycle's updates are made.
        Of a composed policy they are the minima of its cyclic parts, each within its own span
        and followed by a rise.

        Args:
            max_iterations: the budget, in iterations.

        Returns:
            Increasing numbers ``0 < m <= max_iterations``; none for a decaying policy.

        >>> LRPolicy("COS", k0=0.01, k1=0.06, l=2000).minima(10_000)
        (2000, 6000, 10000)
        """
        budget = parameters.count("max_iterations", max_iterations)
        return evaluation.minima(self, budget)

    def evaluation_points(self, max_iterations: int, limit: int = 10) -> tuple[int, ...]:
        """Numbers of updates after which trials are compared; the last is ``max_iterations``.

        Cyclic policies are only comparable at their LR minima; the others, and those that within
        the budget only fall or only rise, at equal fractions of it. Too many minima are thinned
        evenly.

        Args:
            max_iterations: the budget, in iterations.
            limit: the most points to return.

        >>> LRPolicy("TRI", k0=0.01, k1=0.06, l=1000).evaluation_points(5000)
        (2000, 4000, 5000)
        >>> LRPolicy("FIX", k0=0.01).evaluation_points(100, limit=4)
        (25, 50, 75, 100)
        >>> LRPolicy("COS", k0=0.001, k1=0.1, l=100).evaluation_points(100, limit=4)
        (25, 50, 75, 100)
        """
        budget = parameters.count("max_iterations", max_iterations)
        return evaluation.evaluation_points(self, budget, parameters.count("limit", limit))

    def torch_scheduler(self, optimizer: Optimizer, last_epoch: int = -1) -> PolicyScheduler:
        """A torch ``LRScheduler`` that sets this policy's LR; step it once an iteration.

        Args:
            optimizer: any torch optimizer; its default LR stands for the policy, and a parameter
                group that starts with twice that LR keeps to twice the policy's.
            last_epoch: the last iteration that was done; -1 at the start of training.

        Raises:
            MissingExtraError: torch is not installed.
        """
        try:
            from lrbench_hpo.policies.torch_scheduler import PolicyScheduler
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingExtraError.of("torch", "torch") from error
        return PolicyScheduler(optimizer, self, last_epoch)

    def __str__(self) -> str:
        if self.parts is not None:
            inner = [
                f"{policy} until {end}" if end is not None else str(policy)
                for end, policy in self.parts
            ]
            return f"{COMPOSED}({', '.join(inner)})"
        given = [(name, getattr(self, name)) for name in FUNCTIONS[self.function].takes]
        shown = [f"{name}={_text(value)}" for name, value in given if value is not None]
        return f"{self.function}({', '.join(shown)})"

    def __repr__(self) -> str:
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)[1:]}
        shown = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"LRPolicy({', '.join([repr(self.function), *shown])})"


def _text(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value) if isinstance(value, int) else f"{value:.6g}"
