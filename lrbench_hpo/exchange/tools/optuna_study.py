"""Runs from an Optuna study, one of this package's or anybody's."""

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
from lrbench_hpo.exchange.foreign import (
    MEASURED,
    UNKNOWN_TIME,
    Foreign,
    as_share,
    is_nan,
    numbered,
    summary,
    without_shares,
)
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW
from lrbench_hpo.exchange.originals import ORIGINAL
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.exchange.tools.optuna_steps import STEP, Steps, theirs_of
from lrbench_hpo.exchange.tools.optuna_storage import existing_storage
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
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[Found | Rejected]:
    """The finished trials of a study, in order of their numbers.

    A study made by `create_study` says all of its runs itself. Of any other one, `foreign` says
    which parameters make the policy, and what its value is; user attributes, and ``value`` or
    ``value0``, ``value1``, ..., may be mapped like parameters. Optuna keeps local times without a
    zone; they are taken as UTC, wherever they are read.

    Steps of intermediate values are iterations where ``step`` is mapped to ``iteration``, and
    epochs where ``iterations_per_epoch`` is given. Else they are iterations if the trial's last
    one is at least half of its budget (of a trial that was not completed: if some complete trial's
    is); if it is not, no curve is kept.

    Args:
        storage: as for `opened`, or a study.
        study_name: the study's name.
        foreign: how names and units are meant.
        left_out: called with the place of each trial that is not over.
        tell: called with a line about curves that were not kept, at the end.

    Raises:
        LRBenchError: for a study that cannot be read at all, a mapped name that no trial has, or a
            value that is said to be what the study's direction contradicts.
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
        _check_names(study, trials, foreign)
        steps = Steps(trials, foreign)
        return numbered(
            without_shares(_foreign_rows(study, trials, foreign, steps, left_out, tell))
        )
    return numbered(_own_rows(study, trials, settings, foreign, left_out))


def _foreign_rows(
    study: optuna.Study,
    trials: list[FrozenTrial],
    foreign: Foreign,
    steps: Steps,
    left_out: Callable[[str], object],
    tell: Callable[[str], object],
) -> Iterator[tuple[Found | Rejected, Rejected | None]]:
    """The trials of anybody's study, each with what it is if their Top-1 are all shares."""
    for trial in trials:
        place = f"trial {trial.number}"
        if trial.state not in _STATUSES:
            left_out(place)
            continue
        try:
            run = _foreign_run(study, trial, foreign, steps)
            _ = run.uid  # what cannot be hashed is refused here
            share = None
            if foreign.percent:
                share = as_share(study.study_name, place, "Leave --percent out", _text(trial))
            yield Found(run, place=place), share
        except (*BAD_ROW, AttributeError) as error:
            yield Rejected(study.study_name, place, why(error), _text(trial)), None
    if steps.complaint is not None:
        tell(steps.complaint)


def _own_rows(
    study: optuna.Study,
    trials: list[FrozenTrial],
    settings: StudySettings,
    foreign: Foreign,
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
            run = _own_run(study, trial, settings, foreign)
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


def _foreign_run(study: optuna.Study, trial: FrozenTrial, foreign: Foreign, steps: Steps) -> Run:
    """The run of anybody's trial."""
    values = trial.values or []
    ours = foreign.named(theirs_of(trial))
    if values and len(study.directions) == 1 and "value" not in foreign.mapping:
        ours.setdefault(foreign.metric, values[0])
    status = _STATUSES[trial.state]
    if any(is_nan(ours.get(name)) for name in MEASURED) or _blew_up(trial):
        status = "diverged"
    budget = foreign.budget(ours)
    curve = steps.curve(trial)
    metrics = {name: foreign.measure(name, ours[name]) for name in MEASURED if name in ours}
    told = summary(curve, status == "complete")
    if not steps.are_iterations(trial, budget):
        told.pop("iterations_to_best", None)
        curve = ()
    if metrics.get("top1", told.get("top1")) != told.get("top1"):
        told |= {"iterations_to_best": _reached(curve, metrics["top1"])}
    return foreign.run(
        ours,
        _policy(trial, foreign, ours),
        SOURCE,
        max_iterations=budget,
        status=status,
        metrics={**{name: value for name, value in told.items() if value is not None}, **metrics},
        curve=curve,
        created_at=_time(trial, foreign),
        cost=_cost(trial),
        notes=_notes(study, trial),
    )


def _reached(curve: tuple[CurvePoint, ...], top1: float | None) -> int | None:
    """Where a curve has a Top-1 that is not its best; None where it never has."""
    return next((point.iteration for point in curve if point.top1 == top1 is not None), None)


def _policy(trial: FrozenTrial, foreign: Foreign, ours: Mapping[str, Any]) -> LRPolicy:
    try:
        return foreign.policy(ours)
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


def _check_names(study: optuna.Study, trials: list[FrozenTrial], foreign: Foreign) -> None:
    """Refuse a mapped name that no finished trial has."""
    has = {name for trial in trials if trial.state in _STATUSES for name in theirs_of(trial)}
    for name in foreign.mapping:
        if has and name not in has and name != STEP and not _NAME_OF_VALUE.fullmatch(name):
            some = ", ".join(map(printable, sorted(has)[:20]))
            raise ExchangeError(
                f"study {study.study_name!r}: no trial has {name[:60]!r}, which is mapped: they "
                f"have {some}"
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
