"""What a Ray Tune experiment and its searcher have in common: task, metric, own domains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import MissingExtraError, StudyError
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.member_reports import POLICIES
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.study.points import POLICY
from lrbench_hpo.study.suggest import FUNCTION

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.utils import flatten_dict


MODES: Mapping[str, int] = {"max": 1, "min": -1}
# What `lrbench_hpo.train` reads too: given to the searcher or in the config, once is enough.
SHARED = ("dataset", "model", "max_iterations", "batch_size", "optimizer", "score_weights")
_UNNAMED = "unnamed"

_KINDS: Mapping[str, tuple[type, str]] = {
    "dataset": (str, "a name"),
    "model": (str, "a name"),
    "sampler": (BaseSampler, "an Optuna sampler such as optuna.samplers.RandomSampler()"),
    "task": (Mapping, "a mapping with fields of Task"),
    "points_to_evaluate": (Sequence, "a list of policies"),
}


def metric_name(metric: Any) -> str | None:
    """The name of a metric, or None.

    Raises:
        StudyError: for anything but one name.
    """
    if metric is None or (isinstance(metric, str) and metric):
        return metric
    raise StudyError(
        f"metric={metric!r}: expected one name, for schedulers compare one number; for several "
        "objectives give objective='pareto'"
    )


def mode_name(mode: Any) -> str | None:
    """``max``, ``min`` or None.

    Raises:
        StudyError: for anything else.
    """
    if mode is None or (isinstance(mode, str) and mode in MODES):
        return mode
    raise StudyError(
        f"mode={mode!r}: expected 'max' or 'min'; for several objectives give objective='pareto'"
    )


def given_once(what: str, mine: str | None, theirs: str | None) -> str | None:
    """The metric or mode of a search, from the searcher or from the experiment.

    Raises:
        StudyError: if both give one and they differ.
    """
    if mine is not None and theirs is not None and mine != theirs:
        raise StudyError(
            f"{what}={mine!r} in LRBenchSearcher, {theirs!r} in the experiment: give it once"
        )
    return mine or theirs


def refuse_wrong_kinds(**given: Any) -> None:
    """Refuse arguments of a searcher that are of the wrong kind; None is always right.

    Raises:
        StudyError: naming the argument.
        RecordError: for a number below 1.
    """
    for name, (kind, expected) in _KINDS.items():
        if given[name] is not None and not isinstance(given[name], kind):
            raise StudyError(f"{name}={given[name]!r}: expected {expected}")
    for name in ("max_iterations", "batch_size"):
        if given[name] is not None:
            checks.whole(name, given[name])


def agreed(mine: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The task, from a searcher and its experiment's config together.

    Raises:
        StudyError: where they contradict each other.
    """
    shared = dict(mine)
    for name, here in mine.items():
        there = config.get(name)
        if there is None:
            continue
        if here is not None and not _same(name, here, there):
            raise StudyError(
                f"{name}={here!r} in LRBenchSearcher, {there!r} in config: give it once"
            )
        shared[name] = there
    return shared


def question_of(question: Question, shared: Mapping[str, Any]) -> Question:
    """A searcher's question with what its experiment's config adds to the task.

    Args:
        question: the searcher's.
        shared: the values of `SHARED`. A data set or a model that is no name may be anything, so
            the database's runs are no evidence for it: only the published ones are read.
    """
    dataset, model = shared["dataset"], shared["model"]
    known = question.with_password()
    if not (isinstance(dataset, str) and isinstance(model, str)):
        known = dataclasses.replace(known, database="sqlite://")
    return dataclasses.replace(
        known,
        dataset=dataset if isinstance(dataset, str) else _UNNAMED,
        model=model if isinstance(model, str) else _UNNAMED,
        max_iterations=shared["max_iterations"],
        batch_size=shared["batch_size"],
        optimizer=shared["optimizer"],
    )


def own_domains(
    config: Mapping[str, Any], *, population: bool = False
) -> dict[str, BaseDistribution]:
    """The domains in a config, as Ray turns them into Optuna's; names with ``/`` between levels.

    Args:
        config: the experiment's.
        population: whether each trial is a population, whose policies share everything else.

    Raises:
        StudyError: for a config that has a policy, or a domain that cannot be searched.
    """
    for name in {POLICY, POLICIES} & config.keys():
        raise StudyError(
            f"config has {name!r} already, which LRBenchSearcher chooses: take it out, or give "
            "it as points_to_evaluate"
        )
    try:
        own: dict[str, BaseDistribution] = OptunaSearch.convert_search_space(dict(config))
    except ValueError as error:
        raise StudyError(
            f"config: {' '.join(str(error).split())} Give a domain such as tune.uniform, "
            "tune.loguniform, tune.randint or tune.choice"
        ) from None
    for name in own:
        if name == FUNCTION or name.partition("/")[0] in SHARED:
            raise StudyError(
                f"config[{name!r}]: the task of a search is one: give a value, not a domain"
            )
        if population:
            raise StudyError(
                f"config[{name!r}] is a domain, and the policies of a population are trained with "
                "one value: give a value, or search without population"
            )
    return own


def flat(point: Any, own: Mapping[str, BaseDistribution]) -> Any:
    """A point with only its policy and the values that are searched, names as the study's."""
    if not isinstance(point, Mapping) or not {POLICY, POLICIES, FUNCTION} & point.keys():
        return point
    by_path = {**flatten_dict(dict(point)), **point}
    mine = (POLICY, POLICIES, FUNCTION, *own)
    function = f"{point.get(FUNCTION)}."
    return {name: by_path[name] for name in by_path if name in mine or name.startswith(function)}


def with_levels(flat_values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from names with ``/`` between levels.

    >>> with_levels({"lr": 1, "data/crop": 2, "data/kind": "a"})
    {'lr': 1, 'data': {'crop': 2, 'kind': 'a'}}
    """
    levels: dict[str, Any] = {}
    for name, value in flat_values.items():
        *parents, last = name.split("/")
        place = levels
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return levels


def criteria(stop: Any) -> dict[str, Any]:
    """An experiment's stopping criteria by the name of a number; none for any other kind."""
    return dict(stop) if isinstance(stop, Mapping) else {}


def _same(name: str, mine: Any, theirs: Any) -> bool:
    if name in {"dataset", "model"} and isinstance(mine, str) and isinstance(theirs, str):
        return bool(_names(mine) & _names(theirs))
    if name == "score_weights":
        return ScoreWeights.of(mine) == ScoreWeights.of(theirs)
    if not isinstance(mine, (str, int, float)) and not isinstance(theirs, (str, int, float)):
        return True  # objects, which Ray has replaced in the config
    return bool(mine == theirs)


def _names(given: str) -> set[str]:
    """What something may be called: a file or folder goes by its last name."""
    return {canonical_name(name) for name in (given, Path(given).name, Path(given).stem)}
