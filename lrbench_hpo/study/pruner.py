"""The Optuna pruner of LR policies: trials are compared at LR minima only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import checks
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.study.results import diverged
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.stopping import Observed, StoppingRule, noise_of_best

_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class LRMinimaPruner(optuna.pruners.BasePruner):
    """Stops trials that are unlikely to win, looking at them only at their LR minima.

    The rule is `StoppingRule`; steps are iterations. In a study made by `create_study` it needs
    nothing else. Reports between two minima of a cyclic policy are ignored, so an objective may
    report as often as it likes; with ``StoppingRule(minima_only=False)`` every report counts.
    Trials without a policy are neither stopped nor compared with.

    Args:
        rule: when to stop; `StoppingRule` with its defaults when None.
        max_iterations: the budget of a trial, for studies that `create_study` did not make.

    Raises:
        StudyError: for an invalid argument; when pruning, for a study whose budget is unknown.

    >>> import lrbench_hpo
    >>> study = lrbench_hpo.create_study(
    ...     "digits", "mlp", pruner=LRMinimaPruner(), database="sqlite://"
    ... )
    >>> type(study.pruner).__name__
    'LRMinimaPruner'
    """

    def __init__(
        self, rule: StoppingRule | None = None, *, max_iterations: int | None = None
    ) -> None:
        if rule is not None and not isinstance(rule, StoppingRule):
            raise StudyError(f"rule={rule!r}: expected a StoppingRule, or None for the usual one")
        if max_iterations is not None:
            checks.whole("max_iterations", max_iterations, error=StudyError)
        self._rule = rule or StoppingRule()
        self._max_iterations = max_iterations
        self._budgets: dict[str, int] = {}
        self._ended: dict[str, dict[int, tuple[Any, Observed | None]]] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial should stop now; called by Optuna's ``trial.should_prune``.

        Raises:
            StudyError: for a study whose budget is unknown.
        """
        step = trial.last_step
        if step is None:
            return False
        budget = self._budget(study)
        sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
        now = _observed(trial, self._rule, budget, sign)
        if now is None or not now.iterations or now.iterations[-1] != step:
            return False  # no policy, or between two minima
        # Trials are read without copies; finished ones are converted to `Observed` once.
        trials = study.get_trials(deepcopy=False, states=_SEEN)
        others = [
            seen
            for other in trials
            if other.number != trial.number
            and (seen := self._seen(study.study_name, other, budget, sign)) is not None
        ]
        return self._rule.should_stop(now, others, noise=_noise(trials, others))

    def _budget(self, study: optuna.Study) -> int:
        if self._max_iterations is not None:
            return self._max_iterations
        name = study.study_name
        if name not in self._budgets:
            if not StudySettings.known_to(study):
                raise StudyError(
                    f"study {name!r} knows no LR task: make it with lrbench_hpo.create_study, or "
                    "give LRMinimaPruner max_iterations"
                )
            self._budgets[name] = StudySettings.of(study).scale.max_iterations
        return self._budgets[name]

    def _seen(self, name: str, trial: FrozenTrial, budget: int, sign: float) -> Observed | None:
        """Another trial's values; None if it diverged, or has no policy."""
        if not trial.state.is_finished():
            return _observed(trial, self._rule, budget, sign)
        known = self._ended.setdefault(name, {})
        # Another study may have the name of one that was deleted: compare start times.
        if trial.number not in known or known[trial.number][0] != trial.datetime_start:
            seen = None if diverged(trial) else _observed(trial, self._rule, budget, sign)
            known[trial.number] = (trial.datetime_start, seen)
        return known[trial.number][1]

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_ended": {}, "_budgets": {}}


def _observed(trial: FrozenTrial, rule: StoppingRule, budget: int, sign: float) -> Observed | None:
    """A trial's values where the rule judges it: at the LR minima of its policy, by default."""
    given = trial.user_attrs.get("policy")
    if given is None:
        return None
    try:
        policy = LRPolicy.from_dict(given)
    except LRBenchError:
        return None  # not written by this package
    reports = {
        step: sign * value
        for step, value in trial.intermediate_values.items()
        if 0 < step <= budget and rule.judges(policy, step, budget)
    }
    complete = trial.state == TrialState.COMPLETE
    if complete and trial.value is not None:
        reports.setdefault(budget, sign * trial.value)
    steps = tuple(sorted(reports))
    return Observed(policy, budget, steps, tuple(reports[step] for step in steps), complete)


def _noise(trials: Sequence[FrozenTrial], others: Sequence[Observed]) -> float:
    """Standard deviation of one evaluation of the best value; 0 if that is no share of samples."""
    counts = (trial.user_attrs.get("evaluation_samples") for trial in trials)
    samples = next((count for count in counts if isinstance(count, int) and count > 0), None)
    return noise_of_best(others, samples)
