"""Points of the search space that users supply: policies to try, and known results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import create_trial

from lrbench_hpo.errors import LRBenchError, PolicyError, StudyError
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import MAX_DROPS, Scale
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.records.reports import finite
from lrbench_hpo.study.suggest import FUNCTION, distributions, trial_params

POLICY = "lr_policy"
_FORMS = f"expected an LRPolicy, its dict, a config with {POLICY!r}, or parameters of a trial"


@dataclass(frozen=True)
class Point:
    """A point as a study knows it.

    Attributes:
        params: parameters of a trial, each within its range.
        distributions: the ranges of those that are searched.
        policy: the policy that was given, which may lie a little beside the point.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    policy: LRPolicy


@dataclass(frozen=True)
class KnownResult:
    """A user-supplied result, as it was given.

    Attributes:
        point: any form that `read_point` reads.
        value: the metric, or a mapping of what a trial reports.
        status: how it ended.
        reports: the metric on the way, in order.
    """

    point: Any
    value: float | Mapping[str, Any]
    status: str
    reports: Sequence[float] = ()

    def report(self, where: str, wanted: Sequence[str]) -> tuple[dict[str, Any], str]:
        """The report, and how the trial ended.

        Args:
            where: what is read, for the error.
            wanted: names of the numbers that a trial has to report, the metric first.

        Raises:
            StudyError: for a result that lacks one of them.

        >>> KnownResult({}, 0.9, "complete").report("value", ["score"])
        ({'score': 0.9}, 'complete')
        """
        given = self.value
        result = dict(given) if isinstance(given, Mapping) else {wanted[0]: given}
        missing = [name for name in wanted if name not in result]
        if missing and self.status != "failed":
            raise StudyError(
                f"{where}: value={given!r} lacks {missing[0]!r}: give a mapping with "
                f"{', '.join(wanted)}, iterations_to_best and loss_difference"
            )
        if self.reports:
            result.setdefault("training_iteration", len(self.reports))
        unknown = self.status == "complete" and any(finite(result[name]) is None for name in wanted)
        return result, "diverged" if unknown else self.status


def read_point(
    where: str,
    given: Any,
    space: SearchSpace,
    scale: Scale,
    own: Mapping[str, BaseDistribution] | None = None,
) -> Point:
    """Read a point in any of its forms.

    Args:
        where: what is read, for the error.
        given: an `LRPolicy`; its dict; a mapping with ``lr_policy`` and values of further
            parameters, as a trial's config; or a trial's parameters (``lr_function``, ...).
        space: the search space.
        scale: budget and reference LR.
        own: the ranges of further parameters, names with ``/`` between levels; when None, all
            other values of the mapping are taken as they are.

    Raises:
        StudyError: for anything else, a function outside the space, a policy without
            coordinates, or a value outside the range of its parameter.

    >>> from lrbench_hpo.policies.space_files import load_space
    >>> point = read_point("p", LRPolicy("FIX", k0=0.01), load_space("default"), Scale(100, 0.01))
    >>> dict(point.params)
    {'lr_function': 'FIX', 'FIX.peak': 1.0}
    """
    values = given if isinstance(given, Mapping) else {POLICY: given}
    if "function" in values:
        values = {POLICY: values}
    if FUNCTION in values:
        function = _known(where, values[FUNCTION], space)
        point = _coordinates(where, function, values)
        policy = _checked(where, lambda: coordinates.to_policy(function, point, scale))
    elif POLICY in values:
        policy = _policy(where, values[POLICY])
        point = _checked(where, lambda: coordinates.to_coordinates(policy, scale))
        function = _known(where, policy.function, space)
    else:
        raise StudyError(f"{where}={given!r}: {_FORMS}")
    ranges: dict[str, BaseDistribution] = {
        FUNCTION: CategoricalDistribution(list(space.functions)),
        **distributions(space, function),
    }
    params = trial_params(function, _inside(space, function, point))
    if own is None:
        others = {name: value for name, value in values.items() if name not in (POLICY, FUNCTION)}
        params = {**others, **params}
    for name, distribution in (own or {}).items():
        params |= _own_value(where, values, name, distribution)
        ranges[name] = distribution
    known = {name: ranges[name] for name in params if name in ranges}
    return Point(params, known, policy)


def _policy(where: str, given: Any) -> LRPolicy:
    if isinstance(given, LRPolicy):
        return given
    if not isinstance(given, Mapping):
        raise StudyError(f"{where}={given!r}: {_FORMS}")
    policy: LRPolicy = _checked(where, lambda: LRPolicy.from_dict(given))
    return policy


def _known(where: str, function: Any, space: SearchSpace) -> str:
    if isinstance(function, str) and function in space.functions:
        return function
    raise StudyError(
        f"{where}: {function} is not in the search space ({', '.join(space.functions)}): "
        "give functions= that hold it"
    )


def _coordinates(where: str, function: str, values: Mapping[str, Any]) -> dict[str, float]:
    """What a trial's parameters say of its function; those of other functions are not meant."""
    prefix = f"{function}."
    point = {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
    known = coordinates.coordinate_names(function)
    for name in point:
        if ("gap" if name.startswith("gap") else name) not in known:
            raise StudyError(
                f"{where}: {prefix}{name} is no parameter: {function} has {', '.join(known)}"
            )
    return point


def _inside(space: SearchSpace, function: str, point: Mapping[str, float]) -> dict[str, float]:
    """The nearest coordinates that a trial of this space can have."""
    inside, _ = space.clip(function, point)
    # As many gaps as there are drops, also where the policy has more drops than the space.
    beyond = {f"gap{number + 1}" for number in range(int(inside.get("drops", 0)), MAX_DROPS)}
    return {name: value for name, value in inside.items() if name not in beyond}


def _own_value(
    where: str, values: Mapping[str, Any], name: str, distribution: BaseDistribution
) -> dict[str, Any]:
    """One of the user's own parameters, if the point has it: flat, or by levels."""
    value: Any = values
    for part in (name,) if name in values else name.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            return {}
        value = value[part]
    try:
        create_trial(value=0.0, params={name: value}, distributions={name: distribution})
    except (TypeError, ValueError):
        raise StudyError(f"{where}.{name}={value!r}: outside its range {distribution}") from None
    return {name: value}


def _checked(where: str, read: Any) -> Any:
    try:
        return read()
    except (LRBenchError, KeyError, TypeError) as error:
        kind = StudyError if not isinstance(error, PolicyError) else PolicyError
        raise kind(f"{where}: {' '.join(str(error).split())}") from None
