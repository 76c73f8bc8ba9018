"""Runs from an Optuna study, one of this package's or anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import checks
from lrbench_hpo.checks import printable
from lrbench_hpo.errors import RecordError, UnknownNameError
from lrbench_hpo.exchange.foreign import (
    MEASURED,
    ORIGINAL,
    UNKNOWN_TIME,
    Foreign,
    is_nan,
    numbered,
    summary,
)
from lrbench_hpo.exchange.jsonl import BAD_ROW
from lrbench_hpo.exchange.optuna_storage import existing_storage
from lrbench_hpo.exchange.reading import ExchangeError, Found, Rejected, why
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import SHARES, CurvePoint, Run, canonical_name
from lrbench_hpo.study_settings import StudySettings

SOURCE = "optuna"
MAX_TRIALS = 500_000
STUDY, TRIAL = "optuna_study", "optuna_trial"  # notes of a run
_STATUSES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_LOSSES = ("train_loss", "eval_loss")
_LOWER_IS_BETTER = (*_LOSSES, "iterations_to_best", "top1_std", "loss_difference")


def opened(
    storage: str | optuna.storages.BaseStorage, study_name: str | None = None
) -> optuna.Study:
    """An existing study; nothing is ever made by opening one.

    Args:
        storage: an Optuna storage, its URL (``sqlite:///FILE``, ``postgresql://...``,
            ``journal:///FILE``), or the file of one.
        study_name: the study; may be left out where there is only one.

    Raises:
        ExchangeError: for a storage that is not there, or is none of Optuna's.
        UnknownNameError: for a study that is not in it.
        MissingExtraError: for PostgreSQL without psycopg2.
    """
    there = existing_storage(storage) if isinstance(storage, str) else storage
    names = sorted(study.study_name for study in there.get_all_studies())
    if study_name is None:
        if len(names) != 1:
            some = ", ".join(map(repr, names[:10])) or "none"
            raise ExchangeError(f"name the study, one of {len(names)} there: {some}")
        study_name = names[0]
    if study_name not in names:
        known = [printable(name) for name in names] or ["none is there"]
        raise UnknownNameError.among("study", study_name, known)
    return optuna.load_study(study_name=study_name, storage=there)


def read(
    storage: str | optuna.storages.BaseStorage | optuna.Study,
    study_name: str | None = None,
    foreign: Foreign = Foreign(),  # noqa: B008 (frozen)
    *,
    left_out: Callable[[str], object] = lambda place: None,
) -> Iterator[Found | Rejected]:
    """The finished trials of a study, in order of their numbers.

    A study made by `create_study` says all of its runs itself. Of any other one, `foreign` says
    which parameters make the policy, and what its value is; user attributes, and ``value`` or
    ``value0``, ``value1``, ..., may be mapped like parameters. Optuna keeps local times without a
    zone; they are taken as UTC, wherever they are read.

    Args:
        storage: as for `opened`, or a study.
        study_name: the study's name.
        foreign: how names and units are meant.
        left_out: called with the place of each trial that is not over.

    Raises:
        LRBenchError: for a study that cannot be read at all, or a value that is said to be what
            the study's direction contradicts.
    """
    study = storage if isinstance(storage, optuna.Study) else opened(storage, study_name)
    try:
        trials = study.get_trials(deepcopy=False)
        settings = StudySettings.of(study) if StudySettings.known_to(study) else None
    except (*BAD_ROW, AttributeError, sa.exc.SQLAlchemyError) as error:
        raise ExchangeError(f"study {study.study_name!r} cannot be read: {why(error)}") from None
    if len(trials) > MAX_TRIALS:
        raise ExchangeError(f"{len(trials):,} trials: expected at most {MAX_TRIALS:,}")
    if settings is None:
        _check_directions(study, foreign)
    return numbered(_rows(study, trials, settings, foreign, left_out))


def _rows(
    study: optuna.Study,
    trials: list[FrozenTrial],
    settings: StudySettings | None,
    foreign: Foreign,
    left_out: Callable[[str], object],
) -> Iterator[Found | Rejected]:
    seen: set[str] = set()
    for trial in trials:
        place = f"trial {trial.number}"
        if trial.state not in _STATUSES:
            left_out(place)
            continue
        try:
            if settings is not None:
                original = trial.user_attrs.get(ORIGINAL)
                if isinstance(original, str):
                    if original in seen:  # recalled, not trained again
                        left_out(place)
                        continue
                    seen.add(original)
                run = _own_run(study, trial, settings, foreign)
            else:
                run = _foreign_run(study, trial, foreign)
            _ = run.uid  # what cannot be hashed is refused here
            yield Found(run, place=place)
        except (*BAD_ROW, AttributeError) as error:
            yield Rejected(study.study_name, place, why(error), _text(trial))


def _own_run(
    study: optuna.Study, trial: FrozenTrial, settings: StudySettings, foreign: Foreign
) -> Run:
    """The run of a trial that this package suggested."""
    told = trial.user_attrs
    if "policy" not in told:
        raise RecordError("no LR policy: the trial ended before it had one")
    for name, given, known in (
        ("dataset", foreign.dataset, settings.task.dataset),
        ("model", foreign.model, settings.task.model),
    ):
        if given is not None and canonical_name(given) != canonical_name(known):
            raise RecordError(f"{name}={given!r}: the study is of {known!r}: leave --{name} out")
    notes = _notes(study, trial) | {"policy_from": told.get("source")}
    for name in (ORIGINAL, "score", "evaluation_samples"):
        if told.get(name) is not None:
            notes[name] = told[name]
    metrics = {name: told[name] for name in MEASURED if name in told}
    status = told.get("status") or _STATUSES[trial.state]
    return Run(
        task=settings.task,
        policy=LRPolicy.from_dict(checks.mapping("policy", told["policy"])),
        max_iterations=settings.scale.max_iterations,
        split=foreign.split,
        status=status,
        metrics=metrics,
        cost=told.get("cost") or {},
        source=foreign.source or SOURCE,
        created_at=_time(trial, foreign),
        notes=notes,
    )


def _foreign_run(study: optuna.Study, trial: FrozenTrial, foreign: Foreign) -> Run:
    """The run of anybody's trial."""
    values = trial.values or []
    theirs: dict[str, Any] = {**trial.user_attrs, **trial.params}
    theirs |= {f"value{index}": value for index, value in enumerate(values)}
    ours = foreign.named(theirs | ({"value": values[0]} if len(values) == 1 else {}))
    if values and len(study.directions) == 1 and "value" not in foreign.mapping:
        ours.setdefault(foreign.metric, values[0])
    status = _STATUSES[trial.state]
    if any(is_nan(ours.get(name)) for name in MEASURED) or _blew_up(trial):
        status = "diverged"
    budget = foreign.budget(ours)
    curve = _curve(trial, foreign)
    metrics = {name: foreign.measure(name, ours[name]) for name in MEASURED if name in ours}
    told = summary(curve, status == "complete")
    return foreign.run(
        ours,
        foreign.policy(ours),
        SOURCE,
        max_iterations=budget,
        status=status,
        metrics={**told, **metrics},
        curve=curve,
        created_at=_time(trial, foreign),
        cost=_cost(trial),
        notes=_notes(study, trial),
    )


def _blew_up(trial: FrozenTrial) -> bool:
    reported = trial.intermediate_values
    return bool(reported) and is_nan(reported[max(reported)])


def _curve(trial: FrozenTrial, foreign: Foreign) -> tuple[CurvePoint, ...]:
    """Intermediate values; steps that count epochs from 0 are told after them."""
    if foreign.metric not in ("top1", *_LOSSES):
        return ()
    steps = sorted(trial.intermediate_values)
    first = 1 if steps and steps[0] == 0 else 0
    points = {}
    for step in steps:
        at = step
        if foreign.iterations_per_epoch is not None:
            at = round(foreign.in_iterations(step + first))
        value = foreign.measure(foreign.metric, trial.intermediate_values[step])
        points[at] = CurvePoint(at, **{foreign.metric: value})
    return tuple(points.values())


def _cost(trial: FrozenTrial) -> dict[str, float]:
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    return {} if seconds is None or seconds < 0 else {"seconds": seconds}


def _time(trial: FrozenTrial, foreign: Foreign) -> str:
    moment = trial.datetime_complete or trial.datetime_start
    if moment is None:
        return foreign.created_at or UNKNOWN_TIME
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def _notes(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    return {STUDY: study.study_name, TRIAL: trial.number}


def _text(trial: FrozenTrial) -> str:
    return printable(
        f"{trial.state.name} {trial.values} {trial.params} {trial.user_attrs}"[:10_000]
    )


def _check_directions(study: optuna.Study, foreign: Foreign) -> None:
    """Refuse a value that is said to be what the study's direction contradicts."""
    names: Mapping[int, str]
    if len(study.directions) == 1:
        names = {0: foreign.mapping.get("value", foreign.mapping.get("value0", foreign.metric))}
    else:
        places = {f"value{index}": index for index in range(len(study.directions))}
        names = {places[name]: ours for name, ours in foreign.mapping.items() if name in places}
        if not names and not any(ours in MEASURED for ours in foreign.mapping.values()):
            raise ExchangeError(
                f"study {study.study_name!r} has {len(places)} values: say what they are, as in "
                "--map value0=top1"
            )
    for index, name in names.items():
        upwards = study.directions[index] == optuna.study.StudyDirection.MAXIMIZE
        if upwards == (name in _LOWER_IS_BETTER) and name in (*SHARES, *_LOWER_IS_BETTER):
            does = "maximizes" if upwards else "minimizes"
            raise ExchangeError(
                f"study {study.study_name!r} {does} its value, which is said to be {name}: say "
                "what it is with --metric, or map it"
            )
