"""What a running study shows: a bar with the best so far and the time left, a line a trial."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lrbench_hpo.policies import LRPolicy

if TYPE_CHECKING:
    import optuna


def progress_bar(console: Console, *amount: ProgressColumn, **options: Any) -> Progress:
    """A bar with the time left; a file or pipe gets none.

    Args:
        console: where to.
        amount: the columns that say how much is done.
        options: further ones of `rich.progress.Progress`.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *amount,
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        **options,
    )


class StudyProgress:
    """Shows a study as it runs; a context manager.

    Args:
        console: where to.
        trials: how many trials are asked for.
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
        warnings.showwarning = self._warn
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
        self.at(trial.number, iteration)

    def at(self, number: int, iteration: int) -> None:
        """`moved`, for the trial of this number; any number of trials may run at once."""
        self._under_way[number] = iteration
        self._draw()

    def finished(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Print the line of a finished trial, and stop after enough of them (Optuna callback).

        Trials that only recalled a stored result do not count: nothing was learnt by them.
        """
        if self.show(trial) and self._finished >= self._trials:
            study.stop()

    def show(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Print the line of a finished trial; whether there was anything to tell of it."""
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
        self.say(f"trial {trial.number}: score {score:.4f}, {result}, {policy} ({origin})")
        self._draw()
        return True

    def failed(self, number: int, reason: str) -> None:
        """Print the line of a trial that ended with an error, and count it as over."""
        self._under_way.pop(number, None)
        self._finished += 1
        self.say(f"trial {number}: failed: {reason}")
        self._draw()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        best = "" if self._best is None else f", best {self._best:.4f}"
        numbers = sorted(self._under_way)
        what = f"trial {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} trials at once"
        done = self._finished * self._max_iterations + sum(self._under_way.values())
        self._bar.update(
            self._task, completed=done, description=f"{what if numbers else 'waiting'}{best}"
        )

    def _warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        self.say(f"warning: {message}")


class PopulationProgress(StudyProgress):
    """Shows a study whose trials are trained together: below the whole, a bar for each of them."""

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
        self.at(trial.number, iteration)

    def over(self, trial: optuna.trial.FrozenTrial) -> None:
        """Print the line of a trial that ended, and take its bar away."""
        bar = self._bars.pop(trial.number, None)
        if bar is not None:
            self._bar.remove_task(bar)
        if "failure" in trial.user_attrs:
            self.failed(trial.number, trial.user_attrs["failure"])
        else:
            self.show(trial)
