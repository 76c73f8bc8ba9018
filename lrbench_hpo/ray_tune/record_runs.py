"""Every finished trial of a Ray Tune experiment into the LR database, once, on the driver."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.database.location import database_url, with_password, without_password
from lrbench_hpo.database.run_store import RunStore
from lrbench_hpo.errors import MissingExtraError, StudyError, WarnOnce
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.ray_internals import last_result
from lrbench_hpo.ray_tune.stored_trials import StoredTrials
from lrbench_hpo.ray_tune.trial_runs import TrialRuns
from lrbench_hpo.records.member_reports import member_id, members_in, ray_fields
from lrbench_hpo.records.reported_runs import Reports
from lrbench_hpo.records.reports import RUN
from lrbench_hpo.records.run import STATUSES, Run, own_source

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune import Callback
    from ray.tune.experiment import Trial

_OVER = (Trial.TERMINATED, Trial.ERROR)


class RecordRuns(Callback):
    """Stores the trials of any searcher and trainable: ``tune.run(…, callbacks=[RecordRuns()])``.

    Each trial goes into the LR database as it ends, whatever its end: complete, pruned (cut by a
    scheduler or the time budget), diverged or failed. `lrbench_hpo.train` reports the whole run;
    of any other trainable the known metrics of its reports are taken (``top1``, ``train_loss``,
    ``eval_loss``, …, and ``iteration`` and ``lr`` for the curve). A database that is away stops
    nothing: results wait in a file and follow. In an experiment that is restored or resumed,
    trials that are stored are not stored again; trials that Ctrl-C stopped have not ended. Of a
    trial that is a population each policy is a run of its own, stored as soon as it ends.

    Args:
        database: URL or file of the LR database, or one that is open; ``LRBENCH_DATABASE_URL`` or
            the user's own when None. Ray saves the callback without a password: a restored
            experiment takes that from the environment.
        dataset: name of the data set; ``config["dataset"]`` when None.
        model: name of the model; ``config["model"]`` when None.
        policy: gives the `LRPolicy` of a trial's config; ``config["lr_policy"]``, or each of
            ``config["lr_policies"]``, when None.
        source: who measured it; ``LRBENCH_SOURCE``, else ``local``, when None.
        metric: what trials are compared by, if its NaN should count as diverged, and its absence
            as failed, in trainables other than `lrbench_hpo.train`.
        folder: where results wait; the user's data folder when None.

    Raises:
        LRBenchError: for a database or policy that can be none.
    """

    def __init__(
        self,
        database: str | Path | Database | None = None,
        *,
        dataset: str | None = None,
        model: str | None = None,
        policy: Callable[[dict[str, Any]], LRPolicy | Mapping[str, Any] | None] | None = None,
        source: str | None = None,
        metric: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if not isinstance(database, Database):
            database_url(database)
        if policy is not None and not callable(policy):
            raise StudyError(f"policy={type(policy).__name__}: expected a function of the config")
        for what, name in (("dataset", dataset), ("model", model), ("metric", metric)):
            if name is not None:
                checks.name(what, name)
        if folder is not None and not isinstance(folder, (str, Path)):
            raise StudyError(f"folder={type(folder).__name__}: expected a folder's path")
        self._database = database
        self._source = checks.name("source", own_source() if source is None else source)
        self._runs = TrialRuns(dataset, model, policy, source=self._source, metric=metric)
        self._folder = folder
        self._store: RunStore | None = None
        self._warn = WarnOnce()
        self._resumed = False
        self._begin()

    def _begin(self) -> None:
        self._stored = StoredTrials(self._source)
        self._cut: set[str] = set()
        # Of these, the keys are ids of trials, or of the policies of a population.
        self._ended: set[str] = set()
        self._reports: dict[str, Reports] = {}
        self._last: dict[str, Mapping[str, Any]] = {}

    @property
    def waiting(self) -> tuple[Run, ...]:
        """The runs that the database has not taken yet."""
        return () if self._store is None else self._store.waiting

    @property
    def file(self) -> Path | None:
        """Where `waiting` is kept; None when nothing waits, or only in memory."""
        return None if self._store is None else self._store.file

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Begin an experiment, or go on with a restored one (called by Ray)."""
        if not self._resumed:
            self._begin()
        self._resumed = False
        self._runs.stop = stop if isinstance(stop, Mapping) else {}
        self._store = None
        self._opened()  # before the first trial: what cannot work ends here

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial runs, perhaps again (called by Ray)."""
        self._ended.discard(trial.trial_id)
        self._cut.discard(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Keep what makes a trial's curve (called by Ray)."""
        with self._recording(trial):
            if result.get("done"):  # Ray leaves it out where the trainable just returns
                self._cut.add(trial.trial_id)
            if not self._runs.policies_of(trial.config):
                self._note(trial.trial_id, result)
                return
            for place, report in members_in(result).items():
                name = member_id(trial.trial_id, place)
                self._note(name, report)
                self._last[name] = report
                if report.get("status") in STATUSES:
                    self._stored.current = {each.trial_id for each in trials}
                    self._record_member(trial, place, error=False)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Store a trial that ended (called by Ray)."""
        self._record(trials, trial, began=trial.status == Trial.RUNNING)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Store a trial that failed for good (called by Ray)."""
        self._record(trials, trial, error=True)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Store trials whose end Ray did not report, and what waits (called by Ray)."""
        # As when the time budget is up; after a restore also what was never recorded.
        for trial in trials:
            if trial.status in _OVER and trial.trial_id not in self._ended:
                self._record(trials, trial, error=trial.status == Trial.ERROR)
        if self.waiting:
            with self._recording():
                self._opened().flush()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Store what waits, and close the database (called by Ray)."""
        if self._store is None:
            return
        with self._recording():
            waiting = self._store.close()
            if waiting:
                where = self.file or "memory: keep this process alive and call flush()"
                warnings.warn(
                    f"{len(waiting)} results are not in the LR database yet: they wait in {where} "
                    "and follow with the next search on this database",
                    stacklevel=2,
                )

    def flush(self) -> tuple[Run, ...]:
        """Try now to store what waits; the runs that still wait."""
        return () if self._store is None else self._store.close()

    def get_state(self) -> dict[str, Any]:
        """What a restored experiment needs (called by Ray)."""
        return {
            **self._stored.state_dict(),
            "ended": sorted(self._ended),
            "reports": dict(self._reports),
            "last": dict(self._last),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state` (called by Ray)."""
        self._begin()
        self._stored = StoredTrials(self._source, state)
        self._ended = set(state["ended"])
        self._reports = dict(state["reports"])
        self._last = dict(state.get("last") or {})
        self._resumed = True

    def __getstate__(self) -> dict[str, Any]:
        database = self._database
        if isinstance(database, Database):
            database = database.url.render_as_string(hide_password=False)
        plain = {"_database": without_password(database), "_store": None}
        return {**self.__dict__, **plain}

    def _opened(self) -> RunStore:
        if self._store is None:
            database = self._database
            if not isinstance(database, Database):
                database = with_password(database)
            self._store = RunStore(database, folder=self._folder, already=self._already)
        return self._store

    @contextlib.contextmanager
    def _recording(self, trial: Trial | None = None) -> Iterator[None]:
        """Whatever fails while a trial is recorded, the search goes on."""
        try:
            yield
        except Exception as error:
            what = "results are" if trial is None else f"trial {trial.trial_id} is"
            reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(f"{what} not recorded: {reason}", stacklevel=4)

    def _record(
        self, trials: Sequence[Trial], trial: Trial, *, error: bool = False, began: bool = False
    ) -> None:
        """Store a trial; one that neither reported nor failed has nothing to store."""
        self._stored.current = {each.trial_id for each in trials}
        result = last_result(trial)
        places = range(len(self._runs.policies_of(trial.config)))
        for place, report in members_in(result).items() if places else ():
            self._last[member_id(trial.trial_id, place)] = report
        for place in places:
            self._record_member(trial, place, error=error or (began and not result))
        with self._recording(trial):
            if not places and (result or error or began):
                self._add(trial, result, error=error or not result)
        names = {trial.trial_id, *(member_id(trial.trial_id, place) for place in places)}
        self._ended = (self._ended - names) | {trial.trial_id}
        self._cut.discard(trial.trial_id)
        for name in names:
            self._reports.pop(name, None)
            self._last.pop(name, None)

    def _record_member(self, trial: Trial, place: int, *, error: bool) -> None:
        """Store one policy of a population, once; one that never began has nothing to store."""
        name = member_id(trial.trial_id, place)
        if name in self._ended:
            return
        with self._recording(trial):
            report = {}
            if name in self._last:
                report = {**self._last[name], **ray_fields(last_result(trial))}
            if report or error:
                self._add(trial, report, error=error, place=place)
        self._ended.add(name)
        self._last.pop(name, None)

    def _note(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep a report that does not hold the whole run."""
        if RUN not in result:
            reports = self._reports.setdefault(name, Reports())
            reports.add(result)
            for about, complaint in reports.complaints.items():
                self._warn(about, f"reported {about} is left out: {complaint}", stacklevel=3)

    def _add(
        self, trial: Trial, result: Mapping[str, Any], *, error: bool, place: int | None = None
    ) -> None:
        """Store the run of a trial, or of the policy at a place of a population."""
        name = trial.trial_id if place is None else member_id(trial.trial_id, place)
        run = self._runs.run_of(
            trial.config,
            result,
            self._reports.get(name) or Reports(),
            notes=self._stored.notes(trial.trial_id, place),
            error=error,
            cut=trial.trial_id in self._cut,
            place=place,
        )
        if run is not None:
            self._opened().add(run)

    def _already(self, database: Database, run: Run) -> bool:
        return self._stored.already(database, run)
