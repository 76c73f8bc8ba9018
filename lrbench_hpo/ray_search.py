"""A whole search on Ray with the defaults that are right: what ``lrbench-hpo tune --ray`` runs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from lrbench_hpo import outcomes
from lrbench_hpo.database import opened
from lrbench_hpo.errors import LRBenchError, MissingExtraError, StudyError, UnknownNameError
from lrbench_hpo.lr_range import RangeTest
from lrbench_hpo.member_reports import MEMBER
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.recall import same_training
from lrbench_hpo.records import Run, Task, own_source
from lrbench_hpo.searcher import LRBenchSearcher
from lrbench_hpo.trainable import (
    Train,
    check_on_worker,
    measure_on_worker,
    range_test_on_worker,
    train_on_worker,
)

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from pyarrow.fs import FileSelector, FileSystem  # type: ignore[import-untyped]
    from ray import tune
    from ray.exceptions import RayTaskError
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

SCHEDULERS = ("asha", "none")
LOCAL = "local"
_ADDRESS = "RAY_ADDRESS"
_PATIENCE = 5.0  # seconds, to reach a cluster or a worker
_MAX_FAILURES = 3  # of a trial: lost nodes and workers; it goes on from its last checkpoint


@dataclass(frozen=True)
class Share:
    """What one trial gets of a cluster, and how many run at once.

    Attributes:
        cpus: CPUs, and threads, of a trial.
        gpus: GPUs of a trial; a fraction shares one.
        concurrent: trials at once.
    """

    cpus: float
    gpus: float
    concurrent: int

    def to_dict(self) -> dict[str, float]:
        """As ``config["resources"]`` of `lrbench_hpo.train`."""
        return {"cpu": self.cpus, "gpu": self.gpus}


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[str]:
    """A connection to Ray for as long as the block runs: to a cluster, or a private one here.

    Args:
        address: ``host:port`` or ``auto`` of a running cluster; ``local`` for a Ray
            of one's own on this machine. When None: the environment's ``RAY_ADDRESS``, else
            ``local``, so that nobody else's cluster is joined unasked.

    Yields:
        The address.

    Raises:
        StudyError: when the cluster cannot be reached.
    """
    address = address or os.environ.get(_ADDRESS) or LOCAL
    if address.startswith("ray://"):
        raise StudyError(
            f"Ray at {address!r}: through Ray Client the search would run where nobody sees it: "
            "run this command on the cluster with `ray job submit`, or give the cluster's host:port"
        )
    _refuse_silence(address)
    dashboard = False if address == LOCAL else None
    try:
        ray.init(
            address=address,
            include_dashboard=dashboard,
            log_to_driver=False,
            # Tracebacks of trials that fail: whoever runs the search gets their last lines.
            logging_level=logging.CRITICAL,
        )
    except (ConnectionError, RuntimeError, ValueError, PermissionError) as error:
        raise _unreachable(address, error) from None
    try:
        yield address
    finally:
        ray.shutdown()


def checked_amounts(cpus: float | None, gpus: float | None, concurrent: int | None) -> None:
    """Refuse what no cluster can give, before any is asked.

    Raises:
        StudyError: for such an amount.
    """
    if cpus is not None and not 0 < cpus < math.inf:
        raise StudyError(f"--cpus-per-trial {cpus:g}: expected a number above 0")
    if gpus is not None and not 0 <= gpus < math.inf:
        raise StudyError(f"--gpus-per-trial {gpus:g}: expected 0, a fraction, or a whole number")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise StudyError(f"--gpus-per-trial {gpus:g}: above 1, expected a whole number")
    if concurrent is not None and concurrent < 1:
        raise StudyError(f"--max-concurrent {concurrent}: expected at least 1")


def share_of(
    cpus: float | None = None,
    gpus: float | None = None,
    concurrent: int | None = None,
    *,
    trials: int,
) -> Share:
    """What a trial gets of the cluster that is connected.

    Args:
        cpus: CPUs of a trial; 1 when None.
        gpus: GPUs of a trial; when None, 1 where there are GPUs, else 0.
        concurrent: trials at once, also of a cluster that grows when trials wait; when None, as
            many as fit now.
        trials: how many there are in all.

    Raises:
        StudyError: for more than any node has, for such a trial would wait for ever.
    """
    cpus = 1.0 if cpus is None else cpus
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    fitting = [_fit(node, cpus, gpus) for node in nodes]
    if not any(fitting) and concurrent is None:
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        raise StudyError(
            f"a trial of {cpus:g} CPUs and {gpus:g} GPUs fits on no node (the largest has "
            f"{largest.get('CPU', 0):g} and {largest.get('GPU', 0):g}): give smaller "
            "--cpus-per-trial and --gpus-per-trial; or --max-concurrent, if the cluster grows"
        )
    return Share(cpus, gpus, min(concurrent or sum(fitting), trials))


def scheduler_for(name: str, max_iterations: int) -> TrialScheduler:
    """A scheduler that compares trials by iterations, not by how often they reported.

    Args:
        name: ``asha`` (stops trials that are behind at a quarter of the budget) or ``none``.
        max_iterations: the budget, in iterations.

    Raises:
        UnknownNameError: for another name; population based training cannot work here.
    """
    if name.lower() in {"pbt", "pb2", "populationbasedtraining"}:
        raise StudyError(
            f"--scheduler {name}: population based training changes policies while trials run and "
            "takes them from no searcher: choose asha or none"
        )
    if name not in SCHEDULERS:
        raise UnknownNameError.among("scheduler", name, SCHEDULERS)
    if name == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="iteration",
        metric="score",
        mode="max",
        max_t=max_iterations,
        grace_period=max(1, max_iterations // 4),
        reduction_factor=2,
    )


def check(
    config: Mapping[str, Any], share: Share, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Load the data and build the network where trials will run, before any of them does.

    Args:
        config: of `lrbench_hpo.train`, without a policy.
        share: what a trial gets.
        tell: called with a line when this takes long.

    Returns:
        What `check_on_worker` finds.

    Raises:
        LRBenchError: as on the worker.
    """
    checked: dict[str, Any] = _on_worker(check_on_worker, share, dict(config), tell=tell)
    return checked


