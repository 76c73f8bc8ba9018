"""Optuna studies of LR policies: created with the prior in them, asked for one policy a trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lrbench_hpo import coordinates
from lrbench_hpo.coordinates import KINDS, Scale
from lrbench_hpo.database import Database
from lrbench_hpo.errors import StudyError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.prior import Prior, Recommendation, prior_for
from lrbench_hpo.ranking import ScoreWeights
from lrbench_hpo.records import Task
from lrbench_hpo.space import Range, SearchSpace
from lrbench_hpo.space_files import load_space
from lrbench_hpo.storage import open_storage

FUNCTION = "lr_function"
OBJECTIVES: Mapping[str, tuple[Literal["maximize", "minimize"], ...]] = {
    "score": ("maximize",),
    "pareto": ("maximize", "minimize", "minimize"),  # Top-1, iterations to best, loss difference
}
_SETTINGS, _READY = "lrbench", "lrbench:ready"
_CREATOR_PATIENCE = 30.0  # seconds: how long a second worker waits for the first one's set-up


@dataclass(frozen=True)
class StudySettings:
    """What a study was created with; kept in it, so that every worker reads the same.

    Attributes:
        task: the task, with its reference LR.
        space: the search space.
        scale: budget and reference LR.
        objective: ``score`` or ``pareto``.
        weights: of the score.
        summary: what the search started from, in words.
        reference_origin: where the reference LR comes from, in words.
    """

    task: Task
    space: SearchSpace
    scale: Scale
    objective: str
    weights: ScoreWeights
    summary: str
    reference_origin: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types, as the study's user attribute holds them."""
        return {
            "task": self.task.to_dict(),
            "space": self.space.to_dict(),
            "max_iterations": self.scale.max_iterations,
            "reference_lr": self.scale.reference_lr,
            "objective": self.objective,
            "score_weights": self.weights.to_dict(),
            "summary": self.summary,
            "reference_origin": self.reference_origin,
        }

    @classmethod
    def of(cls, study: optuna.Study) -> StudySettings:
        """The settings of a study made by `create_study`.

        Raises:
            StudyError: for any other study.
        """
        data = study.user_attrs.get(_SETTINGS)
        if data is None:
            raise StudyError(
                f"study {study.study_name!r} knows no LR task: make it with "
                "lrbench_hpo.create_study, or give suggest_policy max_iterations and reference_lr"
            )
        return cls(
            task=Task.from_dict(data["task"]),
            space=SearchSpace.from_dict(data["space"]),
            scale=Scale(data["max_iterations"], data["reference_lr"]),
            objective=data["objective"],
            weights=ScoreWeights.of(data["score_weights"]),
            summary=data["summary"],
            reference_origin=data["reference_origin"],
        )


