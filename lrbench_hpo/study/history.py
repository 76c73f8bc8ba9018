"""What a study's trials have shown so far, as the surrogate reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.features import BLOCKS, curve_features
from lrbench_hpo.prior.surrogate import Observations
from lrbench_hpo.study.results import CONSTRAINT
from lrbench_hpo.study.suggest import FUNCTION

Array = npt.NDArray[np.float64]

_MOST = 72  # results that one suggestion reads: the best ones and the newest ones
_MOST_BUSY = 512  # policies under way or failed that it keeps away from, the newest ones
_STOPPED_NOISE = 1.5  # of a trial stopped at once, in log regret; less the later it was stopped
_ENOUGH = 3  # finished trials, before the gain between a step and the end is known
_SHARES = np.arange(1, 21) / 20  # of the budget, at which that gain is known
_RHO = 0.05  # of the augmented Tchebycheff function


@dataclass(frozen=True)
class _Place:
    """A trial's policy: function, coordinates and features."""

    function: str
    point: Mapping[str, float]
    features: Array


@dataclass(frozen=True)
class _Result:
    """What one ended trial showed, larger is better.

    Attributes:
        number: of the trial.
        place: its policy.
        values: one for each objective; NaN where it diverged.
        share: of the budget that it ran.
        gains: of a finished trial with reports, between a share of the budget and the end.
    """

    number: int
    place: _Place
    values: tuple[float, ...]
    share: float
    gains: Array | None


