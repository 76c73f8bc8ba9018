"""From an Optuna trial to an LR policy: the function first, then that function's coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lrbench_hpo.errors import StudyError
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import KINDS, Scale
from lrbench_hpo.policies.space import Range, SearchSpace
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.study.optuna_internals import enqueued_params
from lrbench_hpo.study.orphans import note_process
from lrbench_hpo.study.settings import StudySettings

FUNCTION = "lr_function"


def distributions(space: SearchSpace, function: str) -> dict[str, BaseDistribution]:
    """Optuna distributions of the coordinates of one function, names scoped by the function.

    Args:
        space: a search space.
        function: one of its functions.

    >>> from lrbench_hpo.policies.space_files import load_space
    >>> distributions(load_space("default"), "FIX")
    {'FIX.peak': FloatDistribution(high=10.0, log=True, low=0.03, step=None)}
    """
    found: dict[str, BaseDistribution] = {}
    for name, entry in space.functions[function].items():
        drops = space.functions[function]["drops"].high if name == "gap" else 0
        names = [f"gap{number + 1}" for number in range(int(drops))] or [name]
        for coordinate in names:
            found[f"{function}.{coordinate}"] = _distribution(name, entry)
    return found


def _distribution(name: str, entry: Range) -> BaseDistribution:
    if KINDS[name].integer:
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log)


def trial_params(function: str, point: Mapping[str, float]) -> dict[str, Any]:
    """A point of the space as the parameters of a trial.

    Args:
        function: name of an LR function.
        point: its coordinates.

    >>> trial_params("FIX", {"peak": 1.0})
    {'lr_function': 'FIX', 'FIX.peak': 1.0}
    """
    return {FUNCTION: function, **{f"{function}.{name}": value for name, value in point.items()}}


def suggest_policy(
    trial: optuna.Trial,
    *,
    search_space: str | Path | SearchSpace | None = None,
    functions: str | Sequence[str] | None = None,
    max_iterations: int | None = None,
    reference_lr: float | None = None,
) -> LRPolicy:
    """The LR policy of a trial: its function first, then the parameters of that function.

    Args:
        trial: a trial of a study made by `create_study`; of any study if `max_iterations` and
            `reference_lr` are given.
        search_space: for other studies: a YAML file or space; the default space when None.
        functions: for other studies: the LR functions to search.
        max_iterations: for other studies: the budget, in iterations.
        reference_lr: for other studies: the LR that peaks are relative to.

    Returns:
        The policy in absolute units; the trial's user attribute ``policy`` holds it as a dict,
        ``source`` where it came from.

    Raises:
        StudyError: for a study without settings, or settings given to a study that has its own.

    >>> study = optuna.create_study()
    >>> suggest_policy(study.ask(), functions=["FIX"], max_iterations=100, reference_lr=0.1)(0) > 0
    True
    """
    study = _attached_study(trial)
    own = study is not None and StudySettings.known_to(study)
    if own and any(v is not None for v in (search_space, functions, max_iterations, reference_lr)):
        raise StudyError(
            "suggest_policy: a study made by create_study has its own space and budget: give them "
            "there, not here"
        )
    if own:
        settings = StudySettings.of(trial.study)
        space, scale = settings.space, settings.scale
    elif max_iterations is None or reference_lr is None:
        raise StudyError(
            "suggest_policy: this study knows no LR task: make it with lrbench_hpo.create_study, "
            "or give both max_iterations and reference_lr"
        )
    else:
        space = load_space(search_space or "default").restricted(functions).within(max_iterations)
        scale = Scale(max_iterations, reference_lr)
    note_process(trial, study)
    return suggest_in(trial, space, scale)


def suggest_in(trial: optuna.Trial, space: SearchSpace, scale: Scale) -> LRPolicy:
    """`suggest_policy`, in a space and scale at hand.

    A trial enqueued with the user attribute ``given`` (a policy as a dict) gets exactly that one.

    Args:
        trial: a trial of any study.
        space: the search space.
        scale: budget and reference LR.
    """
    study = _attached_study(trial)
    function = suggest_value(trial, FUNCTION, CategoricalDistribution(list(space.functions)))
    point: dict[str, float] = {}
    for name, distribution in distributions(space, function).items():
        coordinate = name.partition(".")[2]
        if coordinate.startswith("gap") and int(coordinate[3:]) > point["drops"]:
            continue  # conditional: as many gaps as there are drops
        point[coordinate] = suggest_value(trial, name, distribution)
    attributes = trial.user_attrs
    if "given" in attributes:
        # The way through coordinates rounds; a policy that was given is used exactly.
        policy = LRPolicy.from_dict(attributes["given"])
    else:
        policy = coordinates.to_policy(function, point, scale)
    trial.set_user_attr("policy", policy.to_dict())
    suggestion = _suggestion_of(study, trial.number)
    if suggestion is not None:
        origin = suggestion.pop("origin", None)
        trial.set_user_attr("suggestion", suggestion)
        if origin is not None:
            trial.set_user_attr("source", origin)
            return policy
    if "source" not in attributes:
        trial.set_user_attr("source", _source(trial, study))
    return policy


@runtime_checkable
class PolicySampler(Protocol):
    """A sampler of LR policies that records why it suggested each of them."""

    def attach(self, study: optuna.Study) -> None:
        """Read the task of a study, or write the sampler's own into it."""

    def suggestion_of(self, study: optuna.Study, number: int) -> dict[str, Any] | None:
        """Why a trial got its policy; None if this sampler did not choose it."""


def _attached_study(trial: optuna.Trial) -> optuna.Study | None:
    """The study of a trial, with its sampler attached; an `optuna.trial.FixedTrial` has none."""
    study: optuna.Study | None = getattr(trial, "study", None)
    if study is not None and isinstance(study.sampler, PolicySampler):
        study.sampler.attach(study)
    return study


def _suggestion_of(study: optuna.Study | None, number: int) -> dict[str, Any] | None:
    if study is None or not isinstance(study.sampler, PolicySampler):
        return None
    return study.sampler.suggestion_of(study, number)


def _source(trial: optuna.Trial, study: optuna.Study | None) -> str:
    if study is None:
        return "given by hand"
    stored = study.get_trials(deepcopy=False)[trial.number]
    if enqueued_params(stored) is not None:
        return "given by hand"
    return f"sampler {type(study.sampler).__name__}"


def suggest_value(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """The value of one parameter of a trial, whatever its kind.

    Raises:
        StudyError: for a distribution that is none of Optuna's three.
    """
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            return trial.suggest_int(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case FloatDistribution():
            return trial.suggest_float(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
    raise StudyError(f"{name}: {distribution} is no distribution of a search space")
