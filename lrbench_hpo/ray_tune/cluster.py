"""Joining a Ray cluster: its address, the share of a trial, and its scheduler."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lrbench_hpo.errors import MissingExtraError, StudyError, UnknownNameError

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler


SCHEDULERS = ("asha", "none")
LOCAL = "local"
_ADDRESS = "RAY_ADDRESS"
CONNECT_PATIENCE = 5.0  # seconds, to reach a cluster or a worker


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
            ``local``, so that no other cluster is joined by accident.

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
    """Refuse what no cluster can give, before any is joined.

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


def _refuse_silence(address: str) -> None:
    """Ray itself tries for over a minute to reach a host where nothing listens."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_PATIENCE).close()
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
