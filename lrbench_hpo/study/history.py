"""A study's trials as observations of the surrogate."""

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
from lrbench_hpo.study.results import diverged
from lrbench_hpo.study.suggest import FUNCTION

Array = npt.NDArray[np.float64]

_MAX_RESULTS = 72  # results that one suggestion reads: the best and the newest ones
_MAX_PENDING = 512  # pending or failed policies that it keeps away from, the newest ones
_STOPPED_NOISE = 1.5  # log regret: deviation of a trial stopped at once, falling to 0 at the end
_FEWEST_GAINS = 3  # finished trials, before the gain from a step to the end is estimated
_SHARES = np.arange(1, 21) / 20  # of the budget, at which that gain is estimated
_RHO = 0.05  # of the augmented Tchebycheff function


@dataclass(frozen=True)
class _Place:
    """A trial's policy: function, coordinates and features."""

    function: str
    point: Mapping[str, float]
    features: Array


@dataclass(frozen=True)
class _Result:
    """The result of one ended trial, larger is better.

    Attributes:
        number: of the trial.
        place: its policy.
        values: one for each objective; NaN where it diverged.
        share: of the budget that it ran.
        gains: from each share of the budget to the end, of a finished trial with reports.
    """

    number: int
    place: _Place
    values: tuple[float, ...]
    share: float
    gains: Array | None


class History:
    """Reads a study's trials, each ended one once.

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
        """Read the trials.

        Args:
            trials: of the whole study, in order.
            directions: of the study.
            number: of the trial to suggest for; it is left out.

        Returns:
            Results, the features of policies that are being tried or that failed, and the numbers
            of running trials whose policy is not stored yet.
        """
        if trials and trials[-1].number != len(trials) - 1:
            self._begin()  # a part of a study, and another part each time
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
            # By number, not in the order of ending: a restored search reads all of them at once.
            self._results.sort(key=lambda result: result.number)
            self._learn_gain()
        tried = [*self._failed[-_MAX_PENDING:], *busy][-_MAX_PENDING:]
        return self._observations(number), np.array(tried).reshape(len(tried), BLOCKS), unseen

    def _settle(self, trial: FrozenTrial, signs: Array) -> None:
        """Store the result of a trial that has ended."""
        place = self._place(trial)
        if place is None:
            return
        if trial.state == TrialState.FAIL:
            self._failed.append(place.features)
            return
        values, share, gains = np.full(len(signs), math.nan), 1.0, None
        if not diverged(trial):
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
                return  # stopped before its first report
        self._results.append(_Result(trial.number, place, tuple(values.tolist()), share, gains))

    def _gains(self, reports: Mapping[int, float], end: float) -> Array | None:
        """The gain from each share of the budget to the end; NaN before the first report."""
        if not reports:
            return None
        steps = sorted(reports)
        known = np.array([math.nan, *(reports[step] for step in steps)])
        return end - known[np.searchsorted(steps, _SHARES * self.scale.max_iterations, "right")]

    def _learn_gain(self) -> None:
        """The median gain of finished trials at each share; 0 while too few are known."""
        # A stopped trial is read as value + median gain of finished trials from its last step to
        # the end, so that stopping early is not mistaken for being poor. Gains below 0 count as 0.
        gains = [result.gains for result in self._results if result.gains is not None]
        gains = gains[-_MAX_RESULTS:]
        if len(gains) >= _FEWEST_GAINS:
            table = np.array(gains)
            enough = np.isfinite(table).sum(axis=0) >= _FEWEST_GAINS
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
        """One value for each trial, larger is better, NaN for a diverged one."""
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
        """A trial's policy, computed once; None while it has none of this space."""
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
            return None  # not complete yet, or not written by this package
        return _Place(function, point, curve_features(policy, self.scale.max_iterations))


def _scalarised(rows: Array, number: int) -> Array:
    """One value for several: a Tchebycheff function with random weights for each trial."""
    # ParEGO (Knowles 2006, IEEE Trans. Evol. Comput. 10(1)): with the losses l_k scaled to [0, 1],
    #
    #     value = -(max_k w_k l_k + 0.05 sum_k w_k l_k),    w ~ uniform on the simplex.
    #
    # The maximum reaches every point of the Pareto front for some w, also where the front is not
    # convex; the small sum prefers the non-dominated among equals. w depends on the trial's number.
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
    """The rows to read: all, or half of them the best and half the newest of the others."""
    if len(values) <= _MAX_RESULTS:
        return np.arange(len(values))
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    best = order[: _MAX_RESULTS // 2]
    others = np.setdiff1d(np.arange(len(values)), best)
    return np.sort(np.concatenate([best, others[-(_MAX_RESULTS - len(best)) :]]))
