"""Trials of killed programs: found, ended, and their known-good policies tried again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import uuid
from typing import Any

import optuna
import psutil
from optuna.trial import TrialState

from lrbench_hpo.study.optuna_internals import enqueued_params, in_optimize_loop

READY, CLAIM, ORPHANS = "lrbench:ready", "lrbench:claim", "lrbench:orphans"
_KEPT = ("source", "why", "given", "suggestion")  # of a trial that is asked for again
# Seconds: how long a second worker waits for the first one's set-up, and for rival claims to it.
CREATOR_PATIENCE, CLAIM_PATIENCE = 20.0, 1.0
_PROCESS, _LOOP = "process", "optimizes"  # user attributes of a trial
# Seconds by which a clock may be set while a process lives. A process that seems to have started
# later than recorded by more than this is another one that has the same number.
_CLOCK_TOLERANCE = 3600.0


def note_process(trial: optuna.Trial, study: optuna.Study | None) -> None:
    """Record which process runs a trial, so that `orphaned` finds out when it is dead."""
    if study is None:
        return
    trial.set_user_attr(_PROCESS, {**this_process(), _LOOP: in_optimize_loop(study)})


def orphaned(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a running trial's process was killed on this machine, so that it never ends.

    Trials that are asked for outside of ``study.optimize`` and not trained by `Objective` may be
    ended by any process, such as another job of a cluster: they are never orphans.

    Args:
        trial: any trial.
    """
    noted = trial.user_attrs.get(_PROCESS)
    if trial.state != optuna.trial.TrialState.RUNNING or not isinstance(noted, dict):
        return False
    # `Objective` sets "recalled" before it trains.
    bound = noted.get(_LOOP) is True or "recalled" in trial.user_attrs
    return bound and is_dead(noted)


def claimed(study: optuna.Study, what: str) -> bool:
    """Whether this worker, of all that find another one dead, is to finish its work."""
    claim = uuid.uuid4().hex
    study.set_user_attr(what, claim)
    time.sleep(CLAIM_PATIENCE)
    return bool(study.user_attrs[what] == claim)


def end_orphans(study: optuna.Study) -> bool:
    """End the trials of processes that were killed; False if another worker does that."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if orphaned(trial)]
    if orphans and not claimed(study, ORPHANS):
        return False
    for trial in orphans:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return True


def ask_again(study: optuna.Study) -> None:
    """Enqueue again what was enqueued or known to be good, and failed, as by Ctrl-C."""
    trials = study.get_trials(deepcopy=False)
    asked = [enqueued_params(t) for t in trials if t.state != TrialState.FAIL]
    for trial in trials:
        wanted = enqueued_params(trial) or known_good(trial)
        if trial.state == TrialState.FAIL and wanted is not None and wanted not in asked:
            attributes = {k: v for k, v in trial.user_attrs.items() if k in _KEPT}
            study.enqueue_trial(wanted, user_attrs=attributes)
            asked.append(wanted)


def known_good(trial: optuna.trial.FrozenTrial) -> dict[str, Any] | None:
    """The parameters of a policy that the sampler took from the portfolio."""
    suggestion = trial.user_attrs.get("suggestion")
    portfolio = isinstance(suggestion, dict) and suggestion.get("source") == "portfolio"
    return dict(trial.params) if portfolio else None


def this_process() -> dict[str, Any]:
    """A record of this process in JSON types, for `is_dead`; the machine is a digest in it.

    >>> is_dead(this_process())
    False
    """
    process = psutil.Process()
    return {"host": _host(), "pid": process.pid, "started": process.create_time()}


def is_dead(noted: object) -> bool:
    """Whether a process has certainly ended; False where this machine cannot know.

    Args:
        noted: what `this_process` returned, on any machine.

    >>> is_dead({**this_process(), "host": "another"})
    False
    """
    match noted:
        case {"host": host, "pid": int(pid), "started": float(started)} if host == _host():
            try:
                process = psutil.Process(pid)
                zombie = process.status() == psutil.STATUS_ZOMBIE
                return zombie or process.create_time() > started + _CLOCK_TOLERANCE
            except psutil.NoSuchProcess:
                return True
            except (psutil.Error, ValueError):  # another user's, so it is there; or no number
                return False
    return False


def _host() -> str:
    """The machine, or the container: numbers of processes mean nothing in another one."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    known = f"{socket.gethostname()} {uuid.getnode()} {space}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]