def range_test(
    config: Mapping[str, Any], share: Share, tell: Callable[[str], None] | None = None
) -> RangeTest:
    """An LR range test where trials will run: `check`'s arguments, with ``max_iterations``."""
    return RangeTest.from_dict(_on_worker(range_test_on_worker, share, dict(config), tell=tell))


def stored_trainings(
    database: str | None, checked: Mapping[str, Any], max_iterations: int, seed: int
) -> dict[LRPolicy, Run]:
    """Runs in the LR database that trials of this search would only repeat, by their policy.

    Args:
        database: URL or file of the LR database.
        checked: what `check` found.
        max_iterations: the budget, in iterations.
        seed: of weights and data order.
    """
    if not checked["repeatable"]:
        return {}
    task = Task.from_dict(checked["task"])
    with opened(database) as db:
        runs = db.find(
            *(task.dataset, task.model),
            source=own_source(),
            status="complete",
            imported=False,
            max_iterations=max_iterations,
            seed=seed,
        )
    same = same_training(runs, task, max_iterations, seed, checked["environment"])
    return {run.policy: run for run in same}


def run(
    searcher: LRBenchSearcher,
    config: Mapping[str, Any],
    *,
    share: Share,
    trials: int,
    scheduler: TrialScheduler,
    storage: str | None,
    name: str | None,
    callbacks: Sequence[tune.Callback],
) -> list[Any]:
    """Run a search on the cluster that is connected; Ctrl-C ends it and keeps what is done.

    Args:
        searcher: what suggests the policies.
        config: of `lrbench_hpo.train`.
        share: what a trial gets.
        trials: how many.
        scheduler: of trials.
        storage: folder or URL that all nodes can write to; ``~/ray_results`` when None.
        name: of the experiment in the storage, which is gone on with if it is there; a new one of
            Ray's choice when None.
        callbacks: of Ray Tune.

    Returns:
        Ray's trials.
    """
    # Its panels and tables would break through the caller's progress view.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    analysis = tune.run(
        Train,
        name=name,
        config={**config, "resources": share.to_dict()},
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=trials,
        max_concurrent_trials=share.concurrent,
        reuse_actors=True,
        max_failures=_MAX_FAILURES,
        raise_on_failed_trial=False,
        # With 1, Ray would write down the whole experiment at each trial's only checkpoint.
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        storage_path=storage,
        callbacks=list(callbacks),
        resume="AUTO" if _begun(storage, name) else None,
        verbose=0,
    )
    found: list[Any] = analysis.trials
    return found


