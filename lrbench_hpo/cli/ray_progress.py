"""The progress of a search on Ray: the same bar and lines as without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import TrialState

from lrbench_hpo.cli.study_progress import StudyProgress
from lrbench_hpo.errors import MissingExtraError
from lrbench_hpo.ray_tune.searcher import LRBenchSearcher
from lrbench_hpo.records.member_reports import members_in

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune import Callback


class RayProgress(Callback):
    """Shows the events of Ray Tune's trials.

    Args:
        progress: the bar.
        searcher: its study holds the trials.
    """

    def __init__(self, progress: StudyProgress, searcher: LRBenchSearcher) -> None:
        self._progress = progress
        self._searcher = searcher
        self._shown: set[int] = set()
        self._recalled = 0
        self.trials = 0  # of the experiment; a resumed one keeps the number it was started with

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Note how many trials the experiment has."""
        self.trials = total_num_samples or 0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Print the lines of trials whose training was stored already."""
        new = self._searcher.recalled[self._recalled :]
        self._recalled += len(new)
        for number in new:
            self._progress.show(self._searcher.study.get_trials(deepcopy=False)[number])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Move the bar, and print the lines of a population's policies that ended."""
        numbers = self._searcher.numbers(trial.trial_id)
        reached = {
            numbers[place]: report.get("iteration", 0)
            for place, report in members_in(result).items()
            if place < len(numbers)
        }
        if not reached and len(numbers) == 1:
            reached = {numbers[0]: result.get("iteration", 0)}
        for number, iteration in reached.items():
            if number not in self._shown:
                self._progress.move_to(number, int(iteration))
        if len(numbers) > 1:
            self._show(numbers)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the trial's line, or its policies'."""
        self._show(self._searcher.numbers(trial.trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print that a lost trial goes on from its checkpoint."""
        numbers = self._searcher.numbers(trial.trial_id)
        which, on = f"trial {numbers[0] if numbers else None}", "it goes on from its"
        if len(numbers) > 1:
            which, on = f"trials {', '.join(map(str, numbers))}", "they go on from their"
        self._progress.print_line(f"{which}: stopped ({reason_of(trial)}); {on} last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print why a trial failed."""
        trials_by_number = self._searcher.study.get_trials(deepcopy=False)
        for number in self._searcher.numbers(trial.trial_id):
            if trials_by_number[number].state == TrialState.FAIL:
                self._progress.failed(number, reason_of(trial))
            else:
                self._show([number])

    def _show(self, numbers: Sequence[int]) -> None:
        trials_by_number = self._searcher.study.get_trials(deepcopy=False)
        for number in numbers:
            if trials_by_number[number].state.is_finished() and number not in self._shown:
                self._shown.add(number)
                self._progress.show(trials_by_number[number])


def reason_of(trial: Any) -> str:
    """Why a trial of Ray failed, in one line: the text after its last traceback."""
    text = str(trial.get_error() or "").strip()
    lines = [line for line in text.splitlines() if line.strip()]
    frames = [place for place, line in enumerate(lines) if line.startswith(" ")]
    last = lines[frames[-1] + 1 :] if frames else lines
    return " ".join(" ".join(last or lines[-1:]).split())[:300] or "its worker was lost"
