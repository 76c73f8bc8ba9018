"""The progress of a search on Ray: the same bar and lines as without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune import Callback

if TYPE_CHECKING:
    from lrbench_hpo.cli.progress import StudyProgress
    from lrbench_hpo.searcher import LRBenchSearcher


class RayProgress(Callback):
    """Shows what Ray Tune tells of its trials.

    Args:
        progress: the bar.
        searcher: whose study knows the trials.
    """

    def __init__(self, progress: StudyProgress, searcher: LRBenchSearcher) -> None:
        self._progress = progress
        self._searcher = searcher
        self._shown: set[str] = set()
        self._recalled = 0
        self.trials = 0  # of the experiment; a resumed one keeps the number it began with

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Learn how many trials there are to be."""
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
        """Move the bar."""
        number = self._searcher.number(trial.trial_id)
        if number is not None:
            self._progress.at(number, int(result.get("iteration", 0)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the trial's line."""
        number = self._searcher.number(trial.trial_id)
        if number is None or trial.trial_id in self._shown:
            return
        self._shown.add(trial.trial_id)
        self._progress.show(self._searcher.study.get_trials(deepcopy=False)[number])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a lost trial goes on."""
        number = self._searcher.number(trial.trial_id)
        self._progress.say(
            f"trial {number}: stopped ({reason_of(trial)}); it goes on from its last checkpoint"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print why a trial failed."""
        number = self._searcher.number(trial.trial_id)
        if number is not None:
            self._progress.failed(number, reason_of(trial))


def reason_of(trial: Any) -> str:
    """Why a trial of Ray failed, in one line: what stands below its last traceback."""
    text = str(trial.get_error() or "").strip()
    lines = [line for line in text.splitlines() if line.strip()]
    frames = [place for place, line in enumerate(lines) if line.startswith(" ")]
    last = lines[frames[-1] + 1 :] if frames else lines
    return " ".join(" ".join(last or lines[-1:]).split())[:300] or "its worker was lost"
