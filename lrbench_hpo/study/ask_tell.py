"""A study of LR policies whose trials are run by a host, such as Ray Tune (ask and tell)."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.member_reports import MEMBER, host_of
from lrbench_hpo.records.reports import TrialOutcome
from lrbench_hpo.study import results
from lrbench_hpo.study.points import POLICY, Point
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_in, suggest_value

# So many live trials that a sampler which reads every one of them gets slow (12 ms at 1,000).
CROWD = 200
TRIAL_ID = "trial_id"


class AskTell:
    """Trials of a study under the ids of the host that runs them; it pickles with its study.

    Args:
        study: made by `create_study`, used by nothing else meanwhile.
        own: ranges of further parameters, searched along with the policy.
        crowded: a sampler for times with more than 200 live trials; the study's own when None.
        sign: 1 when a larger value is better, else -1.
    """

    def __init__(
        self,
        study: optuna.Study,
        own: Mapping[str, BaseDistribution],
        *,
        crowded: optuna.samplers.BaseSampler | None = None,
        sign: int = 1,
    ) -> None:
        self.study = study
        self.settings = StudySettings.of(study)
        self.own = dict(own)
        self.sign = sign
        self._samplers = (study.sampler, crowded or study.sampler)
        self._live: dict[str, optuna.Trial] = {}
        self._numbers: dict[str, int] = {}
        self._expected: dict[str, Point] = {}
        self._taken: set[LRPolicy] = set()

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of the trials that have not ended."""
        return tuple(self._live)

    def number(self, trial_id: str) -> int | None:
        """The number that a trial has in the study."""
        return self._numbers.get(trial_id)

    @property
    def known(self) -> Collection[str]:
        """Ids of all trials that were ever asked for, or are expected."""
        return self._numbers.keys() | self._expected.keys()

    def ask(self, trial_id: str) -> tuple[LRPolicy, dict[str, Any]]:
        """The policy of a new trial, and the values of the further parameters.

        The same id gets the same answer until its trial ends.
        """
        while True:
            if trial_id not in self._live:
                self.study.sampler = self._samplers[len(self._live) > CROWD]
                trial = self.study.ask()
                for name, value in _ids_of(trial_id).items():
                    trial.set_user_attr(name, value)
                self._live[trial_id] = trial
                self._numbers[trial_id] = trial.number
            trial = self._live[trial_id]
            policy = suggest_in(trial, self.settings.space, self.settings.scale)
            values = {name: suggest_value(trial, name, entry) for name, entry in self.own.items()}
            if self.own or policy not in self._taken:
                return policy, values
            # The host has this policy already, from before its searcher was restored.
            self._taken.remove(policy)
            self.study.tell(self._live.pop(trial_id), state=TrialState.FAIL)

    def is_ended(self, trial_id: str) -> bool:
        """Whether a trial has ended."""
        return trial_id in self._numbers and trial_id not in self._live

    def policies(self, trial_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The policies of those of some trials that the study has, as dicts."""
        return [each.user_attrs["policy"] for each in self._trials_of(trial_ids)]

    def failed(self, trial_ids: Sequence[str]) -> bool:
        """Whether any of some trials has failed."""
        return any(each.state == TrialState.FAIL for each in self._trials_of(trial_ids))

    def rename(self, old_id: str, new_id: str) -> None:
        """Give a trial another id."""
        if old_id in self._numbers:
            self._numbers[new_id] = self._numbers.pop(old_id)

    def _trials_of(self, trial_ids: Sequence[str]) -> list[optuna.trial.FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trials[self._numbers[each]] for each in trial_ids if each in self._numbers]

    def expect(self, trial_id: str, point: Point) -> None:
        """Remember a trial that the host has and the study does not, until it ends."""
        self._expected[trial_id] = point
        self._taken.add(point.policy)

    def report(self, trial_id: str, iteration: int, value: float) -> None:
        """Report the value of a live trial after this many iterations."""
        if trial_id in self._live:
            self._report(self._live[trial_id], iteration, value)

    def _report(self, trial: optuna.Trial, iteration: int, value: float) -> None:
        if self.settings.objective != "score":
            return  # Optuna refuses reports in studies of several objectives
        with warnings.catch_warnings():
            # A trial that was restarted reports the same again.
            warnings.simplefilter("ignore", UserWarning)
            trial.report(self.sign * value, iteration)

    def recall(self, trial_id: str, end: TrialOutcome) -> int:
        """End a live trial with a result that was stored; its number in the study."""
        number = self._numbers[trial_id]
        self._live[trial_id].set_user_attr("recalled", True)
        self.tell(trial_id, end)
        return number

    def tell(self, trial_id: str, end: TrialOutcome) -> None:
        """End a trial; one that had failed and was run again gets its result after all."""
        if trial_id in self._expected:
            self.add(self._expected.pop(trial_id), end, trial_id=trial_id)
            self._numbers[trial_id] = len(self.study.get_trials(deepcopy=False)) - 1
            return
        trial = self._live.get(trial_id)
        if trial is None:
            self._tell_again(trial_id, end)
            return
        for name, value in self._attributes(end).items():
            trial.set_user_attr(name, value)
        results.note_divergence(trial, end.status)
        if end.status in {"complete", "pruned"} and end.iteration and end.value is not None:
            self._report(trial, end.iteration, end.value)
        state, values = self._verdict(end)
        self.study.tell(trial, values, state)
        del self._live[trial_id]

    def adopt(self, trial_id: str, config: Mapping[str, Any]) -> bool:
        """Identify an unknown trial of the host with a failed one that is run again.

        Args:
            trial_id: an unknown id.
            config: what it was run with, names with ``/`` between levels.

        Returns:
            Whether there is such a failed trial.
        """
        trials = self.study.get_trials(deepcopy=False)
        for old_id, number in self._numbers.items():
            trial = trials[number]
            was = {f"{POLICY}/{key}": value for key, value in trial.user_attrs["policy"].items()}
            was |= {name: trial.params[name] for name in self.own}
            same = all(config.get(name) == value for name, value in was.items())
            if trial.state == TrialState.FAIL and same:
                self.rename(old_id, trial_id)
                return True
        return False

    def add(
        self,
        point: Point,
        end: TrialOutcome,
        reports: Mapping[int, float] | None = None,
        *,
        trial_id: str | None = None,
    ) -> None:
        """Add a trial that was run elsewhere.

        Args:
            point: what was run.
            end: how it ended.
            reports: values by iteration.
            trial_id: the host's, if it ran there.
        """
        signed = {step: self.sign * value for step, value in (reports or {}).items()}
        if end.status == "pruned" and end.value is not None and end.iteration is not None:
            signed.setdefault(end.iteration, self.sign * end.value)
        attributes = {"policy": point.policy.to_dict(), "source": "known result"}
        if trial_id is not None:
            attributes |= _ids_of(trial_id)
        self._add(dict(point.params), dict(point.distributions), attributes, end, signed)

    def _attributes(self, end: TrialOutcome) -> dict[str, Any]:
        if end.status == "failed":
            return {"status": "failed"}
        score = -1.0 if end.value is None else self.sign * end.value
        if end.run is not None:
            # The run that is stored has notes of its own, and with them another uid.
            return {**results.attributes(end.run, end.status, score), "run": None}
        return {**end.metrics, "status": end.status, "score": score}

    def _verdict(self, end: TrialOutcome) -> tuple[TrialState, float | Sequence[float] | None]:
        """The state and the objective value or values of an ended trial."""
        if end.status == "failed":
            return TrialState.FAIL, None
        if end.status == "pruned":
            return TrialState.PRUNED, None
        objective = self.settings.objective
        if objective != "score":
            return TrialState.COMPLETE, results.values(end, 0.0, objective)
        if end.value is None:
            # Diverged, on an unknown scale: TPE ranks a pruned trial without reports last.
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, self.sign * end.value

    def _tell_again(self, trial_id: str, end: TrialOutcome) -> None:
        number = self._numbers.get(trial_id)
        if number is None or end.status == "failed":
            return
        before = self.study.get_trials(deepcopy=False)[number]
        if before.state == TrialState.FAIL:
            attributes = {**before.user_attrs, **_ids_of(trial_id)}
            reports = dict(before.intermediate_values)
            if end.iteration is not None and end.value is not None:
                reports[end.iteration] = self.sign * end.value
            self._add(before.params, before.distributions, attributes, end, reports)
            self._numbers[trial_id] = len(self.study.get_trials(deepcopy=False)) - 1

    def _add(
        self,
        params: dict[str, Any],
        ranges: dict[str, BaseDistribution],
        attributes: dict[str, Any],
        end: TrialOutcome,
        reports: Mapping[int, float],
    ) -> None:
        state, values = self._verdict(end)
        self.study.add_trial(
            create_trial(
                state=state,
                values=[values] if isinstance(values, float) else values,
                params=params,
                distributions=ranges,
                user_attrs={**attributes, **self._attributes(end)},
                intermediate_values=dict(reports) if self.settings.objective == "score" else {},
                constraints={results.CONSTRAINT: float(end.status == "diverged")},
            )
        )


def _ids_of(trial_id: str) -> dict[str, Any]:
    """The host's trial, and the policy's place in it if that is a population."""
    host, member = host_of(trial_id)
    return {TRIAL_ID: host} if member is None else {TRIAL_ID: host, MEMBER: member}
