"""Which trials of an experiment the LR database holds already, so that none is stored twice."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from lrbench_hpo.database import Database
from lrbench_hpo.records.member_reports import MEMBER, member_id
from lrbench_hpo.records.run import Run, utc_timestamp

EXPERIMENT, TRIAL, PLACE = "ray_experiment", "ray_trial", f"ray_{MEMBER}"  # notes of a stored run
_CLOCKS = timedelta(days=1)  # how far the clocks of a cluster may be apart


class StoredTrials:
    """The stored trials of an experiment, identified by the notes of their runs.

    Args:
        source: who measured them.
        state: of an experiment that is resumed, from `state_dict`; a new one when None.

    Attributes:
        current: ids of the trials that Ray has now.
    """

    def __init__(self, source: str, state: Mapping[str, Any] | None = None) -> None:
        self.current: Collection[str] = ()
        self._source = source
        new = state is None
        state = state or {}
        self._experiment: str = state.get("experiment") or uuid.uuid4().hex
        self._since: str = state.get("since") or utc_timestamp(datetime.now(UTC) - _CLOCKS)
        self._claims: dict[str, str] = dict(state.get("claims") or {})
        # By trial, or by policy of a population; None: to be looked up.
        self._known: dict[str, list[Run]] | None = {} if new else None

    def notes(self, trial_id: str, member: int | None = None) -> dict[str, Any]:
        """The notes of a run: experiment, trial, and the policy's place in a population."""
        place = {} if member is None else {PLACE: member}
        return {EXPERIMENT: self._experiment, TRIAL: trial_id, **place}

    def state_dict(self) -> dict[str, Any]:
        """What a restored experiment needs, in JSON types."""
        return {
            "experiment": self._experiment,
            "since": self._since,
            "claims": dict(self._claims),
        }

    def already(self, database: Database, run: Run) -> bool:
        """Whether this run's trial is stored, or one that ran it before the driver was killed."""
        if run.notes.get(EXPERIMENT) != self._experiment:
            return False
        if self._known is None:
            stored = database.find(source=self._source, since=self._since)
            self._known = {}
            for known in stored:
                if known.notes.get(EXPERIMENT) == self._experiment:
                    self._known.setdefault(_name(known), []).append(known)
        name = _name(run)
        if any(_replaces(known, run) for known in self._known.get(name, ())):
            return True
        # A restored searcher suggests again, under other ids, what Ray had not saved yet.
        for earlier, runs in self._known.items():
            there = any(known.notes.get(TRIAL) in self.current for known in runs)
            if there or self._claims.get(earlier, name) != name:
                continue
            if any(_replaces(known, run) and _same_suggestion(known, run) for known in runs):
                self._claims[earlier] = name
                return True
        mine = self._known.setdefault(name, [])
        if run.uid not in {known.uid for known in mine}:  # called again while the run waits
            mine.append(dataclasses.replace(run, curve=()))
        return False


def _name(run: Run) -> str:
    trial, place = str(run.notes.get(TRIAL)), run.notes.get(PLACE)
    return trial if place is None else member_id(trial, int(place))


def _replaces(known: Run, run: Run) -> bool:
    """Whether a run need not be stored beside one that is: only a success replaces a failure."""
    if known.uid == run.uid:
        return False  # it is this one, which is added once however often
    return known.status != "failed" or run.status == "failed"


def _same_suggestion(known: Run, run: Run) -> bool:
    """Whether two runs are of the same suggestion."""
    return all(
        getattr(known, name) == getattr(run, name)
        for name in ("policy", "seed", "max_iterations", "task")
    )