class History:
    """Reads a study's trials, each of them once.

    Args:
        scale: budget and reference LR of the study.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._begin()

    def _begin(self) -> None:
        self._results: list[_Result] = []
        self._failed: list[Array] = []
        self._open: set[int] = set()
        self._places: dict[int, _Place] = {}
        self._known = 0
        self._gain = np.zeros(len(_SHARES))

    def read(
        self, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], number: int
    ) -> tuple[Observations, Array, list[int]]:
        """Results, and the features of policies that are being tried or that failed.

        The third answer is the numbers of trials that run without a policy anybody could see yet.

        Args:
            trials: of the whole study, in order.
            directions: of the study.
            number: of the trial that asks; it is left out.
        """
        if trials and trials[-1].number != len(trials) - 1:
            self._begin()  # a part of a study, another one each time
        signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in directions])
        self._open.update(range(self._known, len(trials)))
        self._known = len(trials)
        busy, unseen, before = [], [], len(self._results)
        for index in sorted(self._open):
            trial = trials[index]
            if trial.state.is_finished():
                self._open.discard(index)
                self._settle(trial, signs)
                self._places.pop(trial.number, None)
            elif trial.state == TrialState.RUNNING and trial.number != number:
                place = self._place(trial)
                if place is None:
                    unseen.append(trial.number)
                else:
                    busy.append(place.features)
        if len(self._results) > before:
            # Whatever the order they ended in: a search that is put back reads them all at once.
            self._results.sort(key=lambda result: result.number)
            self._learn_gain()
        tried = [*self._failed[-_MOST_BUSY:], *busy][-_MOST_BUSY:]
        return self._observations(number), np.array(tried).reshape(len(tried), BLOCKS), unseen

    def _settle(self, trial: FrozenTrial, signs: Array) -> None:
        """Take in a trial that has ended."""
        place = self._place(trial)
        if place is None:
            return
        if trial.state == TrialState.FAIL:
            self._failed.append(place.features)
            return
        values, share, gains = np.full(len(signs), math.nan), 1.0, None
        if not _diverged(trial):
            reports = {s: v for s, v in trial.intermediate_values.items() if math.isfinite(v)}
            if trial.state == TrialState.COMPLETE:
                values = signs * np.array(trial.values)
                gains = self._gains(reports, trial.values[0]) if len(signs) == 1 else None
                gains = None if gains is None else signs[0] * gains
            elif len(signs) == 1 and reports:
                last = max(reports)
                values = signs * reports[last]
                share = min(1.0, last / self.scale.max_iterations)
            else:
                return  # stopped before it showed anything
        told = tuple(values.tolist())
        self._results.append(_Result(trial.number, place, told, share, gains))

    def _gains(self, reports: Mapping[int, float], end: float) -> Array | None:
        """What a trial gained between each share of the budget and its end; NaN before reports."""
        if not reports:
            return None
        steps = sorted(reports)
        known = np.array([math.nan, *(reports[step] for step in steps)])
        return end - known[np.searchsorted(steps, _SHARES * self.scale.max_iterations, "right")]

    def _learn_gain(self) -> None:
        """The median of what finished trials gained; nothing while too few of them are known."""
        gains = [result.gains for result in self._results if result.gains is not None][-_MOST:]
        if len(gains) >= _ENOUGH:
            table = np.array(gains)
            enough = np.isfinite(table).sum(axis=0) >= _ENOUGH
            self._gain = np.zeros(len(_SHARES))
            self._gain[enough] = np.maximum(0.0, np.nanmedian(table[:, enough], axis=0))

    def _observations(self, number: int) -> Observations:
        results = self._results
        shares = np.array([result.share for result in results])
        values = self._values(shares, number)
        keep = _chosen(values)
        places = [results[row].place for row in keep]
        return Observations(
            features=np.array([place.features for place in places]).reshape(len(keep), BLOCKS),
            values=values[keep],
            noise=_STOPPED_NOISE * (1 - shares[keep]),
            points=[(place.function, place.point) for place in places],
            keys=[results[row].number for row in keep],
        )

    def _values(self, shares: Array, number: int) -> Array:
        """One value a trial, larger is better, NaN for a diverged one."""
        if not self._results:
            return np.zeros(0)
        rows = np.array([result.values for result in self._results])
        if rows.shape[1] > 1:
            return _scalarised(rows, number)
        stopped = shares < 1
        at = np.maximum(np.searchsorted(_SHARES, shares, "right") - 1, 0)
        values: Array = rows[:, 0] + stopped * self._gain[at]
        return values

    def _place(self, trial: FrozenTrial) -> _Place | None:
        """A trial's policy, once it has one that is of this space; worked out once."""
        known = self._places.get(trial.number)
        if known is None and (known := self._read_place(trial)) is not None:
            self._places[trial.number] = known
        return known

    def _read_place(self, trial: FrozenTrial) -> _Place | None:
        function = trial.params.get(FUNCTION)
        if function is None:
            return None
        prefix = f"{function}."
        point = {
            name.removeprefix(prefix): value
            for name, value in trial.params.items()
            if name.startswith(prefix)
        }
        given = trial.user_attrs.get("policy")
        try:
            policy = (
                coordinates.to_policy(function, point, self.scale)
                if given is None
                else LRPolicy.from_dict(given)
            )
        except (LRBenchError, KeyError, TypeError):
            return None  # not complete yet, or written by somebody else
        return _Place(function, point, curve_features(policy, self.scale.max_iterations))


def _diverged(trial: FrozenTrial) -> bool:
    status = trial.user_attrs.get("status") == "diverged"
    return status or trial.constraints.get(CONSTRAINT, 0.0) > 0


def _scalarised(rows: Array, number: int) -> Array:
    """One value for several: a Tchebycheff function with weights drawn anew for each trial.

    Knowles 2006, ParEGO, IEEE Trans. Evol. Comput. 10(1).
    """
    ended = np.isfinite(rows).all(axis=1)
    if not ended.any():
        return np.full(len(rows), math.nan)
    low, high = rows[ended].min(axis=0), rows[ended].max(axis=0)
    losses = (high - rows) / np.where(high > low, high - low, 1.0)
    weights = np.random.default_rng(number).dirichlet(np.ones(rows.shape[1]))
    weighted = losses * weights
    scalar: Array = -(weighted.max(axis=1) + _RHO * weighted.sum(axis=1))
    return scalar


def _chosen(values: Array) -> npt.NDArray[np.intp]:
    """The rows to read: all, or the best half and the newest of the others."""
    if len(values) <= _MOST:
        return np.arange(len(values))
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    best = order[: _MOST // 2]
    others = np.setdiff1d(np.arange(len(values)), best)
    return np.sort(np.concatenate([best, others[-(_MOST - len(best)) :]]))
