"""The cost of a run, and the hardware and software it ran on."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

_MIB = 2**20


class CostMeter:
    """Adds up the time, CPU, memory and GPU use of one run, however often it is interrupted.

    >>> meter = CostMeter(torch.device("cpu"))
    >>> with meter.running():
    ...     pass
    >>> meter.cost(samples=0)["gpu_mib"] is None
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._seconds = self._eval_seconds = self._cpu_seconds = 0.0
        self._rss = self._gpu_bytes = 0
        self._gpu_percents: list[float] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure what runs inside; only this is counted as the run's cost."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        cpu_started, started = self._cpu_clock(), time.perf_counter()
        try:
            yield
            self._sample()
        finally:
            self._seconds += time.perf_counter() - started
            self._cpu_seconds += self._cpu_clock() - cpu_started

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what runs inside as evaluation, not as training."""
        self._sample()
        started = time.perf_counter()
        yield
        self._eval_seconds += time.perf_counter() - started

    def add(self, other: CostMeter, share: float) -> None:
        """Add a share of another measurement, of work that was done for several runs.

        Args:
            other: the measurement.
            share: the share of its time; memory and GPU use count in full.
        """
        self._seconds += share * other._seconds
        self._eval_seconds += share * other._eval_seconds
        self._cpu_seconds += share * other._cpu_seconds
        self._rss = max(self._rss, other._rss)
        self._gpu_bytes = max(self._gpu_bytes, other._gpu_bytes)
        self._gpu_percents += other._gpu_percents

    def cost(self, samples: int) -> dict[str, float | None]:
        """The cost of training on this many samples."""
        training_seconds = max(self._seconds - self._eval_seconds, 1e-9)
        percents = self._gpu_percents
        return {
            "seconds": self._seconds,
            "eval_seconds": self._eval_seconds,
            "samples_per_second": samples / training_seconds,
            "cpu_percent": 100 * self._cpu_seconds / max(self._seconds, 1e-9),
            "rss_mib": self._rss / _MIB,
            "gpu_percent": sum(percents) / len(percents) if percents else None,
            "gpu_mib": self._gpu_bytes / _MIB if self._device.type == "cuda" else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, in JSON types."""
        return {name: getattr(self, f"_{name}") for name in _ADDED_UP} | {
            "gpu_percents": list(self._gpu_percents)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        for name in _ADDED_UP:
            setattr(self, f"_{name}", state[name])
        self._gpu_percents = list(state["gpu_percents"])

    def _sample(self) -> None:
        """Note memory and GPU use; on CUDA, also wait for the work queued so far."""
        self._rss = max(self._rss, self._process.memory_info().rss)
        if self._device.type != "cuda":
            return
        # NVIDIA's package for asking the driver is optional, and may not answer in a container.
        with contextlib.suppress(ModuleNotFoundError, RuntimeError):
            self._gpu_percents.append(float(torch.cuda.utilization(self._device)))
        torch.cuda.synchronize(self._device)
        self._gpu_bytes = max(self._gpu_bytes, torch.cuda.max_memory_allocated(self._device))

    def _cpu_clock(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


_ADDED_UP = ("seconds", "eval_seconds", "cpu_seconds", "rss", "gpu_bytes")


def environment(device: torch.device, *, amp: bool) -> dict[str, Any]:
    """Device, precision, threads and versions, for the record of a run.

    >>> environment(torch.device("cpu"), amp=False)["precision"]
    'float32'
    """
    packages = ("torch", "torchvision", "lrbench-hpo")
    versions = {package.replace("-", "_"): metadata.version(package) for package in packages}
    return {
        "device": _device_name(device),
        "precision": "bfloat16 autocast" if amp else "float32",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{device.type} ({platform.machine()})"
