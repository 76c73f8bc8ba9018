"""Runs from the directory of a Ray Tune experiment: without Ray, and no pickle is read."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrbench_hpo.checks import printable
from lrbench_hpo.errors import RecordError, why
from lrbench_hpo.exchange import folders
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW
from lrbench_hpo.exchange.originals import ORIGINAL
from lrbench_hpo.exchange.rows import UNKNOWN_TIME, ExchangeError, Found, Rejected, numbered
from lrbench_hpo.exchange.shares import as_share, without_shares
from lrbench_hpo.exchange.translation import MEASURED, Translation
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reported_runs import Reports, diverged, reported_run
from lrbench_hpo.records.reports import RUN, RUNNING, final_status, finite, run_in
from lrbench_hpo.records.run import Run

SOURCE = "ray"
EXPERIMENT, TRIAL = "ray_experiment", "ray_trial"  # notes of a run
POLICY = "lr_policy"
_PARAMS, _RESULTS, _PROGRESS = "params.json", "result.json", "progress.csv"
_ERRORS = ("error.txt", "error.pkl")  # whether they are there; never what is in them
_OVER = {"TERMINATED", "ERROR"}
_MAX_LEVELS, _MAX_KEYS = 8, 1_000
_LOSSES = ("score", "train_loss", "eval_loss", "loss")


@dataclass
class _Trial:
    """What a trial's folder holds."""

    config: dict[str, Any] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    last: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True)
class _State:
    """The state of a trial in the experiment's snapshot."""

    status: str | None = None
    done: bool | None = None
    stop: Mapping[str, float] = field(default_factory=dict)


def read(
    folder: str | Path,
    translation: Translation = Translation(),  # noqa: B008 (frozen)
    *,
    left_out: Callable[[str], object] = lambda place: None,
) -> Iterator[Found | Rejected]:
    """The trials of an experiment that are over, in order of their folders.

    Trials of `lrbench_hpo.train` describe their runs completely. Of others, ``config`` may hold
    ``lr_policy``, or names that are mapped, with ``/`` between levels; so may the reports, where
    ``iteration`` (or ``training_iteration``, counted in epochs if `translation` has their
    length) is the place of a report.

    Args:
        folder: the experiment's, which holds a folder for each trial.
        translation: how names and units are meant.
        left_out: called with the place of each trial that is not over.

    Raises:
        ExchangeError: for a folder that holds no trials.
    """
    root = folders.checked(folder)
    trials = [
        entry
        for entry in sorted(root.iterdir())
        if not entry.is_symlink() and entry.is_dir() and _is_trial(entry)
    ]
    if not trials:
        hint = f"expected folders with {_RESULTS} or {_PARAMS}, as Ray Tune writes them"
        raise ExchangeError(f"{printable(str(root))}: no trials in it: {hint}")
    return numbered(without_shares(_rows(root, trials, translation, left_out)))


def _is_trial(folder: Path) -> bool:
    try:
        names = {file.name for file in folders.files_in(folder)}
    except OSError:  # whatever it is, reading its trial reports it
        return True
    return bool(names & {_PARAMS, _RESULTS, _PROGRESS})


def _rows(
    root: Path, trials: list[Path], translation: Translation, left_out: Callable[[str], object]
) -> Iterator[tuple[Found | Rejected, Rejected | None]]:
    """The trials, each with its rejection in case all Top-1 are shares, given as per cent."""
    states = _states(root)
    for folder in trials:
        place = f"folder {folder.name}"
        trial = _Trial()
        try:
            _read_trial(folder, translation, trial)
            trial_id = str(trial.last.get("trial_id", folder.name))
            state = states.get(trial_id, _State())
            if state.status is not None and state.status not in _OVER:
                left_out(place)
                continue
            notes = {EXPERIMENT: root.resolve().name, TRIAL: trial_id}
            run = _run(trial, state, translation, notes)
            _ = run.uid  # what cannot be hashed is refused here
            share = None
            if translation.percent and ORIGINAL not in run.notes:
                share = as_share(str(root), place, "Leave --percent out", _text(trial))
            yield Found(run, place=place), share
        except (*BAD_ROW, OSError) as error:
            yield Rejected(str(root), place, why(error), _text(trial)), None


