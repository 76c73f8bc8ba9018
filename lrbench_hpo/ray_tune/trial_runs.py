"""Runs of Ray's trials, whatever trainable reported them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrbench_hpo.errors import MissingExtraError, WarnOnce
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.trial_config import TRIAL_INDEX
from lrbench_hpo.records.member_reports import POLICIES
from lrbench_hpo.records.reported_runs import Reports, diverged, recorded_name, reported_run
from lrbench_hpo.records.reports import final_status, finite, run_in
from lrbench_hpo.records.run import Run

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune.utils import flatten_dict

POLICY = "lr_policy"


class TrialRuns:
    """Makes a run of a trial from its config and its reports; it pickles.

    Args:
        dataset: name of the data set; ``config["dataset"]`` when None.
        model: name of the model; ``config["model"]`` when None.
        policy: gives the `LRPolicy` of a trial's config; as in `RecordRuns` when None.
        source: who measured it.
        metric: what trials are compared by, if known.

    Attributes:
        stop: the experiment's stopping criteria, by the name of a reported number.
    """

    def __init__(
        self,
        dataset: str | None,
        model: str | None,
        policy: Callable[[dict[str, Any]], LRPolicy | Mapping[str, Any] | None] | None,
        *,
        source: str,
        metric: str | None,
    ) -> None:
        self.stop: Mapping[str, Any] = {}
        self._names = {"dataset": dataset, "model": model}
        self._policy = policy
        self._source = source
        self._metric = metric
        self._warn = WarnOnce()

    def policies_of(self, config: Mapping[str, Any]) -> Sequence[Any]:
        """The policies of a trial that is a population; none of any other trial."""
        found = config.get(POLICIES) if self._policy is None else None
        return found if isinstance(found, (list, tuple)) else ()

    def run_of(
        self,
        config: dict[str, Any],
        result: Mapping[str, Any],
        reports: Reports,
        *,
        notes: Mapping[str, Any],
        error: bool,
        cut: bool,
        place: int | None = None,
    ) -> Run | None:
        """The run of a trial; None, after a warning, when its task or policy is unknown.

        Args:
            config: of the trial.
            result: its last report, which may hold the whole run.
            reports: what else it reported.
            notes: of the run.
            error: whether it failed.
            cut: whether its last report also ended it, as when a scheduler stops it.
            place: of the policy, in a trial that is a population.

        Raises:
            LRBenchError: for a policy, name or number that breaks a rule.
        """
        run = run_in(result)
        if run is not None:
            return dataclasses.replace(
                run,
                status=final_status(result, error=error),
                source=self._source,
                notes={**run.notes, **notes},
            )
        policy = self._policy_of(config, place)
        if policy is None:
            self._warn(
                POLICY,
                f"trials without an LR policy are not recorded: give config[{POLICY!r}], or "
                "RecordRuns(policy=function of the config)",
                stacklevel=3,
            )
            return None
        names = self._names_of(config)
        if names is None:
            return None
        return reported_run(
            config,
            policy,
            reports,
            self._status(config, result, error=error, cut=cut),
            dataset=names["dataset"],
            model=names["model"],
            result=result,
            budget=_budget(config, result),
            seed=_seed(config),
            source=self._source,
            notes=notes,
        )

    def _names_of(self, config: Mapping[str, Any]) -> dict[str, str] | None:
        """What data set and model are recorded as; None when either is unknown."""
        names = {}
        for what, given in self._names.items():
            known = given or recorded_name(config.get(what))
            if known is None:
                self._warn(
                    what,
                    f"trials of an unknown {what} are not recorded: give config[{what!r}], or "
                    f"RecordRuns({what}=…)",
                    stacklevel=3,
                )
                return None
            names[what] = known
        return names

    def _policy_of(self, config: dict[str, Any], place: int | None) -> LRPolicy | None:
        if place is not None:
            found = config[POLICIES][place]
        else:
            found = config.get(POLICY) if self._policy is None else self._policy(config)
        if found is None or isinstance(found, LRPolicy):
            return found
        return LRPolicy.from_dict(found)

    def _status(
        self, config: Mapping[str, Any], result: Mapping[str, Any], *, error: bool, cut: bool
    ) -> str:
        status = final_status(
            {**flatten_dict(dict(result)), **result},  # criteria may name a level: eval/top1
            error=error,
            metric=self._metric,
            budget=_budget(config, result),
            cut=cut,
            stop=self.stop,
        )
        if status in {"complete", "pruned"} and diverged(result, self._metric):
            return "diverged"
        return status


def _budget(config: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    for given in (config.get("max_iterations"), result.get("max_iterations")):
        if (budget := finite(given)) is not None and budget >= 1:
            return int(budget)
    return None


def _seed(config: Mapping[str, Any]) -> int | None:
    """The seed of a config; Ray's Repeater counts on from it."""
    seed, index = finite(config.get("seed")), finite(config.get(TRIAL_INDEX))
    return None if seed is None and index is None else int(seed or 0) + int(index or 0)
