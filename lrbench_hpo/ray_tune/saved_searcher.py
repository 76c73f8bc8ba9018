"""What of a searcher is saved with an experiment, and how it is put back beside Ray's trials."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Self

from lrbench_hpo.errors import MissingExtraError, StudyError
from lrbench_hpo.prior.question import Question
from lrbench_hpo.ray_tune.experiment import flat
from lrbench_hpo.ray_tune.ray_internals import (
    accept_reports_without_metric,
    controller,
    last_report,
    trials_by_id,
)
from lrbench_hpo.ray_tune.study_trials import StudyTrials

with MissingExtraError.unless_installed("ray", "ray"):
    from ray import cloudpickle
    from ray.tune.search import Searcher


class SavedSearcher(Searcher):
    """A searcher whose state is its attributes, without a connection and without a password."""

    _question: Question
    _seed: int | None
    _trials: StudyTrials | None = None
    _population: int | None = None
    _restored = False
    _refusal: str | None = None

    def get_state(self) -> dict[str, Any]:
        """The state to save, without a connection and without a password."""
        return self.__getstate__()

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.__setstate__(state)

    def save(self, checkpoint_path: str) -> None:
        """Write the state to a file (called by Ray)."""
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(self.get_state()))

    def restore(self, checkpoint_path: str) -> None:
        """Go on from a file of `save`: a pickle, so read only files that you trust."""
        began, seed = self._trials, self._seed
        self.set_state(cloudpickle.loads(Path(checkpoint_path).read_bytes()))
        self._restored = True
        if began is not None and self._trials is not None:
            name = Path(checkpoint_path).absolute().parent.parent.name
            # Not raised here: Ray would only log it, and start again in the same folder.
            self._refusal = _difference(name, self._trials, self._seed, began, seed)

    def _reconcile(self, trials: StudyTrials, *, restored: bool = False) -> None:
        """Make the study agree with the trials that Ray really has.

        Ray does not report the end of some trials (time was up, an experiment before this one),
        and after a driver was killed, the files of searcher and trials may be from different
        moments.
        """
        theirs = trials_by_id(controller())
        if theirs is None:
            return
        for trial_id in trials.live:
            if trial_id not in theirs:
                self.on_trial_complete(trial_id)
            elif theirs[trial_id].is_finished():
                self.on_trial_complete(trial_id, *last_report(theirs[trial_id]))
        for trial_id in theirs.keys() - trials.known if restored else ():
            trials.expect(trial_id, flat(theirs[trial_id].config, trials.ask_tell.own))
            if theirs[trial_id].is_finished():
                self.on_trial_complete(trial_id, *last_report(theirs[trial_id]))

    def __getstate__(self) -> dict[str, Any]:
        of_this_process = {"_restored", "_refusal"}
        state = {k: v for k, v in self.__dict__.items() if k not in of_this_process}
        return {**state, "_question": self._question.writable()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        accept_reports_without_metric()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy within the process keeps the password that a file must not hold.
        made = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def _difference(
    name: str,
    there: StudyTrials,
    there_seed: int | None,
    here: StudyTrials,
    here_seed: int | None,
) -> str | None:
    """Why a restored search differs from the one that was begun here; None if it does not."""
    try:
        there.ask_tell.settings.refuse_other(name, here.ask_tell.settings)
    except StudyError as error:
        return str(error)
    if there.population != here.population:
        return (
            f"study {name!r} was created with population={there.population}, not "
            f"{here.population}: give the same, or another study_name"
        )
    if here_seed is not None and there_seed != here_seed:
        return (
            f"study {name!r} was created with seed {there_seed}, not {here_seed}: give the same, "
            "or another study_name"
        )
    return None
