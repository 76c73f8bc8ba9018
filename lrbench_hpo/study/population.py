"""A study whose trials are trained together, in populations: ask, train, stop, tell."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo.errors import StudyError
from lrbench_hpo.records.score import score_run
from lrbench_hpo.study.objective import Objective, replay, report
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_policy

if TYPE_CHECKING:
    from lrbench_hpo.training.population.worker import Crew, Event
    from lrbench_hpo.training.population.workers import WorkerCrew

Callback = Callable[[optuna.Study, FrozenTrial], None]

_ON_A_GPU = 16  # networks at once, where nobody says how many


def optimize(
    study: optuna.Study,
    objective: Objective,
    n_trials: int = 64,
    population: int | None = None,
    *,
    executor: str = "auto",
    processes: int | None = None,
    timeout: float | None = None,
    callbacks: Sequence[Callback] | None = (),
) -> dict[str, int]:
    """Run a study's trials together: the built-in trainer's `study.optimize`, many at a time.

    Trials share data and, up to where their LRs part, training; they are told and stored as they
    end, stopped where the study's pruner says so, and their places filled anew. With the executor
    ``stream`` every run has the very numbers of `Trainer.train` with as many threads. Ctrl-C keeps
    all trials that have ended.

    Args:
        study: made by `create_study`.
        objective: what to train; `Objective.test` finds the winner's weights there.
        n_trials: how many trainings; trials that recall a stored one come on top.
        population: how many at once; what pays when None: on a CPU one a process, because nobody
            gains there by waiting for others, on a GPU 16.
        executor: ``stream`` (ordinary networks in turn), ``stacked`` (one network with parameters
            for all) or ``auto``, the faster one of the two, timed on a few updates.
        processes: how many processes share the population. When None: on a GPU this one alone;
            on a CPU one a core, or, where a population is not given either and one network on all
            cores is nearly as fast as one a core (timed on a few updates), this one alone. With
            one process the same seed gives the same search.
        timeout: no trial begins after this many seconds.
        callbacks: called with study and trial after each end; after ``study.stop()`` no trial
            begins.

    Returns:
        ``trained``: iterations of networks; ``shared``: those that shared prefixes spared;
        ``stopped``: those that trials stopped early did not use up.

    Raises:
        LRBenchError: for bad input, or a training that cannot work.

    >>> import lrbench_hpo
    >>> study = lrbench_hpo.create_study("digits", "mlp", max_iterations=50, database="sqlite://")
    >>> objective = Objective("digits", "mlp", database="sqlite://")
    >>> told = lrbench_hpo.optimize(study, objective, n_trials=4, population=2, processes=1)
    >>> len(study.trials), told["trained"] <= 200
    (4, True)
    """
    _checked("n_trials", n_trials)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise StudyError(f"timeout={timeout!r}: expected seconds, at least 0, or None")
    if not isinstance(objective, Objective):
        raise StudyError(
            f"objective={objective!r}: a population trains with lrbench_hpo.Objective: give one, "
            "or call study.optimize with your own"
        )
    crew = open_crew(study, objective, population, executor, processes, most=n_trials)
    search = PopulationSearch(study, objective, crew, callbacks or ())
    try:
        search.run(n_trials, None if timeout is None else time.monotonic() + timeout)
    finally:
        search.close()
    return {
        "trained": crew.trained_iterations,
        "shared": crew.saved_iterations,
        "stopped": search.spared,
    }


def open_crew(
    study: optuna.Study,
    objective: Objective,
    population: int | None = None,
    executor: str = "auto",
    processes: int | None = None,
    *,
    most: int | None = None,
) -> Crew | WorkerCrew:
    """Those who train a study's trials: in this process, or in several.

    Args:
        study: made by `create_study`.
        objective: what to train.
        population: as in `optimize`.
        executor: as in `optimize`.
        processes: as in `optimize`.
        most: how many trials there will be at all.

    Raises:
        LRBenchError: for bad input, or settings that cannot work together.
    """
    from lrbench_hpo.training.population.layout import processes_for, usable_cores
    from lrbench_hpo.training.population.worker import Crew
    from lrbench_hpo.training.population.workers import WorkerCrew

    for name, value in (("population", population), ("processes", processes)):
        if value is not None:
            _checked(name, value)
    settings = StudySettings.of(study)
    trainer = objective.trainer_for(settings)
    on_cpu = trainer.device.type == "cpu"
    said: tuple[str, ...] = ()
    if processes is None and population is None and on_cpu:
        processes, why = processes_for(trainer)
        said = (why,)
    processes = processes or (usable_cores() if on_cpu else 1)
    population = population or (processes if on_cpu else _ON_A_GPU)
    population = min(population, most or population)
    processes = min(processes, population)
    worth = functools.partial(score_run, weights=settings.weights)
    crew: Crew | WorkerCrew
    if processes == 1:
        crew = Crew(trainer, population, executor, worth)
    elif on_cpu:
        crew = WorkerCrew(trainer, population, executor, worth, processes)
    else:
        raise StudyError(
            f"processes={processes}: a population on {trainer.device} is one process: give 1"
        )
    crew.notes = (*said, *crew.notes)
    return crew


class PopulationSearch:
    """Keeps a crew busy with a study's trials.

    Args:
        study: made by `create_study`.
        objective: what is trained; it stores the runs.
        crew: those who train; closed along.
        callbacks: called with study and trial after each end.

    Attributes:
        study: as given.
        spared: iterations that trials which were stopped did not use up.
    """

    def __init__(
        self,
        study: optuna.Study,
        objective: Objective,
        crew: Crew | WorkerCrew,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.study = study
        self.spared = 0
        self._objective = objective
        self._crew = crew
        self._callbacks = tuple(callbacks)
        self._settings = StudySettings.of(study)
        self._live: dict[int, optuna.Trial] = {}
        self._stopped: set[int] = set()
        self._asked = 0
        self._over = False

    def run(self, n_trials: int, deadline: float | None = None) -> None:
        """Train this many policies.

        Args:
            n_trials: how many; recalled ones come on top, but not without end.
            deadline: of the monotonic clock; no trial begins after it.
        """
        most = self._asked + 3 * n_trials + 10
        trained = 0
        while True:
            while trained < n_trials and len(self._live) < self._crew.room and self._asked < most:
                if self._over or (deadline is not None and time.monotonic() > deadline):
                    n_trials = trained
                    break
                trained += self._ask()
            if not self._live:
                return
            events = self._crew.events(self._moved)
            # Kept first: whatever breaks while one of them is told, the others are not lost.
            for event in events:
                self._keep(event)
            # All are known before any is judged: those in step are compared with each other.
            news = {event.key: event for event in events if self._reported(event)}
            for event in events:
                self._heard(event, to_judge=news.get(event.key) is event)

    def close(self) -> None:
        """End the crew; trials under way have failed."""
        try:
            self._crew.close()
        finally:
            for trial in self._live.values():
                # A storage that is away takes nothing, and has said so already.
                with contextlib.suppress(Exception):
                    self.study.tell(trial, state=TrialState.FAIL)
            self._live = {}

    def _ask(self) -> bool:
        """Begin a trial; whether it has to be trained."""
        trial = self.study.ask()
        self._asked += 1
        self._live[trial.number] = trial
        policy = suggest_policy(trial)
        budget = self._settings.scale.max_iterations
        trainer = self._objective.trainer_for(self._settings)
        stored = self._objective.recalled(trainer, policy, budget, self._crew.environment)
        trial.set_user_attr("recalled", stored is not None)
        if stored is None:
            self._crew.add(trial.number, policy, budget)
            return True
        replay(trial, self._settings, stored)
        self._tell(trial, stored.status, self._objective.note(trial, self._settings, stored, None))
        return False

    def _moved(self, events: Sequence[Event]) -> None:
        tell = self._objective.on_progress
        if tell is not None:
            for event in events:
                tell(self._live[event.key], event.iteration)

    def _keep(self, event: Event) -> None:
        if event.ended and event.run is not None:
            self._objective.store.add(event.run)

    def _reported(self, event: Event) -> bool:
        """Report what a trial reached; whether it is news."""
        run = event.run
        if run is None or event.key in self._stopped or (event.ended and run.status != "complete"):
            return False
        return report(self._live[event.key], self._settings, run)

    def _heard(self, event: Event, *, to_judge: bool = False) -> None:
        trial, run = self._live[event.key], event.run
        if run is None:
            trial.set_user_attr("failure", event.failure)
            self._tell(trial, "failed", None)
            return
        if not event.ended:
            if to_judge and trial.should_prune():
                self._stopped.add(event.key)
                end = self._crew.drop(event.key)
                if end is not None:
                    self._keep(end)
                    self._heard(end)
            return
        self.spared += run.max_iterations - event.iteration if run.status == "pruned" else 0
        value = self._objective.note(trial, self._settings, run, event.state)
        self._tell(trial, run.status, value)

    def _tell(self, trial: optuna.Trial, status: str, value: Any) -> None:
        state = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}.get(status)
        told = self.study.tell(trial, value if state is None else None, state)
        del self._live[trial.number]
        self._stopped.discard(trial.number)
        for callback in self._callbacks:
            try:
                callback(self.study, told)
            except RuntimeError as error:
                # What `study.stop()` raises outside of `study.optimize`: it means the same here.
                if "Study.stop" not in str(error):
                    raise
                self._over = True


def _checked(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StudyError(f"{name}={value!r}: expected a whole number of at least 1")
