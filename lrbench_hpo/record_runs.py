"""Every finished trial of a Ray Tune experiment into the LR database, once, on the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.database.location import database_url, with_password, without_password
from lrbench_hpo.errors import MissingExtraError, StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records import Run, own_source, utc_timestamp
from lrbench_hpo.reported_runs import Reports, diverged, reported_run
from lrbench_hpo.trial_config import TRIAL_INDEX
from lrbench_hpo.trial_results import RUN, finite, outcome, run_in
from lrbench_hpo.waiting import RunStore

with MissingExtraError.unless_installed("ray", "ray"):
    from ray.tune import Callback
    from ray.tune.experiment import Trial
    from ray.tune.utils import flatten_dict

POLICY = "lr_policy"
EXPERIMENT, TRIAL = "ray_experiment", "ray_trial"  # notes of a stored run
_CLOCKS = timedelta(days=1)  # how far the clocks of a cluster may be apart


class RecordRuns(Callback):
    """Stores the trials of any searcher and trainable: ``tune.run(…, callbacks=[RecordRuns()])``.

    Each trial goes into the LR database as it ends, whatever its end: complete, pruned (cut by a
    scheduler or the time budget), diverged or failed. `lrbench_hpo.train` reports the whole run;
    of any other trainable the known metrics of its reports are taken (``top1``, ``train_loss``,
    ``eval_loss``, …, and ``iteration`` and ``lr`` for the curve). A database that is away stops
    nothing: results wait in a file and follow. In an experiment that is restored or resumed,
    trials that are stored are not stored again; trials that Ctrl-C ended are not over.

    Args:
        database: URL or file of the LR database, or one that is open; ``LRBENCH_DATABASE_URL`` or
            the user's own when None. Ray saves the callback without a password: a restored
            experiment takes that from the environment.
        dataset: name of the data set; ``config["dataset"]`` when None.
        model: name of the model; ``config["model"]`` when None.
        policy: gives the `LRPolicy` of a trial's config; ``config["lr_policy"]`` when None.
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
        self._names = {"dataset": dataset, "model": model}
        self._policy = policy
        self._source = checks.name("source", own_source() if source is None else source)
        self._metric = metric
        self._folder = folder
        self._store: RunStore | None = None
        self._trials: Sequence[Trial] = ()
        self._stop: Mapping[str, Any] = {}
        self._told: set[str] = set()
        self._resumed = False
        self._begin()

    def _begin(self) -> None:
        self._experiment = uuid.uuid4().hex
        self._since = utc_timestamp(datetime.now(UTC) - _CLOCKS)
        self._ended: set[str] = set()
        self._cut: set[str] = set()
        self._reports: dict[str, Reports] = {}
        self._known: dict[str, list[Run]] | None = {}  # by trial; None: to be looked up
        self._claims: dict[str, str] = {}

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
        self._stop = stop if isinstance(stop, Mapping) else {}
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
            if RUN not in result:
                reports = self._reports.setdefault(trial.trial_id, Reports())
                reports.add(result)
                for name, complaint in reports.complaints.items():
                    self._tell(name, f"reported {name} is left out: {complaint}")

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
        """Store what ended without a word, and what waits (called by Ray)."""
        self._trials = trials
        # As when the time budget is up; after a restore also what was never recorded.
        for trial in trials:
            if trial.status in _OVER and trial.trial_id not in self._ended:
                self._record(trials, trial, error=trial.status == Trial.ERROR)
        if self.waiting:
            with self._recording():
                self._opened().flush()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Store what waits, and let go of the database (called by Ray)."""
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
            "experiment": self._experiment,
            "since": self._since,
            "ended": sorted(self._ended),
            "claims": dict(self._claims),
            "reports": dict(self._reports),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state` (called by Ray)."""
        self._begin()
        self._experiment, self._since = state["experiment"], state["since"]
        self._ended = set(state["ended"])
        self._claims = dict(state["claims"])
        self._reports = dict(state["reports"])
        self._known = None
        self._resumed = True

    def __getstate__(self) -> dict[str, Any]:
        database = self._database
        if isinstance(database, Database):
            database = database.url.render_as_string(hide_password=False)
        plain = {"_database": without_password(database), "_store": None, "_trials": ()}
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

    def _tell(self, about: str, message: str) -> None:
        if about not in self._told:
            self._told.add(about)
            warnings.warn(message, stacklevel=4)

    def _record(
        self, trials: Sequence[Trial], trial: Trial, *, error: bool = False, began: bool = False
    ) -> None:
        """Store a trial; one that neither reported nor failed has nothing to store."""
        self._trials = trials
        with self._recording(trial):
            last = trial.run_metadata.last_result
            result = last if "training_iteration" in last else {}
            if result or error or began:
                run = self._run_of(trial, result, error=error or not result)
                if run is not None:
                    self._opened().add(run)
        self._ended.add(trial.trial_id)
        self._cut.discard(trial.trial_id)
        self._reports.pop(trial.trial_id, None)

    def _run_of(self, trial: Trial, result: Mapping[str, Any], *, error: bool) -> Run | None:
        notes = {EXPERIMENT: self._experiment, TRIAL: trial.trial_id}
        run = run_in(result)
        if run is not None:
            return dataclasses.replace(
                run,
                status=outcome(result, error=error),
                source=self._source,
                notes={**run.notes, **notes},
            )
        config = trial.config
        policy = self._policy_of(config)
        if policy is None:
            self._tell(
                POLICY,
                f"trials without an LR policy are not recorded: give config[{POLICY!r}], or "
                "RecordRuns(policy=function of the config)",
            )
            return None
        names = {}
        for name, given in self._names.items():
            known = given or _name(config.get(name))
            if known is None:
                self._tell(
                    name,
                    f"trials of an unknown {name} are not recorded: give config[{name!r}], or "
                    f"RecordRuns({name}=…)",
                )
                return None
            names[name] = known
        return reported_run(
            config,
            policy,
            self._reports.get(trial.trial_id) or Reports(),
            self._status(trial, result, error),
            dataset=names["dataset"],
            model=names["model"],
            result=result,
            budget=self._budget(config, result),
            seed=_seed(config),
            source=self._source,
            notes=notes,
        )

    def _policy_of(self, config: dict[str, Any]) -> LRPolicy | None:
        found = config.get(POLICY) if self._policy is None else self._policy(config)
        if found is None or isinstance(found, LRPolicy):
            return found
        return LRPolicy.from_dict(found)

    def _budget(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
        for given in (config.get("max_iterations"), result.get("max_iterations")):
            if (budget := finite(given)) is not None and budget >= 1:
                return int(budget)
        return None

    def _status(self, trial: Trial, result: Mapping[str, Any], error: bool) -> str:
        status = outcome(
            {**flatten_dict(dict(result)), **result},  # criteria may name a level: eval/top1
            error=error,
            metric=self._metric,
            budget=self._budget(trial.config, result),
            cut=trial.trial_id in self._cut,
            stop=self._stop,
        )
        if status in {"complete", "pruned"} and diverged(result, self._metric):
            return "diverged"
        return status

    def _already(self, database: Database, run: Run) -> bool:
        """Whether this trial is stored, or one that ran it before the driver was killed."""
        trial = str(run.notes.get(TRIAL))
        if run.notes.get(EXPERIMENT) != self._experiment:
            return False
        if self._known is None:
            stored = database.find(source=self._source, since=self._since)
            self._known = {}
            for known in stored:
                if known.notes.get(EXPERIMENT) == self._experiment:
                    self._known.setdefault(str(known.notes.get(TRIAL)), []).append(known)
        if any(_replaces(known, run) for known in self._known.get(trial, ())):
            return True
        # A restored searcher suggests anew, under other ids, what Ray had not saved yet.
        current = {entry.trial_id for entry in self._trials}
        for earlier, runs in self._known.items():
            if earlier in current or self._claims.get(earlier, trial) != trial:
                continue
            if any(_replaces(known, run) and _alike(known, run) for known in runs):
                self._claims[earlier] = trial
                return True
        told = self._known.setdefault(trial, [])
        if run.uid not in {known.uid for known in told}:  # asked again while the run waits
            told.append(dataclasses.replace(run, curve=()))
        return False


_OVER = (Trial.TERMINATED, Trial.ERROR)


def _replaces(known: Run, run: Run) -> bool:
    """Whether a run need not be stored beside one that is: only success is worth more."""
    if known.uid == run.uid:
        return False  # it is this one, which is added once however often
    return known.status != "failed" or run.status == "failed"


def _alike(known: Run, run: Run) -> bool:
    """Whether two runs are of the same suggestion."""
    return (known.policy, known.seed, known.max_iterations) == (
        *(run.policy, run.seed, run.max_iterations),
    ) and known.task == run.task


def _name(value: Any) -> str | None:
    """The name under which a data set or model in a config is recorded."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(own := getattr(value, "name", None), str):
        return own
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def _seed(config: Mapping[str, Any]) -> int | None:
    """The seed that the config says; Ray's Repeater counts on from it."""
    seed, index = finite(config.get("seed")), finite(config.get(TRIAL_INDEX))
    return None if seed is None and index is None else int(seed or 0) + int(index or 0)
