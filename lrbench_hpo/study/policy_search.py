"""The search of one study: known-good policies first, then the surrogate's suggestions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from lrbench_hpo.policies.features import BLOCKS, curve_features
from lrbench_hpo.prior.prior import Prior
from lrbench_hpo.prior.recommendation import Recommendation
from lrbench_hpo.prior.surrogate import Candidate, Source, Suggestion, Surface, Surrogate
from lrbench_hpo.prior.surrogate.search import STRIPES
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.study.history import History
from lrbench_hpo.study.optuna_internals import enqueued_params
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import FUNCTION, distributions, trial_params

Array = npt.NDArray[np.float64]

FIRST_ROWS = 1  # known-good policies that are always tried first
_NO_MORE_ROWS = 100  # trials, after which no row of the portfolio is due any more
_LONGEST_SUGGESTION = timedelta(minutes=1)  # a trial without a policy for longer is dead
_MAX_PROMISED = 64  # newest suggestions whose trials may not have stored their parameters yet
_IN_SCORES = ("expected_score", "low", "high")


def settings_of(prior: Prior, objective: str, weights: ScoreWeights) -> StudySettings:
    """The settings of a study that starts from a prior."""
    return StudySettings(
        task=prior.task,
        space=prior.space,
        scale=prior.scale,
        objective=objective,
        weights=weights,
        summary=prior.summary,
        reference_origin=prior.reference_origin,
    )


@dataclass(frozen=True)
class Start:
    """What a search starts from, without the runs behind it: small, and can be pickled.

    Attributes:
        settings: of a study that starts from it.
        portfolio: known-good policies, best first.
        sources: similar tasks.
        rows: how many of these policies are tried before the surrogate suggests: one, or two
            where the first is a peak known from far longer budgets and the second is twice of it.
    """

    settings: StudySettings
    portfolio: tuple[Recommendation, ...]
    sources: tuple[Source, ...]
    rows: int = FIRST_ROWS

    @classmethod
    def of(cls, prior: Prior) -> Start:
        """The start of a search from a prior."""
        first = prior.portfolio[:2]
        return cls(
            settings_of(prior, "score", ScoreWeights()),
            tuple(dataclasses.replace(entry, choice=None) for entry in prior.portfolio),
            prior.sources,
            FIRST_ROWS + (len(first) > 1 and all(entry.bracketed for entry in first)),
        )

    def __getstate__(self) -> dict[str, Any]:
        # The cached results of surfaces are larger than their data, and are computed again.
        bare = (
            dataclasses.replace(each, surface=Surface(each.surface.features, each.surface.scores))
            for each in self.sources
        )
        return {**self.__dict__, "sources": tuple(bare)}


class PolicySearch:
    """Suggests the policies of one study.

    Args:
        settings: the study's.
        start: what it starts from.
        seed: the same seed gives the same suggestions.
    """

    def __init__(self, settings: StudySettings, start: Start, seed: int) -> None:
        self.settings, self.start, self.seed = settings, start, seed

    def __getstate__(self) -> dict[str, Any]:
        kept = ("settings", "start", "seed")
        return {name: self.__dict__[name] for name in kept}

    @cached_property
    def parameters(self) -> dict[str, BaseDistribution]:
        """The parameters of all LR functions, as trials have them."""
        space = self.settings.space
        found: dict[str, BaseDistribution] = {
            FUNCTION: CategoricalDistribution(list(space.functions))
        }
        for function in space.functions:
            found |= distributions(space, function)
        return found

    @cached_property
    def _history(self) -> History:
        return History(self.settings.scale)

    @cached_property
    def _surrogate(self) -> Surrogate:
        known = [
            Candidate(entry.policy.function, entry.point, entry.policy)
            for entry in self.start.portfolio
        ]
        settings = self.settings
        return Surrogate(settings.space, settings.scale, self.start.sources, known, self.seed)

    def suggest(self, study: optuna.Study, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Suggest the parameters of a trial, and the reason in JSON types.

        Args:
            study: the study.
            number: the trial's number.
        """
        trials = study.get_trials(deepcopy=False)
        row = _row(trials, number, self.start.rows)
        if row is not None and row <= len(self.start.portfolio):
            entry = self.start.portfolio[row - 1]
            reason = {"source": "portfolio", "row": row, "why": entry.why, "origin": entry.source}
            return trial_params(entry.policy.function, entry.point), reason
        seen, busy, unseen = self._history.read(trials, study.directions, number)
        taken = [busy, *(self._promised[other] for other in unseen if other in self._promised)]
        hidden = _choosing(trials, set(unseen) - self._promised.keys())
        if hidden:
            # Or trials that start together would all get the best one.
            taken.append(self._known_good)
        surrogate = self._surrogate
        if any(other < number and other % STRIPES == number % STRIPES for other in hidden):
            # An older trial of another process chooses from this part of the pool: draw a new one.
            settings, seed = self.settings, self.seed + 1 + number
            surrogate = Surrogate(settings.space, settings.scale, self.start.sources, (), seed)
        suggestion = surrogate.suggest(seen, np.vstack(taken), number)
        chosen = suggestion.candidate
        # Until the trial has stored its parameters, other threads learn of its policy here.
        features = curve_features(chosen.policy, self.settings.scale.max_iterations)
        self._promised = dict([*self._promised.items(), (number, features[None])][-_MAX_PROMISED:])
        return trial_params(chosen.function, chosen.point), _why(suggestion, study.directions)

    @cached_property
    def _promised(self) -> dict[int, Array]:
        """Features of the newest suggestions, by trial."""
        return {}

    @cached_property
    def _known_good(self) -> Array:
        """Features of the portfolio."""
        budget = self.settings.scale.max_iterations
        rows = [curve_features(entry.policy, budget) for entry in self.start.portfolio]
        return np.array(rows).reshape(len(rows), BLOCKS)