def _text(trial: _Trial) -> str:
    return json.dumps({"config": trial.config, "last": trial.last}, default=str)


def _states(root: Path) -> dict[str, _State]:
    """The states of trials in the newest snapshot of the experiment; none if it is damaged."""
    snapshots = [f for f in folders.files_in(root) if f.match("experiment_state-*.json")]
    found: dict[str, _State] = {}
    try:
        data = folders.json_of("state", folders.small(snapshots[-1]))["trial_data"]
        for about, metadata in data:
            known, details = json.loads(about), json.loads(metadata)
            limits = known.get("stopping_criterion")
            stop = limits if isinstance(limits, dict) else {}
            found[str(known["trial_id"])] = _State(
                str(known["status"]),
                bool((details.get("last_result") or {}).get("done")),
                {name: limit for name, limit in stop.items() if finite(limit) is not None},
            )
    except (*BAD_ROW, OSError, AttributeError):
        return found
    return found


def _read_trial(folder: Path, translation: Translation, trial: _Trial) -> None:
    """Read the files of a trial."""
    files = {file.name: file for file in folders.files_in(folder)}
    trial.failed = any(name in files for name in _ERRORS)
    if _PARAMS in files:
        config = folders.json_of(_PARAMS, folders.small(files[_PARAMS]))
        if not isinstance(config, dict):
            raise RecordError(f"{_PARAMS}: expected a mapping of names to values")
        trial.config = config
    if _RESULTS in files and files[_RESULTS].stat().st_size:
        results = _json_lines(files[_RESULTS])
    elif _PROGRESS in files:
        results = _csv_rows(files[_PROGRESS])
    else:
        results = iter(())
    for result in results:
        trial.last = result
        if not trial.config and isinstance(result.get("config"), dict):
            trial.config = result["config"]
        if RUN not in result:
            trial.last = _in_our_names(result, translation)
            trial.reports.add(trial.last)


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(folders.lines(file), 1):
        if not line.strip():
            continue
        if not line.endswith("\n"):
            try:  # Ray was killed while it wrote: all before is whole
                result = folders.json_of(_RESULTS, line)
            except RecordError:
                return
        else:
            result = folders.json_of(f"{_RESULTS} line {number}", line)
        if not isinstance(result, dict):
            raise RecordError(f"{_RESULTS} line {number}: expected a JSON object")
        yield result


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(folders.lines(file))
    try:
        for row in rows:
            yield {str(name): _value(cell) for name, cell in row.items() if isinstance(cell, str)}
    except csv.Error as error:
        raise RecordError(f"{file.name}: after line {rows.line_num}: not CSV: {error}") from None