def create_study(
    dataset: str,
    model: str,
    *,
    max_iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    objective: str = "score",
    functions: str | Sequence[str] | None = None,
    search_space: str | Path | SearchSpace | None = None,
    database: str | Path | Database | None = None,
    storage: str | optuna.storages.BaseStorage | None = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    score_weights: ScoreWeights | Mapping[str, float] | None = None,
    task: Mapping[str, Any] | None = None,
    reference_lr: float | None = None,
    seed: int | None = None,
) -> optuna.Study:
    """An Optuna study of LR policies that starts from what is known.

    The best known policies of this task, or of the most similar ones, are enqueued as its first
    trials, once, however many workers open the study.

    Args:
        dataset: name of the data set.
        model: name of the model.
        max_iterations: budget of a trial; the task's usual one when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        objective: ``score`` (one number, to be maximised) or ``pareto`` (Top-1 up, iterations to
            best down, loss difference down).
        functions: LR functions to search; LRBench's 13 when None, ``"all"`` for all 34.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        storage: any Optuna storage.
        study_name: the study's name in the storage.
        load_if_exists: go on with a study of that name instead of refusing.
        sampler: any Optuna sampler for the trials after the known-good ones; TPE when None.
        pruner: any Optuna pruner; it sees the score at LR minima. None prunes nothing, for
            Optuna's own default compares policies in the middle of a cycle.
        score_weights: weights of the score.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known.
        seed: of the default sampler.

    Raises:
        LRBenchError: for bad input, or a study of that name with another task or space.

    >>> study = create_study("cifar10", "resnet32", database="sqlite://")
    >>> print(suggest_policy(study.ask()))
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError.among("objective", objective, OBJECTIVES)
    weights = ScoreWeights.of(score_weights)
    prior = prior_for(
        dataset,
        model,
        max_iterations=max_iterations,
        batch_size=batch_size,
        optimizer=optimizer,
        functions=functions,
        search_space=search_space,
        database=database,
        task=task,
        reference_lr=reference_lr,
    )
    settings = _settings(prior, objective, weights)
    sampler = sampler or optuna.samplers.TPESampler(seed=seed)
    pruner = pruner or optuna.pruners.NopPruner()
    storage = open_storage(storage)
    try:
        study = optuna.create_study(
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            study_name=study_name,
            directions=list(OBJECTIVES[objective]),
        )
    except optuna.exceptions.DuplicatedStudyError:
        if not load_if_exists:
            raise StudyError(
                f"study_name={study_name!r} is taken in this storage: choose another name, or "
                "load_if_exists=True to go on with it"
            ) from None
        study = optuna.load_study(
            study_name=study_name,
            storage=storage,  # type: ignore[arg-type] # without one, no name is ever taken
            sampler=sampler,
            pruner=pruner,
        )
        _join(study, settings, prior)
        return study
    # Only one worker can create the study, so only one enqueues.
    study.set_user_attr(_SETTINGS, settings.to_dict())
    _enqueue(study, prior.portfolio)
    return study


def _settings(prior: Prior, objective: str, weights: ScoreWeights) -> StudySettings:
    return StudySettings(
        task=prior.task,
        space=prior.space,
        scale=prior.scale,
        objective=objective,
        weights=weights,
        summary=prior.summary,
        reference_origin=prior.reference_origin,
    )


def _enqueue(study: optuna.Study, portfolio: Sequence[Recommendation]) -> None:
    for entry in portfolio:
        study.enqueue_trial(
            trial_params(entry.policy.function, entry.point),
            user_attrs={"source": entry.why},
            skip_if_exists=True,
        )
    study.set_user_attr(_READY, True)


def _join(study: optuna.Study, settings: StudySettings, prior: Prior) -> None:
    """Check that an existing study is ours and of this task; finish what its creator began."""
    deadline = time.monotonic() + _CREATOR_PATIENCE
    while not study.user_attrs.get(_READY) and time.monotonic() < deadline:
        if _SETTINGS not in study.user_attrs and study.get_trials(deepcopy=False):
            break  # trials without settings: somebody else's study, no need to wait
        time.sleep(0.1)
    if _SETTINGS not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(_SETTINGS, settings.to_dict())  # its creator died first
    theirs = StudySettings.of(study)
    _refuse_other(study.study_name, theirs, settings)
    if not study.user_attrs.get(_READY):
        _enqueue(study, prior.portfolio)


def _refuse_other(name: str, theirs: StudySettings, ours: StudySettings) -> None:
    differences = {
        "dataset": (theirs.task.dataset, ours.task.dataset),
        "model": (theirs.task.model, ours.task.model),
        "optimizer": (theirs.task.optimizer, ours.task.optimizer),
        "batch_size": (theirs.task.batch_size, ours.task.batch_size),
        "max_iterations": (theirs.scale.max_iterations, ours.scale.max_iterations),
        "objective": (theirs.objective, ours.objective),
        "score_weights": (theirs.weights, ours.weights),
        "search space": (theirs.space.fingerprint, ours.space.fingerprint),
    }
    for what, (there, here) in differences.items():
        if there != here:
            raise StudyError(
                f"study {name!r} was created with {what} {there}, not {here}: give the same, or "
                "another study_name"
            )


def distributions(space: SearchSpace, function: str) -> dict[str, BaseDistribution]:
    """Optuna distributions of the coordinates of one function, names scoped by the function.

        >>> from lrbench_hpo.space_files import load_space
    from lrbench_hpo.storage import open_storage
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
    study = getattr(trial, "study", None)  # an optuna.trial.FixedTrial has none
    given = (search_space, functions, max_iterations, reference_lr)
    if max_iterations is not None and reference_lr is not None:
        space = load_space(search_space or "default").restricted(functions).within(max_iterations)
        scale = Scale(max_iterations, reference_lr)
    elif any(value is not None for value in given):
        raise StudyError(
            "suggest_policy: a study made by create_study has its own space and budget; for any "
            "other, give both max_iterations and reference_lr"
        )
    elif study is None:
        raise StudyError(
            "suggest_policy: a trial of no study needs max_iterations and reference_lr"
        )
    else:
        settings = StudySettings.of(study)
        space, scale = settings.space, settings.scale
    function = _suggest(trial, FUNCTION, CategoricalDistribution(list(space.functions)))
    point: dict[str, float] = {}
    for name, distribution in distributions(space, function).items():
        coordinate = name.partition(".")[2]
        if coordinate.startswith("gap") and int(coordinate[3:]) > point["drops"]:
            continue  # conditional: as many gaps as there are drops
        point[coordinate] = _suggest(trial, name, distribution)
    policy = coordinates.to_policy(function, point, scale)
    trial.set_user_attr("policy", policy.to_dict())
    if "source" not in trial.user_attrs:
        sampler = type(study.sampler).__name__ if study else "fixed"
        trial.set_user_attr("source", f"sampler: {sampler}")
    return policy


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, log=distribution.log
            )
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, log=distribution.log
            )
    raise StudyError(f"{name}: {distribution} is no distribution of a search space")
