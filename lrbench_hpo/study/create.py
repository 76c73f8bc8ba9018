"""Optuna studies of LR policies, created with the prior in them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.errors import StudyError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.prior import Prior
from lrbench_hpo.prior.question import Question
from lrbench_hpo.prior.recommendation import Recommendation
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.study.optuna_internals import enqueued_params, has_heartbeat
from lrbench_hpo.study.orphans import (
    CLAIM,
    CREATOR_PATIENCE,
    READY,
    ask_again,
    claimed,
    end_orphans,
)
from lrbench_hpo.study.points import Point, read_point
from lrbench_hpo.study.policy_search import settings_of
from lrbench_hpo.study.sampler import LRBenchSampler
from lrbench_hpo.study.settings import OBJECTIVES, StudySettings
from lrbench_hpo.study.storage import open_storage
from lrbench_hpo.study.suggest import trial_params


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
    reference_lr: float | RangeTest | None = None,
    trusted_sources: Sequence[str] | None = None,
    seed: int | None = None,
    points_to_evaluate: Sequence[LRPolicy | Mapping[str, Any]] | None = None,
) -> optuna.Study:
    """An Optuna study of LR policies that starts from what is known.

    It begins with the best known policy of this task, or of the most similar ones; with another
    sampler than the default one, five of them are enqueued, once, however many workers open it.

    Args:
        dataset: name of the data set.
        model: name of the model.
        max_iterations: budget of a trial; the task's usual one when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        objective: ``score`` (one number, to be maximised) or ``pareto`` (Top-1 up, iterations to
            best down, loss difference down).
        functions: LR functions to search; those of the paper when None, ``"all"`` for every one.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        storage: any Optuna storage.
        study_name: the study's name in the storage.
        load_if_exists: go on with a study of that name instead of refusing. Trials of processes
            that were killed on this machine are ended as failed, unless the storage has a
            heartbeat, which does that on all machines; policies that were given or known to be
            good are then tried again.
        sampler: any Optuna sampler for the trials after the known-good ones; `LRBenchSampler`
            when None.
        pruner: any Optuna pruner; it sees the score at LR minima. None prunes nothing, for
            Optuna's own default compares policies in the middle of a cycle.
        score_weights: weights of the score.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known, or its range test.
        trusted_sources: the sources in the LR database whose runs count, as `Run.source` names
            them; all when None.
        seed: of the default sampler; with other results known, it draws other numbers.
        points_to_evaluate: policies of your own to try before the known-good ones: each an
            `LRPolicy`, or a mapping with one as ``lr_policy`` beside values of other parameters.

    Raises:
        LRBenchError: for bad input, or a study of that name with another task or space.

    >>> study = create_study("cifar10", "resnet32", database="sqlite://")
    >>> from lrbench_hpo import suggest_policy
    >>> print(suggest_policy(study.ask()))
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    """
    question = Question(
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
        trusted_sources=trusted_sources,
    )
    return study_for(
        question,
        Place(storage, study_name, load_if_exists),
        objective=objective,
        score_weights=score_weights,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        points_to_evaluate=points_to_evaluate or (),
    )


@dataclass(frozen=True)
class Place:
    """Where a study is kept.

    Attributes:
        storage: any Optuna storage; in memory when None.
        study_name: its name there.
        load_if_exists: go on with a study of that name instead of refusing.
    """

    storage: str | optuna.storages.BaseStorage | None = None
    study_name: str | None = None
    load_if_exists: bool = False


def study_for(
    question: Question,
    place: Place | None = None,
    *,
    objective: str = "score",
    score_weights: ScoreWeights | Mapping[str, float] | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    seed: int | None = None,
    points_to_evaluate: Sequence[LRPolicy | Mapping[str, Any]] = (),
) -> optuna.Study:
    """`create_study`, its question as one value.

    Raises:
        LRBenchError: for bad input, or a study of that name with another task or space.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError.among("objective", objective, OBJECTIVES)
    if seed is not None:
        seed = checks.whole("seed", seed, 0, error=StudyError)
    weights = ScoreWeights.of(score_weights)  # checked before the database is read
    place = place or Place()
    prior = question.prior()
    settings = settings_of(prior, objective, weights)
    given = [
        read_point(f"points_to_evaluate[{index}]", point, prior.space, prior.scale)
        for index, point in enumerate(points_to_evaluate)
    ]
    # The default sampler suggests them itself: on SQLite, two processes may get one waiting trial.
    first = prior.portfolio if sampler is not None else ()
    study, created = _open(place, objective)
    study.pruner = pruner or optuna.pruners.NopPruner()
    if created:
        # Only one worker can create the study, so only one enqueues.
        settings.keep_in(study)
        _keep_test(study, prior.range_test)
        _enqueue_given(study, given)
        _enqueue(study, first)
    else:
        _join(study, settings, first)
        if has_heartbeat(place.storage) or end_orphans(study):
            ask_again(study)
        _enqueue_given(study, given)
    study.sampler = sampler or LRBenchSampler.from_prior(
        prior, question, _sampler_seed(seed, study, prior)
    )
    return study


