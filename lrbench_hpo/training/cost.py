"""What a run costs, and on what it ran."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

_MIB = 2**20


class CostMeter:
    """Measures time, CPU, memory and GPU use from its making on.

    >>> meter = CostMeter(torch.device("cpu"))
    >>> meter.cost(samples=0)["gpu_mib"] is None
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._eval_seconds = 0.0
        self._rss = 0
        self._gpu_percents: list[float] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._cpu_started = self._cpu_seconds()
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count what is inside as evaluation, not as training."""
        self._sample()
        started = time.perf_counter()
        yield
        self._eval_seconds += time.perf_counter() - started

    def cost(self, samples: int) -> dict[str, float | None]:
        """The cost so far, of training on this many samples."""
        self._sample()
        seconds = time.perf_counter() - self._started
        training_seconds = max(seconds - self._eval_seconds, 1e-9)
        cuda = self._device.type == "cuda"
        percents = self._gpu_percents
        return {
            "seconds": seconds,
            "eval_seconds": self._eval_seconds,
            "samples_per_second": samples / training_seconds,
            "cpu_percent": 100 * (self._cpu_seconds() - self._cpu_started) / max(seconds, 1e-9),
            "rss_mib": self._rss / _MIB,
            "gpu_percent": sum(percents) / len(percents) if percents else None,
            "gpu_mib": torch.cuda.max_memory_allocated(self._device) / _MIB if cuda else None,
        }

    def _sample(self) -> None:
        """Note memory and GPU use; on CUDA, also wait for the work queued so far."""
        self._rss = max(self._rss, self._process.memory_info().rss)
        if self._device.type != "cuda":
            return
        # NVIDIA's package for asking the driver is optional, and may not answer in a container.
        with contextlib.suppress(ModuleNotFoundError, RuntimeError):
            self._gpu_percents.append(float(torch.cuda.utilization(self._device)))
        torch.cuda.synchronize(self._device)

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


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