def checkpoint_of_winner(study: optuna.Study, trials: Sequence[Any]) -> Any:
    """The checkpoint with the winner's weights; None when this search has not trained it.

    Args:
        study: the searcher's.
        trials: of Ray.

    Raises:
        StudyError: when no trial has finished without diverging.
    """
    winner = outcomes.winner_to_test(study)
    if winner.user_attrs.get("recalled"):
        return None
    wanted = winner.user_attrs["trial_id"]
    return next((trial.checkpoint for trial in trials if trial.trial_id == wanted), None)


def test(
    study: optuna.Study, trials: Sequence[Any], config: Mapping[str, Any], share: Share
) -> dict[str, Any]:
    """Measure the study's winner on the test split, once.

    A winner whose weights are not at hand is trained again.

    Args:
        study: the searcher's.
        trials: of Ray.
        config: of `lrbench_hpo.train`, without a policy.
        share: what a trial gets.

    Raises:
        StudyError: when no trial has finished without diverging.
    """
    checkpoint = checkpoint_of_winner(study, trials)
    winner = outcomes.winner_to_test(study)
    known = outcomes.tested(study, winner)
    if known is not None:
        return known
    config = {**config, "lr_policy": winner.user_attrs["policy"]}
    measured = (
        _on_worker(train_on_worker, share, config)
        if checkpoint is None
        else _on_worker(measure_on_worker, share, config, checkpoint, winner.user_attrs.get(MEMBER))
    )
    measured["trial"] = winner.number
    study.set_user_attr("test", measured)
    found: dict[str, Any] = measured
    return found


def _on_worker(
    function: Any, share: Share, *arguments: Any, tell: Callable[[str], None] | None = None
) -> Any:
    """Run a function where a trial would run; its errors arrive as they are."""
    task = ray.remote(function).options(num_cpus=share.cpus, num_gpus=share.gpus)
    reference = task.remote(*arguments)
    ready, _ = ray.wait([reference], timeout=_PATIENCE)
    if not ready and tell is not None:
        tell("waiting for a worker: it starts, loads the data, or the cluster is busy")
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, LRBenchError):
            raise type(cause)(str(cause)) from None
        raise


def _begun(storage: str | None, name: str | None) -> bool:
    """Whether there is an experiment of that name to go on with."""
    if name is None:
        return False
    folder = storage or str(Path("~/ray_results").expanduser())
    try:
        # `Tuner.can_restore` knows only what a Tuner has begun, not what `tune.run` has.
        system, path = FileSystem.from_uri(f"{folder.rstrip('/')}/{name}")
        found = system.get_file_info(FileSelector(path, allow_not_found=True))
    except (OSError, ValueError):
        return True  # Ray, which knows more kinds of storage, looks itself
    return any(file.base_name.startswith("experiment_state-") for file in found)


def _refuse_silence(address: str) -> None:
    """Ray itself tries for over a minute to reach a host where nothing listens."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> StudyError:
    reason = " ".join(str(error).split())[:300]
    return StudyError(
        f"Ray at {address!r}: {reason}: check that `ray status` shows the cluster, or leave the "
        "address out for a Ray of your own on this machine"
    )


def _fit(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    return by_cpu if gpus == 0 else min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-9))
