"""How the trials of a Ray experiment end, from the little that Ray reports to a searcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrbench_hpo.errors import WarnOnce
from lrbench_hpo.records.reports import TrialOutcome, final_status, finite

_REPORTS = "training_iteration"  # Ray's count of a trial's reports


class TrialOutcomes:
    """Keeps the last reports of live trials and derives how each trial ended; it pickles.

    Args:
        wanted: what every trial has to report, the metric first.
        budget: iterations of a whole trial.
        stop: the experiment's stopping criteria.
    """

    def __init__(self, wanted: Sequence[str], budget: int, stop: Mapping[str, Any]) -> None:
        self.stop = stop
        self._wanted = tuple(wanted)
        self._metric = self._wanted[0]
        self._budget = budget
        self._last: dict[str, Mapping[str, Any]] = {}
        self._warn = WarnOnce()

    def note(self, trial_id: str, result: Mapping[str, Any]) -> float | None:
        """Keep a report; its metric, if that is a finite number."""
        self._last[trial_id] = {key: result[key] for key in result if not key.startswith("config/")}
        return finite(result.get(self._metric))

    def last(self, trial_id: str) -> Mapping[str, Any]:
        """The last report of a live trial; empty when there is none."""
        return self._last.get(trial_id, {})

    def end(self, trial_id: str, result: Mapping[str, Any] | None, *, error: bool) -> TrialOutcome:
        """How a trial ended.

        Args:
            trial_id: Ray's.
            result: its last report, as Ray gives it at the end; it may be None.
            error: whether Ray calls it failed.
        """
        noted = self._last.pop(trial_id, {})
        last = result or noted
        if _REPORTS not in last and finite(last.get(self._metric)) is not None:
            error = False  # a mean over seeds, with the error of the last one only
        status = final_status(
            last,
            error=error,
            metric=self._metric,
            budget=self._budget,
            # Ray shows a searcher no report that a scheduler answers with "stop".
            cut=last.get(_REPORTS) != noted.get(_REPORTS),
            stop=self.stop,
        )
        missing = [name for name in self._wanted if last.get(name) is None]
        if missing and not error and status != "diverged":
            self._warn_of_missing(missing[0], last)
            status = "failed"
        return TrialOutcome.from_report(last, status, self._metric, self._budget)

    def _warn_of_missing(self, name: str, result: Mapping[str, Any]) -> None:
        if not result:
            return
        reported = ", ".join(sorted(key for key in result if finite(result[key]) is not None))
        other = "give another metric=" if name == self._metric else "search one objective"
        self._warn(
            "missing",
            f"metric {name!r} is not in a trial's report, so the trial counts as failed; "
            f"reported numbers: {reported}; report it, or {other}",
            stacklevel=4,
        )
