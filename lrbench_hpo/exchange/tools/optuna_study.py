"""Runs from an Optuna study, one of this package or any other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name, printable
from lrbench_hpo.errors import PolicyError, RecordError, UnknownNameError, why
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW
from lrbench_hpo.exchange.originals import ORIGINAL
from lrbench_hpo.exchange.rows import UNKNOWN_TIME, ExchangeError, Found, Rejected, numbered
from lrbench_hpo.exchange.shares import as_share, without_shares
from lrbench_hpo.exchange.tools.optuna_steps import STEP, Steps, theirs_of
from lrbench_hpo.exchange.tools.optuna_storage import existing_storage
from lrbench_hpo.exchange.translation import (
    MEASURED,
    Translation,
    is_nan,
    summary,
)
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import SHARES, CurvePoint, Run
from lrbench_hpo.study.settings import StudySettings

SOURCE = "optuna"
MAX_TRIALS = 500_000
STUDY, TRIAL = "optuna_study", "optuna_trial"  # notes of a run
_STATUSES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_NAME_OF_VALUE = re.compile(r"value\d*", re.ASCII)
_LOWER_IS_BETTER = ("train_loss", "eval_loss", "iterations_to_best", "top1_std", "loss_difference")


def open_study(
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
    translation: Translation = Translation(),  # noqa: B008 (frozen)
    *,
    left_out: Callable[[str], object] = lambda place: None,
    notify: Callable[[str], object] = lambda line: None,
) -> Iterator[Found | Rejected]:
    """The finished trials of a study, in order of their numbers.

    A study made by `create_study` describes its runs completely. Of any other one, `translation`
    names the parameters of the policy, and the metric that its value is; user attributes, and
    ``value`` or ``value0``, ``value1``, ..., may be mapped like parameters. Optuna keeps local
    times without a zone; they are taken as UTC, wherever they are read.

    Steps of intermediate values are iterations where ``step`` is mapped to ``iteration``, and
    epochs where ``iterations_per_epoch`` is given. Else they are iterations if the trial's last
    one is at least half of its budget (of a trial that was not completed: if some complete trial's
    is); if it is not, no curve is kept.

    Args:
        storage: as for `open_study`, or a study.
        study_name: the study's name.
        translation: how names and units are meant.
        left_out: called with the place of each trial that is not over.
        notify: called with a line about curves that were not kept, at the end.

    Raises:
        LRBenchError: for a study that cannot be read at all, a mapped name that no trial has, or a
            metric that contradicts the study's direction.
    """
    study = storage if isinstance(storage, optuna.Study) else open_study(storage, study_name)
    try:
        trials = study.get_trials(deepcopy=False)
        settings = StudySettings.of(study) if StudySettings.known_to(study) else None
    except (*BAD_ROW, AttributeError, sa.exc.SQLAlchemyError) as error:
        raise ExchangeError(f"study {study.study_name!r} cannot be read: {why(error)}") from None
    if len(trials) > MAX_TRIALS:
        raise ExchangeError(f"{len(trials):,} trials: expected at most {MAX_TRIALS:,}")
    if settings is None:
        _check_directions(study, translation)
        _check_names(study, trials, translation)
        steps = Steps(trials, translation)
        return numbered(
            without_shares(_translated_rows(study, trials, translation, steps, left_out, notify))
        )
    return numbered(_own_rows(study, trials, settings, translation, left_out))


def _translated_rows(
    study: optuna.Study,
    trials: list[FrozenTrial],
    translation: Translation,
    steps: Steps,
    left_out: Callable[[str], object],
    notify: Callable[[str], object],
) -> Iterator[tuple[Found | Rejected, Rejected | None]]:
    """The trials of another study, each with its rejection in case all Top-1 are shares."""
    for trial in trials:
        place = f"trial {trial.number}"
        if trial.state not in _STATUSES:
            left_out(place)
            continue
        try:
            run = _translated_run(study, trial, translation, steps)
            _ = run.uid  # what cannot be hashed is refused here
            share = None
            if translation.percent:
                share = as_share(study.study_name, place, "Leave --percent out", _text(trial))
            yield Found(run, place=place), share
        except (*BAD_ROW, AttributeError) as error:
            yield Rejected(study.study_name, place, why(error), _text(trial)), None
    if steps.complaint is not None:
        notify(steps.complaint)


def _own_rows(
    study: optuna.Study,
    trials: list[FrozenTrial],
    settings: StudySettings,
    translation: Translation,
    left_out: Callable[[str], object],
) -> Iterator[Found | Rejected]:
    seen: set[str] = set()
    for trial in trials:
        place = f"trial {trial.number}"
        original = trial.user_attrs.get(ORIGINAL)
        if trial.state not in _STATUSES or (isinstance(original, str) and original in seen):
            left_out(place)  # not over; or recalled, not trained again
            continue
        try:
            if isinstance(original, str):
                seen.add(original)
            run = _own_run(study, trial, settings, translation)
            _ = run.uid  # what cannot be hashed is refused here
            yield Found(run, place=place)
        except (*BAD_ROW, AttributeError) as error:
            yield Rejected(study.study_name, place, why(error), _text(trial))


def _own_run(
    study: optuna.Study, trial: FrozenTrial, settings: StudySettings, translation: Translation
) -> Run:
    """The run of a trial that this package suggested."""
    attrs = trial.user_attrs
    if "policy" not in attrs:
        raise RecordError("no LR policy: the trial ended before it had one")
    for name, given, known in (
        ("dataset", translation.dataset, settings.task.dataset),
        ("model", translation.model, settings.task.model),
    ):
        if given is not None and canonical_name(given) != canonical_name(known):
            raise RecordError(f"{name}={given!r}: the study is of {known!r}: leave --{name} out")
    notes = _notes(study, trial) | {"policy_from": attrs.get("source")}
    for name in (ORIGINAL, "score", "evaluation_samples"):
        if attrs.get(name) is not None:
            notes[name] = attrs[name]
    metrics = {name: attrs[name] for name in MEASURED if name in attrs}
    status = attrs.get("status") or _STATUSES[trial.state]
    return Run(
        task=settings.task,
        policy=LRPolicy.from_dict(checks.mapping("policy", attrs["policy"])),
        max_iterations=settings.scale.max_iterations,
        split=translation.split,
        status=status,
        metrics=metrics,
        cost=attrs.get("cost") or {},
        source=translation.source or SOURCE,
        created_at=_time(trial, translation),
        notes=notes,
    )


def _translated_run(
    study: optuna.Study, trial: FrozenTrial, translation: Translation, steps: Steps
) -> Run:
    """The run of a trial of another study."""
    values = trial.values or []
    ours = translation.named(theirs_of(trial))
    if values and len(study.directions) == 1 and "value" not in translation.mapping:
        ours.setdefault(translation.metric, values[0])
    status = _STATUSES[trial.state]
    if any(is_nan(ours.get(name)) for name in MEASURED) or _blew_up(trial):
        status = "diverged"
    budget = translation.budget(ours)
    curve = steps.curve(trial)
    metrics = {name: translation.measure(name, ours[name]) for name in MEASURED if name in ours}
    of_curve = summary(curve, status == "complete")
    if not steps.are_iterations(trial, budget):
        of_curve.pop("iterations_to_best", None)
        curve = ()
    if metrics.get("top1", of_curve.get("top1")) != of_curve.get("top1"):
        of_curve |= {"iterations_to_best": _reached(curve, metrics["top1"])}
    return translation.run(
        ours,
        _policy(trial, translation, ours),
        SOURCE,
        max_iterations=budget,
        status=status,
        metrics={name: value for name, value in of_curve.items() if value is not None} | metrics,
        curve=curve,
        created_at=_time(trial, translation),
        cost=_cost(trial),
        notes=_notes(study, trial),
    )


def _reached(curve: tuple[CurvePoint, ...], top1: float | None) -> int | None:
    """Where a curve has a Top-1 that is not its best; None where it never has."""
    return next((point.iteration for point in curve if point.top1 == top1 is not None), None)


def _policy(trial: FrozenTrial, translation: Translation, ours: Mapping[str, Any]) -> LRPolicy:
    try:
        return translation.policy(ours)
    except PolicyError as error:
        has = ", ".join(map(printable, sorted(theirs_of(trial))))[:200]
        reason = f"{why(error)}; --map NAME=k0 maps a name of: {has}"
        raise RecordError(reason) from None


def _blew_up(trial: FrozenTrial) -> bool:
    reported = trial.intermediate_values
    return bool(reported) and is_nan(reported[max(reported)])


def _cost(trial: FrozenTrial) -> dict[str, float]:
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    return {} if seconds is None or seconds < 0 else {"seconds": seconds}


def _time(trial: FrozenTrial, translation: Translation) -> str:
    moment = trial.datetime_complete or trial.datetime_start
    if moment is None:
        return translation.created_at or UNKNOWN_TIME
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def _notes(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    return {STUDY: study.study_name, TRIAL: trial.number}


def _text(trial: FrozenTrial) -> str:
    return printable(
        f"{trial.state.name} {trial.values} {trial.params} {trial.user_attrs}"[:10_000]
    )


def _check_names(study: optuna.Study, trials: list[FrozenTrial], translation: Translation) -> None:
    """Refuse a mapped name that no finished trial has."""
    has = {name for trial in trials if trial.state in _STATUSES for name in theirs_of(trial)}
    for name in translation.mapping:
        if has and name not in has and name != STEP and not _NAME_OF_VALUE.fullmatch(name):
            some = ", ".join(map(printable, sorted(has)[:20]))
            raise ExchangeError(
                f"study {study.study_name!r}: no trial has {name[:60]!r}, which is mapped: they "
                f"have {some}"
            )


def _check_directions(study: optuna.Study, translation: Translation) -> None:
    """Refuse a metric that contradicts the study's direction."""
    names: Mapping[int, str]
    if len(study.directions) == 1:
        names = {
            0: translation.mapping.get(
                "value", translation.mapping.get("value0", translation.metric)
            )
        }
    else:
        places = {f"value{index}": index for index in range(len(study.directions))}
        names = {places[name]: ours for name, ours in translation.mapping.items() if name in places}
        if not names and not any(ours in MEASURED for ours in translation.mapping.values()):
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
