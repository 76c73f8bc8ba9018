"""What a database holds already of a tool's own trials, so that no training counts twice."""

from __future__ import annotations

from typing import Any

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.database import Database
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.records.run import Run, Task

ORIGINAL = "run"  # in notes: the uid under which the tool itself stored the same training
MAX_REMEMBERED = 100_000  # runs, of all tasks together
_MAX_SIMILAR = 1_000  # runs of one policy, budget and seed that are looked at


class Originals:
    """What a database holds of a tool's own trials, read once for each task.

    Args:
        database: where to look.
        most: runs of tasks that are remembered; runs of larger tasks are looked up one by one.
    """

    def __init__(self, database: Database, most: int = MAX_REMEMBERED) -> None:
        self._database, self._most = database, most
        self._known: dict[tuple[str, str], frozenset[tuple[Any, ...]] | None] = {}

    def contains(self, run: Run) -> bool:
        """Whether the tool that trained a run has stored it here already, in its own form.

        Args:
            run: made of a trial of this package's own, with the run's uid or moment.

        Raises:
            DatabaseError: when the database cannot be read.
        """
        original = run.notes.get(ORIGINAL)
        if original is None:
            return False
        task = canonical_name(run.task.dataset), canonical_name(run.task.model)
        if task not in self._known:
            remembered = sum(len(known) for known in self._known.values() if known is not None)
            if remembered > self._most:
                self._known.clear()
            self._known[task] = self._of_task(run.task)
        known = self._known[task]
        if known is None:
            known = self._similar(run)
        return (original,) in known or _moment(run) in known

    def _of_task(self, task: Task) -> frozenset[tuple[Any, ...]] | None:
        """Uids and moments of a task's runs; None for more than are remembered."""
        keys: set[tuple[Any, ...]] = set()
        stored = self._database.stored(curves=False, dataset=task.dataset, model=task.model)
        try:
            for number, (run, _) in enumerate(stored, 1):
                if number > self._most:
                    return None
                keys |= {(run.uid,), _moment(run)}
        except DatabaseError:  # one bad row of the task: no other run's import ends for it
            return None
        return frozenset(keys)

    def _similar(self, run: Run) -> frozenset[tuple[Any, ...]]:
        """Uids and moments of the newest runs of the same policy, budget and seed."""
        similar = self._database.find(
            run.task.dataset,
            run.task.model,
            policy=run.policy,
            max_iterations=run.max_iterations,
            seed=run.seed,
            limit=_MAX_SIMILAR,
        )
        return frozenset(key for one in similar for key in ((one.uid,), _moment(one)))


def _moment(run: Run) -> tuple[Any, ...]:
    return run.policy.fingerprint, run.created_at, run.seed, run.max_iterations
