"""The study's trials behind each trial of Ray: one, or one for each policy of a population."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lrbench_hpo.errors import WarnOnce
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.trial_outcomes import TrialOutcomes
from lrbench_hpo.records.member_reports import MEMBERS, POLICIES, member_id, members_in, ray_fields
from lrbench_hpo.records.reports import TrialOutcome, position
from lrbench_hpo.records.run import STATUSES
from lrbench_hpo.study.ask_tell import AskTell
from lrbench_hpo.study.points import POLICY, read_point

Suggestion = tuple[list[LRPolicy], dict[str, Any]]  # policies, and values of own parameters


class StudyTrials:
    """Trials of a study by the ids of Ray's; it pickles with its study.

    Args:
        ask_tell: of the study.
        outcomes: how its trials end.
        population: policies of one trial of Ray's; None where a trial is a policy.

    Attributes:
        ask_tell: as given.
        outcomes: as given.
        population: as given.
        stored: results by their policy, which no trial needs to train.
        recalled: numbers of the study's trials that got such a result.
    """

    def __init__(
        self, ask_tell: AskTell, outcomes: TrialOutcomes, population: int | None = None
    ) -> None:
        self.ask_tell = ask_tell
        self.outcomes = outcomes
        self.population = population
        self.stored: dict[LRPolicy, TrialOutcome] = {}
        self.recalled: list[int] = []
        self._live: dict[str, Suggestion] = {}
        self._known: set[str] = set()
        self._warn = WarnOnce()

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of Ray's trials that got a suggestion and have not ended."""
        return tuple(self._live)

    @property
    def known(self) -> Collection[str]:
        """Ids of all of Ray's trials that ever got a suggestion, or are expected."""
        return self.ask_tell.known if self.population is None else self._known

    def numbers(self, trial_id: str) -> tuple[int, ...]:
        """The numbers that the policies of a trial have in the study."""
        found = (self.ask_tell.number(name) for name in self._names(trial_id))
        return tuple(number for number in found if number is not None)

    def ask(self, trial_id: str) -> dict[str, Any]:
        """A trial's policies and values of own parameters, by the names in its config.

        The same id gets the same suggestion until its trial has ended.
        """
        if trial_id not in self._live:
            policies = []
            own: dict[str, Any] = {}
            for name in self._names(trial_id):
                policy, own = self._ask(name)
                policies.append(policy)
            self._known.add(trial_id)
            self._live[trial_id] = (policies, own)
        policies, own = self._live[trial_id]
        if self.population is None:
            return {**own, POLICY: policies[0].to_dict()}
        return {**own, POLICIES: [policy.to_dict() for policy in policies]}

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note how far a trial is, and end the policies of a population that have ended."""
        reports: Mapping[str, Mapping[str, Any]] = {trial_id: result}
        if self.population is not None:
            reports = self._of_members(trial_id, result)
        for name, report in reports.items():
            value, iteration = self.outcomes.note(name, report), position(report)
            if value is not None and iteration is not None:
                self.ask_tell.report(name, iteration, value)
            if self.population is not None and report.get("status") in STATUSES:
                self.ask_tell.tell(name, self.outcomes.end(name, report, error=False))

    def end(self, trial_id: str, result: Mapping[str, Any] | None, *, error: bool) -> None:
        """End a trial in the study.

        Policies of a population that had not ended have been cut, or have failed, with it.

        Args:
            trial_id: Ray's.
            result: its last report, as Ray gives it at the end; it may be None.
            error: whether Ray calls it failed.
        """
        self._live.pop(trial_id, None)
        if self.population is None:
            self.ask_tell.tell(trial_id, self.outcomes.end(trial_id, result, error=error))
            return
        last = self._of_members(trial_id, result)
        names = self._names(trial_id)
        reported = any(self.outcomes.last(name) or self.ask_tell.is_ended(name) for name in names)
        if result and not error and not last and not reported:
            self._warn(
                "members",
                f"no {MEMBERS!r} in a trial's reports, so all policies of the population count as "
                "failed: report one for each policy, as lrbench_hpo.train does, or give no "
                "population",
                stacklevel=3,
            )
        for name in names:
            report = last.get(name) or {**self.outcomes.last(name)}
            if report:
                report |= ray_fields(result or {})
            self.ask_tell.tell(name, self.outcomes.end(name, report or None, error=error))

    def expect(self, trial_id: str, config: Mapping[str, Any]) -> None:
        """Register a trial that Ray has and the study does not, until it ends.

        Args:
            trial_id: Ray's.
            config: of the trial, names with ``/`` between levels.
        """
        settings, own = self.ask_tell.settings, self.ask_tell.own
        self._known.add(trial_id)
        given: Any = [config] if self.population is None else config.get(POLICIES, ())
        for name, point in zip(self._names(trial_id), given, strict=False):
            read = read_point(trial_id, point, settings.space, settings.scale, own)
            self.ask_tell.expect(name, read)

    def adopt(self, trial_id: str, config: Mapping[str, Any]) -> bool:
        """Take a trial without a suggestion for a failed one that is run again.

        Args:
            trial_id: an unknown id.
            config: what it was run with, names with ``/`` between levels.

        Returns:
            Whether there is such a failed trial.
        """
        if self.population is None:
            found = f"{POLICY}/function" in config and self.ask_tell.adopt(trial_id, config)
        else:
            found = self._adopt_all(trial_id, config.get(POLICIES))
        if found:
            self._known.add(trial_id)
        return found

    def _adopt_all(self, trial_id: str, policies: Any) -> bool:
        for host in self._known - self._live.keys():
            names = self._names(host)
            if self.ask_tell.failed(names) and self.ask_tell.policies(names) == policies:
                for old, new in zip(names, self._names(trial_id), strict=True):
                    self.ask_tell.rename(old, new)
                self._known.remove(host)
                return True
        return False

    def _ask(self, name: str) -> tuple[LRPolicy, dict[str, Any]]:
        policy, own = self.ask_tell.ask(name)
        while not own and policy in self.stored:
            self.recalled.append(self.ask_tell.recall(name, self.stored.pop(policy)))
            policy, own = self.ask_tell.ask(name)
        return policy, own

    def _names(self, trial_id: str) -> list[str]:
        if self.population is None:
            return [trial_id]
        return [member_id(trial_id, place) for place in range(self.population)]

    def _of_members(
        self, trial_id: str, result: Mapping[str, Any] | None
    ) -> dict[str, dict[str, Any]]:
        names = self._names(trial_id)
        found = members_in(result)
        return {names[place]: found[place] for place in found if place < len(names)}
