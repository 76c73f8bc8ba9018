"""Optimization of a study whose trials are trained together, as a population."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import checks
from lrbench_hpo.errors import StudyError
from lrbench_hpo.records.score import score_run
from lrbench_hpo.study.objective import Objective, replay, report
from lrbench_hpo.study.optuna_internals import is_stop_outside_optimize
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import suggest_policy

if TYPE_CHECKING:
    from lrbench_hpo.training.population.worker import Event, Worker
    from lrbench_hpo.training.population.workers import WorkerPool

Callback = Callable[[optuna.Study, FrozenTrial], None]

_DEFAULT_ON_GPU = 16  # networks at once


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
    """Run a study's trials together: `study.optimize` for the built-in trainer, many at a time.

    Trials share data, and training for as long as their LRs are equal. Each is reported and stored
    when it ends, or stopped by the study's pruner, and the next one takes its place. With the
    executor ``stream`` every run has exactly the numbers of `Trainer.train` with the same number of
    threads. Ctrl-C keeps all trials that have finished.

    Args:
        study: made by `create_study`.
        objective: trains the trials; afterwards `Objective.test` has the best trial's weights.
        n_trials: the number of trainings; trials that reuse a stored run are not counted.
        population: how many at once; default: on a GPU 16, on a CPU one per process, because
            waiting for others gains nothing there.
        executor: ``stream`` (ordinary networks in turn), ``stacked`` (one network with the
            parameters of all) or ``auto``, the faster of the two, timed on a few updates.
        processes: how many processes share the population. Default: on a GPU only this one; on a
            CPU one per core, or only this one if ``population`` is not given and one network on
            all cores is nearly as fast as one per core (timed on a few updates). With one process
            the same seed gives the same search.
        timeout: no trial starts after this many seconds.
        callbacks: called with study and trial after the end of each; after ``study.stop()`` no
            trial starts.

    Returns:
        ``trained``: iterations of networks; ``shared``: iterations saved by shared prefixes;
        ``stopped``: iterations that were left when trials were stopped early.

    Raises:
        LRBenchError: for bad input, or a training that cannot work.

    >>> import lrbench_hpo
    >>> study = lrbench_hpo.create_study("digits", "mlp", max_iterations=50, database="sqlite://")
    >>> objective = Objective("digits", "mlp", database="sqlite://")
    >>> counts = lrbench_hpo.optimize(study, objective, n_trials=4, population=2, processes=1)
    >>> len(study.trials), counts["trained"] <= 200
    (4, True)
    """
    checks.whole("n_trials", n_trials, error=StudyError)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout >= 0):
        raise StudyError(f"timeout={timeout!r}: expected seconds, at least 0, or None")
    if not isinstance(objective, Objective):
        raise StudyError(
            f"objective={objective!r}: a population trains with lrbench_hpo.Objective: give one, "
            "or call study.optimize with your own"
        )
    workers = open_workers(study, objective, population, executor, processes, most=n_trials)
    search = PopulationSearch(study, objective, workers, callbacks or ())
    try:
        search.run(n_trials, None if timeout is None else time.monotonic() + timeout)
    finally:
        search.close()
    return {
        "trained": workers.trained_iterations,
        "shared": workers.saved_iterations,
        "stopped": search.spared,
    }


def open_workers(
    study: optuna.Study,
    objective: Objective,
    population: int | None = None,
    executor: str = "auto",
    processes: int | None = None,
    *,
    most: int | None = None,
) -> Worker | WorkerPool:
    """Start what trains a study's trials, in this process or in several.

    Args:
        study: made by `create_study`.
        objective: trains the trials.
        population: as in `optimize`.
        executor: as in `optimize`.
        processes: as in `optimize`.
        most: the number of trials in the whole search, if known.

    Raises:
        LRBenchError: for bad input, or settings that cannot work together.
    """
    from lrbench_hpo.training.population.layout import processes_for, usable_cores
    from lrbench_hpo.training.population.worker import Worker
    from lrbench_hpo.training.population.workers import WorkerPool

    for name, value in (("population", population), ("processes", processes)):
        if value is not None:
            checks.whole(name, value, error=StudyError)
    settings = StudySettings.of(study)
    trainer = objective.trainer_for(settings)
    on_cpu = trainer.device.type == "cpu"
    notes: tuple[str, ...] = ()
    if processes is None and population is None and on_cpu:
        processes, reason = processes_for(trainer)
        notes = (reason,)
    processes = processes or (usable_cores() if on_cpu else 1)
    population = population or (processes if on_cpu else _DEFAULT_ON_GPU)
    population = min(population, most or population)
    processes = min(processes, population)
    score = functools.partial(score_run, weights=settings.weights)
    workers: Worker | WorkerPool
    if processes == 1:
        workers = Worker(trainer, population, executor, score)
    elif on_cpu:
        workers = WorkerPool(trainer, population, executor, score, processes)
    else:
        raise StudyError(
            f"processes={processes}: a population on {trainer.device} is one process: give 1"
        )
    workers.notes = (*notes, *workers.notes)
    return workers


class PopulationSearch:
    """Keeps workers busy with a study's trials: asks for trials, judges, tells and stores them.

    Args:
        study: made by `create_study`.
        objective: trains the trials and stores their runs.
        workers: train the trials; closed by `close`.
        callbacks: called with study and trial after the end of each.

    Attributes:
        study: as given.
        spared: iterations that were left when trials were stopped early.
    """

    def __init__(
        self,
        study: optuna.Study,
        objective: Objective,
        workers: Worker | WorkerPool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.study = study
        self.spared = 0
        self._objective = objective
        self._workers = workers
        self._callbacks = tuple(callbacks)
        self._settings = StudySettings.of(study)
        self._live: dict[int, optuna.Trial] = {}
        self._stopped: set[int] = set()
        self._asked = 0
        self._over = False

    def run(self, n_trials: int, deadline: float | None = None) -> None:
        """Train this many policies.

        Args:
            n_trials: how many. Trials that reuse a stored run are not counted, but in all there
                are at most ``3 * n_trials + 10``.
            deadline: of the monotonic clock; no trial starts after it.
        """
        most = self._asked + 3 * n_trials + 10
        trained = 0
        while True:
            while self._free() and trained < n_trials and self._asked < most:
                if self._over or (deadline is not None and time.monotonic() > deadline):
                    n_trials = trained
                    break
                trained += self._ask()
            if not self._live:
                return
            events = self._workers.events(self._moved)
            # Stored first: an error while one trial is told to the study then loses no other run.
            for event in events:
                self._store(event)
            # All are reported before any is judged, so members in step are compared to each other.
            news = {event.key: event for event in events if self._report(event)}
            for event in events:
                self._handle(event, to_judge=news.get(event.key) is event)

    def close(self) -> None:
        """Close the workers; trials in training have failed."""
        try:
            self._workers.close()
        finally:
            for trial in self._live.values():
                # A storage that is unavailable has already raised its error.
                with contextlib.suppress(Exception):
                    self.study.tell(trial, state=TrialState.FAIL)
            self._live = {}

    def _free(self) -> bool:
        return len(self._live) < self._workers.capacity

    def _ask(self) -> bool:
        """Start a trial; whether it has to be trained."""
        trial = self.study.ask()
        self._asked += 1
        self._live[trial.number] = trial
        policy = suggest_policy(trial)
        budget = self._settings.scale.max_iterations
        trainer = self._objective.trainer_for(self._settings)
        stored = self._objective.recalled(trainer, policy, budget, self._workers.environment)
        trial.set_user_attr("recalled", stored is not None)
        if stored is None:
            self._workers.add(trial.number, policy, budget)
            return True
        replay(trial, self._settings, stored)
        self._tell(trial, stored.status, self._objective.note(trial, self._settings, stored, None))
        return False

    def _moved(self, events: Sequence[Event]) -> None:
        on_progress = self._objective.on_progress
        if on_progress is not None:
            for event in events:
                on_progress(self._live[event.key], event.iteration)

    def _store(self, event: Event) -> None:
        if event.ended and event.run is not None:
            self._objective.store.add(event.run)

    def _report(self, event: Event) -> bool:
        """Report an evaluation to the trial; whether the trial is to be judged by it."""
        run = event.run
        if run is None or event.key in self._stopped or (event.ended and run.status != "complete"):
            return False
        return report(self._live[event.key], self._settings, run)

    def _handle(self, event: Event, *, to_judge: bool = False) -> None:
        """Stop a trial that the pruner rejects; tell the study of one that has ended."""
        trial, run = self._live[event.key], event.run
        if run is None:
            trial.set_user_attr("failure", event.failure)
            self._tell(trial, "failed", None)
            return
        if not event.ended:
            if to_judge and trial.should_prune():
                self._stopped.add(event.key)
                end = self._workers.stop(event.key)
                if end is not None:
                    self._store(end)
                    self._handle(end)
            return
        self.spared += run.max_iterations - event.iteration if run.status == "pruned" else 0
        value = self._objective.note(trial, self._settings, run, event.state)
        self._tell(trial, run.status, value)

    def _tell(self, trial: optuna.Trial, status: str, value: Any) -> None:
        state = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}.get(status)
        finished = self.study.tell(trial, value if state is None else None, state)
        del self._live[trial.number]
        self._stopped.discard(trial.number)
        for callback in self._callbacks:
            try:
                callback(self.study, finished)
            except RuntimeError as error:
                # `study.stop()` raises this outside of `study.optimize`; here it means the same.
                if not is_stop_outside_optimize(error):
                    raise
                self._over = True