def _choosing(trials: Sequence[FrozenTrial], unseen: set[int]) -> list[int]:
    """The running trials without a policy whose sampler is still at work."""
    return [trial.number for trial in trials if trial.number in unseen and not _died(trial)]


def _died(trial: FrozenTrial) -> bool:
    """Whether a trial without a policy began so long ago that its sampler must be dead."""
    since = datetime.now() - _LONGEST_SUGGESTION  # Optuna keeps local times
    return trial.datetime_start is None or trial.datetime_start <= since


def _row(trials: Sequence[FrozenTrial], number: int, rows: int) -> int | None:
    """The row of the portfolio for this trial, from 1; None if all rows are taken.

    Trials given by hand, or run elsewhere, take no row. The row depends on the number of earlier
    trials, not on the rows they have so far, so that workers at the same time take different rows.
    """
    if number >= _NO_MORE_ROWS:
        return None
    row, taken = 1, set()
    for trial in trials:
        reason = trial.user_attrs.get("suggestion")
        if isinstance(reason, dict):
            taken.add(reason.get("row"))
        elif trial.state.is_finished() or enqueued_params(trial) is not None or _died(trial):
            continue
        if trial.number < number and enqueued_params(trial) is None:
            row += 1
        if row > rows:
            return None
    return None if row in taken else row


def _why(suggestion: Suggestion, directions: Sequence[StudyDirection]) -> dict[str, Any]:
    reason = {
        name: getattr(suggestion, name)
        for name in ("source", "mean", "spread", "risk", "prior_weight")
    }
    tasks = [dict(entry) for entry in suggestion.experts]
    return {**reason, **_in_scores(suggestion, directions), "tasks": tasks}


def _in_scores(suggestion: Suggestion, directions: Sequence[StudyDirection]) -> dict[str, float]:
    """The expectation in the study's own values; the surrogate always maximises."""
    if len(directions) > 1:
        return {}  # the surrogate sees a mixture of several values
    scores = {
        name: value
        for name in (*_IN_SCORES, "chance")
        if (value := getattr(suggestion, name, None)) is not None
    }
    if directions[0] == StudyDirection.MINIMIZE:
        scores |= {name: -scores[name] for name in _IN_SCORES if name in scores}
        if "low" in scores and "high" in scores:
            scores["low"], scores["high"] = scores["high"], scores["low"]
    return scores
