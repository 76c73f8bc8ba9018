"""The study's trials behind each trial of Ray: one, or one for each policy of a population."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.trial_ends import TrialEnds
from lrbench_hpo.records.member_reports import MEMBERS, POLICIES, member_id, members_in, of_trial
from lrbench_hpo.records.reports import Ended, position
from lrbench_hpo.records.run import STATUSES
from lrbench_hpo.study.ask_tell import AskTell
from lrbench_hpo.study.points import POLICY, read_point

Asked = tuple[list[LRPolicy], dict[str, Any]]


class MemberTrials:
    """Trials of a study by the ids of Ray's; it pickles with its study.

    Args:
        asked: the study's own.
        ends: how they end.
        population: policies of one trial of Ray's; None where a trial is a policy.

    Attributes:
        asked: as given.
        ends: as given.
        population: as given.
        stored: results by their policy, which no trial needs to train.
        recalled: numbers of the study's trials that got such a result.
    """

    def __init__(self, asked: AskTell, ends: TrialEnds, population: int | None = None) -> None:
        self.asked = asked
        self.ends = ends
        self.population = population
        self.stored: dict[LRPolicy, Ended] = {}
        self.recalled: list[int] = []
        self._live: dict[str, Asked] = {}
        self._known: set[str] = set()
        self._complained = False

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of Ray's trials that were asked for and have not ended."""
        return tuple(self._live)

    @property
    def known(self) -> Collection[str]:
        """Ids of all of Ray's trials that were ever asked for, or are expected."""
        return self.asked.known if self.population is None else self._known

    def numbers(self, trial_id: str) -> tuple[int, ...]:
        """The numbers that the policies of a trial have in the study."""
        found = (self.asked.number(name) for name in self._names(trial_id))
        return tuple(number for number in found if number is not None)

    def ask(self, trial_id: str) -> dict[str, Any]:
        """What a trial's config says of its policies, and the values of own parameters.

        The same id gets the same answer until it has ended.
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

    def reported(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note how far a trial is; policies of a population that are over are told."""
        reports: Mapping[str, Mapping[str, Any]] = {trial_id: result}
        if self.population is not None:
            reports = self._of_members(trial_id, result)
        for name, report in reports.items():
            value, iteration = self.ends.reported(name, report), position(report)
            if value is not None and iteration is not None:
                self.asked.report(name, iteration, value)
            if self.population is not None and report.get("status") in STATUSES:
                self.asked.tell(name, self.ends.end(name, report, error=False))

    def end(self, trial_id: str, result: Mapping[str, Any] | None, *, error: bool) -> None:
        """Tell the study how a trial has ended.

        Policies of a population that were not over have been cut, or have failed, with it.

        Args:
            trial_id: Ray's.
            result: its last report, as Ray gives it at the end; it may be None.
            error: whether Ray says that it failed.
        """
        self._live.pop(trial_id, None)
        if self.population is None:
            self.asked.tell(trial_id, self.ends.end(trial_id, result, error=error))
            return
        last = self._of_members(trial_id, result)
        names = self._names(trial_id)
        heard = any(self.ends.seen(name) or self.asked.is_ended(name) for name in names)
        if result and not error and not last and not heard:
            self._complain()
        for name in names:
            report = last.get(name) or {**self.ends.seen(name)}
            if report:
                report |= of_trial(result or {})
            self.asked.tell(name, self.ends.end(name, report or None, error=error))

    def expect(self, trial_id: str, config: Mapping[str, Any]) -> None:
        """Know of a trial that Ray has and the study does not, until it ends.

        Args:
            trial_id: Ray's.
            config: of the trial, names with ``/`` between levels.
        """
        settings, own = self.asked.settings, self.asked.own
        self._known.add(trial_id)
        given: Any = [config] if self.population is None else config.get(POLICIES, ())
        for name, point in zip(self._names(trial_id), given, strict=False):
            read = read_point(trial_id, point, settings.space, settings.scale, own)
            self.asked.expect(name, read)

    def adopt(self, trial_id: str, config: Mapping[str, Any]) -> bool:
        """Take a trial that nobody asked for as a failed one that is run again.

        Args:
            trial_id: an unknown id.
            config: what it was run with, names with ``/`` between levels.

        Returns:
            Whether there is such a failed trial.
        """
        if self.population is None:
            found = f"{POLICY}/function" in config and self.asked.adopt(trial_id, config)
        else:
            found = self._adopt_all(trial_id, config.get(POLICIES))
        if found:
            self._known.add(trial_id)
        return found

    def _adopt_all(self, trial_id: str, policies: Any) -> bool:
        for host in self._known - self._live.keys():
            names = self._names(host)
            if self.asked.failed(names) and self.asked.policies(names) == policies:
                for old, new in zip(names, self._names(trial_id), strict=True):
                    self.asked.rename(old, new)
                self._known.remove(host)
                return True
        return False

    def _ask(self, name: str) -> tuple[LRPolicy, dict[str, Any]]:
        policy, own = self.asked.ask(name)
        while not own and policy in self.stored:
            self.recalled.append(self.asked.recall(name, self.stored.pop(policy)))
            policy, own = self.asked.ask(name)
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

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            warnings.warn(
                f"no {MEMBERS!r} in a trial's reports, so all policies of the population count as "
                "failed: report one for each policy, as lrbench_hpo.train does, or give no "
                "population",
                stacklevel=4,
            )