def _keep_test(study: optuna.Study, test: RangeTest | None) -> None:
    """Keep the range test that the scale comes from, without losses: some storages hold little."""
    if test is not None:
        study.set_user_attr("range_test", {**test.to_dict(), "lrs": [], "losses": [], "seeds": []})


def _open(place: Place, objective: str) -> tuple[optuna.Study, bool]:
    """A new study, or the one of that name; and whether it is new."""
    name = place.study_name
    opened = open_storage(place.storage)
    directions = list(OBJECTIVES[objective])
    try:
        return optuna.create_study(storage=opened, study_name=name, directions=directions), True
    except optuna.exceptions.DuplicatedStudyError:
        if not place.load_if_exists:
            raise StudyError(
                f"study_name={name!r} is taken in this storage: choose another name, or "
                "load_if_exists=True to go on with it"
            ) from None
    # Without a storage, no name is ever taken.
    return optuna.load_study(study_name=name, storage=opened), False  # type: ignore[arg-type]


def _sampler_seed(seed: int | None, study: optuna.Study, prior: Prior) -> int | None:
    """The same for the same seed and knowledge; a search with new results draws other numbers."""
    if seed is None:
        return None
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    entropy = (seed, prior.own_runs, len(ended))
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _enqueue_given(study: optuna.Study, points: Sequence[Point]) -> None:
    """Enqueue each of them once; two policies beyond the space may have the same point in it."""
    trials = study.get_trials(deepcopy=False)
    asked = [(t.user_attrs.get("given"), enqueued_params(t)) for t in trials]
    for point in points:
        wanted = (point.policy.to_dict(), dict(point.params))
        if wanted not in asked:
            attributes = {"given": wanted[0], "source": "given by hand"}
            study.enqueue_trial(wanted[1], user_attrs=attributes)
            asked.append(wanted)


def _enqueue(study: optuna.Study, portfolio: Sequence[Recommendation]) -> None:
    for row, entry in enumerate(portfolio, start=1):
        suggestion = {"source": "portfolio", "row": row, "why": entry.why}
        study.enqueue_trial(
            trial_params(entry.policy.function, entry.point),
            user_attrs={"source": entry.source, "why": entry.why, "suggestion": suggestion},
            skip_if_exists=True,
        )
    study.set_user_attr(READY, True)


def _join(
    study: optuna.Study, settings: StudySettings, portfolio: Sequence[Recommendation]
) -> None:
    """Check that an existing study is ours and of this task; finish what its creator started."""
    names = tuple(direction.name.lower() for direction in study.directions)
    if names != OBJECTIVES[settings.objective] and not StudySettings.known_to(study):
        raise StudyError(
            f"study {study.study_name!r} has the directions {', '.join(names)}, not those of "
            f"objective={settings.objective!r}: give another study_name"
        )
    deadline = time.monotonic() + CREATOR_PATIENCE
    while not study.user_attrs.get(READY) and time.monotonic() < deadline:
        if not StudySettings.known_to(study) and study.get_trials(deepcopy=False):
            break  # trials without settings: not a study of ours, no need to wait
        time.sleep(0.1)
    if not StudySettings.known_to(study) and not study.get_trials(deepcopy=False):
        settings.keep_in(study)  # its creator died first
    StudySettings.of(study).refuse_other(study.study_name, settings)
    waits = not study.user_attrs.get(READY)
    if waits and claimed(study, CLAIM) and not study.user_attrs.get(READY):
        _enqueue(study, portfolio)
