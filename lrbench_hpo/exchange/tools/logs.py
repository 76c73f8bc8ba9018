"""Runs from training logs: TensorBoard's, or a CSV, with the LR among what was logged."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lrbench_hpo.checks import printable
from lrbench_hpo.errors import MissingExtraError, RecordError, why
from lrbench_hpo.exchange import folders
from lrbench_hpo.exchange.formats.jsonl import BAD_ROW
from lrbench_hpo.exchange.rows import UNKNOWN_TIME, ExchangeError, Found, Rejected, numbered
from lrbench_hpo.exchange.tools import series
from lrbench_hpo.exchange.tools.columns import lr_columns, metric_columns, step_column
from lrbench_hpo.exchange.tools.series import Log
from lrbench_hpo.exchange.translation import Translation, is_nan, summary
from lrbench_hpo.policies.fitting import Fit, fit_policy
from lrbench_hpo.records.run import CurvePoint, Run

SOURCE = "logs"
LOG = "log"  # note of a run: its folder, below the one that was given
MISSING = 0.05  # of the budget that a complete run's log may leave out at its end
MAX_CURVE = 1_000  # points of a curve that are kept
_MEASURED = ("top1", "train_loss", "eval_loss")
_FEW = 100  # points of a curve without evaluations


def read(
    folder: str | Path,
    translation: Translation = Translation(),  # noqa: B008 (frozen)
    *,
    lr_column: str | None = None,
) -> Iterator[Found | Rejected]:
    """The runs logged below a folder, one a folder, in order of their names.

    The policy is the one that reproduces the logged learning rates; where none does within
    `fitting.LIMIT` decades, or several do (`fitting.Fit.doubt`), the run is rejected. A log that
    ends before the budget, by more than `MISSING` of it and more than one logging interval, is of
    a run that was ``pruned``. Accuracy and losses are recognized by their names, or
    by `translation`'s mapping. A CSV's ``step`` counts iterations, its ``epoch`` epochs, unless a
    column is mapped to ``iteration`` or ``epoch``; TensorBoard's steps count iterations, or epochs
    where ``step`` is mapped to ``epoch``.

    Args:
        folder: a folder with event files or CSVs in it or below, or one CSV.
        translation: how names and units are meant.
        lr_column: the name under which the LR was logged, where several could be it.

    Raises:
        ExchangeError: for a folder without a log that holds learning rates.
        MissingExtraError: for TensorBoard's logs without tensorboard.
    """
    path = Path(folder)
    if path.suffix.lower() == ".csv" and path.is_file():
        return numbered(_rows(path.parent, [(path.parent, [path])], translation, lr_column))
    root = folders.checked(folder)
    places = [
        (place, files)
        for place, files in folders.walk(root)
        if any(".tfevents." in f.name or f.suffix.lower() == ".csv" for f in files)
    ]
    if not places:
        raise ExchangeError(f"{printable(str(root))}: neither event files nor CSVs in it")
    return numbered(_rows(root, places, translation, lr_column))


def _rows(
    root: Path,
    places: list[tuple[Path, list[Path]]],
    translation: Translation,
    lr_column: str | None,
) -> Iterator[Found | Rejected]:
    for folder, files in places:
        name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        place = f"folder {name}"
        log: Log | None = None
        unread: list[RecordError] = []
        try:
            log = series.read_files(
                files, lambda n: n == lr_column or bool(lr_columns([n])), unread.append
            )
            for bad in unread:
                yield Rejected(str(root), place, why(bad))
            if log is None:
                continue
            run = _run(log, translation, lr_column, printable(name))
            _ = run.uid  # what cannot be hashed is refused here
            yield Found(run, place=place)
        except MissingExtraError:
            raise
        except (*BAD_ROW, OSError) as error:
            known = {} if log is None else {n: len(v) for n, v in log.values.items()}
            yield Rejected(str(root), place, why(error), json.dumps({"values": known}))


def _run(log: Log, translation: Translation, lr_column: str | None, name: str) -> Run:
    names = list(log.values)
    lr_name = lr_column or name_for(translation, "lr") or _only_lr(log)
    if lr_name not in log.values:
        raise RecordError(f"no {lr_name!r} in it: known are {', '.join(names[:20])}")
    scale = _Scale(log, translation, lr_name)
    lrs = dict(sorted((scale.start(at), lr) for at, lr in log.values[lr_name].items()))
    chosen = metric_columns(names, translation.split)
    chosen |= {ours: theirs for theirs, ours in translation.mapping.items() if theirs in log.values}
    series_of = {ours: log.values[chosen[ours]] for ours in _MEASURED if ours in chosen}
    # Given, or as many iterations as the log has.
    known = (log.values[lr_name], *series_of.values())
    ends = [scale.end(at) for values in known for at in values]
    budget = translation.max_iterations or max(1, *ends)
    fit = fit_policy(list(lrs), list(lrs.values()), max_iterations=budget)
    if not fit.good:
        raise RecordError(f"no LR function can be told from {lr_name!r}: {fit.doubt}")
    if translation.percent and max(series_of.get("top1", {}).values(), default=100.0) <= 1:
        raise RecordError(f"{chosen['top1']!r} is at most 1: is it a share? Leave --percent out")
    measured = {
        ours: {
            scale.end(at): translation.measure(ours, value) for at, value in sorted(values.items())
        }
        for ours, values in series_of.items()
    }
    blew_up = any(is_nan(v[max(v)]) for ours, v in series_of.items() if ours != "top1")
    curve = _curve(lrs, measured, budget)
    cut = budget - max(ends) > max(MISSING * budget, _interval(list(lrs)))
    status = "diverged" if blew_up else "pruned" if cut else "complete"
    return translation.run(
        dict(translation.constants),
        fit.policy,
        SOURCE,
        max_iterations=budget,
        status=status,
        metrics=summary(curve, complete=status == "complete"),
        curve=curve,
        created_at=_time(log, translation),
        notes={LOG: name, "lr_column": lr_name} | fit_notes(fit),
    )


def _interval(places: list[int]) -> float:
    return median(later - at for at, later in pairwise(places))


def fit_notes(fit: Fit) -> dict[str, Any]:
    """The quality of a fit, as notes of a run."""
    return {
        "fit_error": float(f"{fit.error:.3g}"),
        "fit_worst": float(f"{fit.worst:.3g}"),
        "fit_points": fit.points,
        "fit_held": fit.held,
    }


def name_for(translation: Translation, target: str) -> str | None:
    """The third-party name that is mapped to one of ours."""
    return next((theirs for theirs, ours in translation.mapping.items() if ours == target), None)


def _only_lr(log: Log) -> str:
    """The name of the learning rate; several that are always equal are one."""
    names = lr_columns(log.values)
    if not names:
        known = ", ".join(list(log.values)[:20])
        raise RecordError(f"no learning rate in it: --lr-column names one of: {known}")
    first = log.values[names[0]]
    for other in names[1:]:
        if log.values[other] != first:
            raise RecordError(
                f"several learning rates ({', '.join(names[:5])}): --lr-column chooses one"
            )
    return names[0]


class _Scale:
    """What turns the places of values in a log into iterations."""

    def __init__(self, log: Log, translation: Translation, lr_name: str) -> None:
        name = name_for(translation, "iteration") or name_for(translation, "epoch")
        epochs = name is not None and translation.mapping[name] == "epoch"
        self._steps: Mapping[int, float] | None = None
        if log.is_table:
            if name is None:
                name, epochs = step_column(list(log.values))
            if name not in log.values:
                raise RecordError(f"no column {name!r} in it")
            self._steps = log.values[name]
            if any(later < step for step, later in pairwise(self._steps.values())):
                raise RecordError(f"{name!r} goes back: several runs in one file? Part them")
        self._per_epoch = translation.in_iterations(1) if epochs else None
        places = sorted(log.values[lr_name])
        steps = [self._step(at) for at in places]
        # Epochs that count from 1: the first one begins at iteration 0 all the same.
        self._first = 1.0 if epochs and min(steps) >= 1 else 0.0
        gap = median(b - a for a, b in pairwise(steps)) if len(steps) > 1 else 0
        # Steps 0, 1, 2, ... or 49, 99, ... count the updates before, not after.
        self._updates = 1 if epochs or (gap > 0 and (steps[0] + 1) % gap == 0) else 0

    def _step(self, at: int) -> float:
        if self._steps is None:
            return float(at)
        if at not in self._steps:
            raise RecordError(f"row {at + 1} has a value, and no step")
        return self._steps[at]

    def start(self, at: int) -> int:
        """The iteration at which what was logged there began."""
        return round((self._step(at) - self._first) * (self._per_epoch or 1))

    def end(self, at: int) -> int:
        """The iteration after which it was measured."""
        return round((self._step(at) - self._first + self._updates) * (self._per_epoch or 1))


def _curve(
    lrs: Mapping[int, float], measured: Mapping[str, Mapping[int, float | None]], budget: int
) -> tuple[CurvePoint, ...]:
    """Where accuracy or evaluation loss was measured, with the LR and training loss before."""
    evaluated = sorted({*measured.get("top1", ()), *measured.get("eval_loss", ())})
    points = evaluated or _thinned(sorted({*measured.get("train_loss", ()), *lrs}), _FEW)
    best = max(points, key=lambda at: (measured.get("top1", {}).get(at) or 0.0, -at), default=None)
    kept = _thinned(points, MAX_CURVE, best)
    lr_at = _last_before(lrs)
    train_loss_at = _last_before(measured.get("train_loss", {}))
    return tuple(
        CurvePoint(
            at,
            lr=lr_at(at),
            train_loss=train_loss_at(at),
            eval_loss=measured.get("eval_loss", {}).get(at),
            top1=measured.get("top1", {}).get(at),
        )
        for at in kept
        if at <= budget
    )


def _thinned(points: list[int], limit: int, best: int | None = None) -> list[int]:
    """At most so many of the points, evenly, with the best and the last."""
    if len(points) <= limit:
        return points
    kept = {points[round(i * (len(points) - 1) / (limit - 2))] for i in range(limit - 1)}
    return sorted(kept if best is None else kept | {best})


def _last_before(values: Mapping[int, float | None]) -> Callable[[int], float | None]:
    """Looks up the last value at or before an iteration."""
    places = sorted(values)

    def at(iteration: int) -> float | None:
        index = bisect.bisect_right(places, iteration)
        return values[places[index - 1]] if index else None

    return at


def _time(log: Log, translation: Translation) -> str:
    if translation.created_at is not None or log.began is None or log.began > 4e9:
        return translation.created_at or UNKNOWN_TIME
    return datetime.fromtimestamp(log.began, UTC).isoformat()