def _value(cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def _in_our_names(result: Mapping[str, Any], translation: Translation) -> dict[str, Any]:
    """A report with our names and units."""
    theirs = _flat(result)
    ours = {**theirs, **translation.named(theirs)}
    for name, target in translation.mapping.items():
        # Ray's JSON has null for a number that is not one.
        if name in theirs and theirs[name] is None and target in (*MEASURED, *_LOSSES):
            ours[target] = float("nan")
    for name in _LOSSES:
        if name in ours and ours[name] is None:
            ours[name] = float("nan")
    for name in MEASURED:
        if finite(ours.get(name)) is not None:
            ours[name] = translation.measure(name, ours[name])
    if translation.iterations_per_epoch is not None and "iteration" not in ours:
        epochs = ours.get("epoch", ours.get("training_iteration"))
        ours["iteration"] = round(translation.in_iterations(epochs))
    return ours


def _flat(values: Mapping[str, Any], prefix: str = "", level: int = 0) -> dict[str, Any]:
    """Nested mappings as one, names with ``/`` between levels."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and level < _MAX_LEVELS:
            flat |= _flat(value, f"{prefix}{name}/", level + 1)
        else:
            flat[f"{prefix}{name}"] = value
        if len(flat) > _MAX_KEYS:
            raise RecordError(f"more than {_MAX_KEYS} names in one config or report")
    return flat


def _run(trial: _Trial, state: _State, translation: Translation, notes: dict[str, Any]) -> Run:
    own = run_in(trial.last)
    failed = trial.failed or state.status == "ERROR"
    if own is not None:
        running = own.status == "complete" and trial.last.get("status") == RUNNING
        return dataclasses.replace(
            own,
            status=final_status(trial.last, error=failed) if failed or running else own.status,
            source=translation.source or SOURCE,
            notes={**own.notes, **notes, ORIGINAL: own.uid},
        )
    if not trial.last and not failed:
        raise RecordError("it reported nothing")
    for name, complaint in trial.reports.complaints.items():
        raise RecordError(f"reported {name}: {complaint}")
    # The task's own names stay theirs: only what is mapped is known.
    ours = translation.named(_flat(trial.config))
    policy = _policy(trial.config, translation, ours)
    budget = _budget(trial, translation, ours)
    run = reported_run(
        {},
        policy,
        trial.reports,
        _status(trial, state, translation, budget, failed),
        dataset="any",
        model="any",
        result=trial.last,
        budget=budget,
    )
    return translation.run(
        ours | {"seed": ours.get("seed", trial.config.get("seed"))},
        policy,
        SOURCE,
        **_names(trial.config, translation, ours),
        max_iterations=run.max_iterations,
        split=run.split if "split" in trial.last else translation.split,
        status=run.status,
        metrics=run.metrics,
        curve=run.curve,
        cost=run.cost,
        created_at=_time(trial.last, translation),
        notes=notes,
    )


def _names(
    config: Mapping[str, Any], translation: Translation, ours: Mapping[str, Any]
) -> dict[str, Any]:
    """The task, whose data set and model the config may name as `lrbench_hpo.train` has them."""
    named = {
        f"task.{name}": config[name]
        for name in ("dataset", "model")
        if isinstance(config.get(name), str) and getattr(translation, name) is None
    }
    return {"task": translation.task(named | dict(ours))}


def _policy(
    config: Mapping[str, Any], translation: Translation, ours: Mapping[str, Any]
) -> LRPolicy:
    given = config.get(POLICY)
    if isinstance(given, dict):
        return LRPolicy.from_dict(given)
    if not any(name in ours for name in ("k0", "k1")):
        has = ", ".join(map(printable, _flat(config)))[:200] or "nothing"
        raise RecordError(f"its config says no LR policy: --map NAME=k0 maps a name of: {has}")
    return translation.policy(ours)


def _budget(trial: _Trial, translation: Translation, ours: Mapping[str, Any]) -> int:
    for given in (trial.config.get("max_iterations"), trial.last.get("max_iterations")):
        if "max_iterations" not in ours and (known := finite(given)) is not None and known >= 1:
            return int(known)
    return translation.budget(ours)


def _status(
    trial: _Trial, state: _State, translation: Translation, budget: int, failed: bool
) -> str:
    result = dict(trial.last)
    cut = bool(result.get("done"))  # the report itself says so only where it ended the trial
    result["done"] = cut or state.done is not False
    metric = translation.metric if translation.metric in result else None
    if not failed and diverged(result, metric):
        return "diverged"
    return final_status(
        result, error=failed, metric=metric, budget=budget, cut=cut, stop=state.stop
    )


def _time(last: Mapping[str, Any], translation: Translation) -> str:
    seconds = finite(last.get("timestamp"))
    if translation.created_at is not None or seconds is None or not 0 <= seconds < 4e9:
        return translation.created_at or UNKNOWN_TIME
    return datetime.fromtimestamp(seconds, UTC).isoformat()
