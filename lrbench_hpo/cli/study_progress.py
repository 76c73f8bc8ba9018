"""The progress of a running study: a bar with the best score so far, and a line a trial."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any, Self

import optuna
from rich.console import Console
from rich.progress import MofNCompleteColumn, TaskID, TextColumn

from lrbench_hpo.cli.progress import progress_bar
from lrbench_hpo.cli.tables import print_line
from lrbench_hpo.policies import LRPolicy


class StudyProgress:
    """Shows a study while it runs; a context manager.

    Args:
        console: where to print.
        trials: how many trials the user wants.
        max_iterations: budget of a trial.
    """

    def __init__(self, console: Console, trials: int, max_iterations: int) -> None:
        self._console = console
        self._trials = trials
        self._max_iterations = max_iterations
        self._best: float | None = None
        self._finished = 0
        self._under_way: dict[int, int] = {}
        amount = (MofNCompleteColumn(), TextColumn("iterations"))
        self._bar = progress_bar(console, *amount, speed_estimate_period=300)
        self._task = self._bar.add_task("starting", total=trials * max_iterations)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = self._show_warning
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._warnings.__exit__(kind, error, trace)
        self._bar.__exit__(kind, error, trace)

    def moved(self, trial: optuna.Trial, iteration: int) -> None:
        """Move the bar to an iteration of a running trial."""
        self.move_to(trial.number, iteration)

    def move_to(self, number: int, iteration: int) -> None:
        """Do the same for the trial with this number; any number of trials may run at once."""
        self._under_way[number] = iteration
        self._draw()

    def finished(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Print the line of a finished trial, and stop after enough of them (Optuna callback).

        Trials that recalled a stored result are not counted: they add no result.
        """
        if self.show(trial) and self._finished >= self._trials:
            study.stop()

    def show(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Print the line of a finished trial; whether it has a result to print."""
        self._under_way.pop(trial.number, None)
        attributes = trial.user_attrs
        score = attributes.get("score")
        if "policy" not in attributes or score is None:
            return False
        self._finished += not attributes.get("recalled")
        if attributes["status"] == "complete" and (self._best is None or score > self._best):
            self._best = score
        top1 = attributes.get("top1")
        result = str(attributes["status"])
        if result == "complete" and top1 is not None:
            result = f"Top-1 {100 * top1:.2f} %"
        policy = LRPolicy.from_dict(attributes["policy"])
        origin = str(attributes["source"])
        if attributes.get("recalled"):
            origin += "; the same training is stored: not done again"
        self.print_line(f"trial {trial.number}: score {score:.4f}, {result}, {policy} ({origin})")
        self._draw()
        return True

    def failed(self, number: int, reason: str) -> None:
        """Print the line of a trial that ended with an error, and count it as finished."""
        self._under_way.pop(number, None)
        self._finished += 1
        self.print_line(f"trial {number}: failed: {reason}")
        self._draw()

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        print_line(self._console, line)

    def _draw(self) -> None:
        best = "" if self._best is None else f", best {self._best:.4f}"
        numbers = sorted(self._under_way)
        what = f"trial {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} trials at once"
        done = self._finished * self._max_iterations + sum(self._under_way.values())
        self._bar.update(
            self._task, completed=done, description=f"{what if numbers else 'waiting'}{best}"
        )

    def _show_warning(self, message: Warning | str, *_: Any, **__: Any) -> None:
        self.print_line(f"warning: {message}")


class PopulationProgress(StudyProgress):
    """Shows a study whose trials are trained together, with a bar for each trial."""

    _bars: dict[int, TaskID]

    def __enter__(self) -> Self:
        self._bars = {}
        super().__enter__()
        return self

    def moved(self, trial: optuna.Trial, iteration: int) -> None:
        """Move the bars to an iteration of a running trial."""
        if trial.number not in self._bars:
            policy = LRPolicy.from_dict(trial.user_attrs["policy"])
            shown = f"  trial {trial.number} {policy}"
            total = self._max_iterations
            self._bars[trial.number] = self._bar.add_task(shown, total=total)
        self._bar.update(self._bars[trial.number], completed=iteration)
        self.move_to(trial.number, iteration)

    def ended(self, trial: optuna.trial.FrozenTrial) -> None:
        """Print the line of a trial that ended, and remove its bar."""
        bar = self._bars.pop(trial.number, None)
        if bar is not None:
            self._bar.remove_task(bar)
        if "failure" in trial.user_attrs:
            self.failed(trial.number, trial.user_attrs["failure"])
        else:
            self.show(trial)
