"""One search of the search-time benchmark: what it is given, and what is noted of it.

The clock starts when modules are loaded, the images are in memory, the LR database is there and Ray
is started; what a search itself starts (worker processes, actors) counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.search_time.tasks import SEARCH_SEED, SearchTask
from lrbench_hpo.training import ImageData


@dataclass(frozen=True)
class Job:
    """One search: what it tunes, and when it is stopped."""

    task: SearchTask
    data: ImageData
    seed: int
    cap: float  # seconds
    trials: int
    folder: Path

    @property
    def training_seed(self) -> int:
        """Of initial weights and data order: the same for all trials and methods of a seed."""
        return SEARCH_SEED + self.seed


@dataclass
class Watch:
    """What a search has found so far, and whether its time is over."""

    job: Job
    started: float = field(default_factory=time.time)
    iterations: int = 0
    trials: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, top1: float | None, policy: dict[str, Any], at: float | None = None) -> None:
        """Note a training that used its whole budget, and is better than all before.

        Args:
            top1: its highest Top-1 on the search's validation split and seed.
            policy: an LR policy, or the configuration of a schedule.
            at: when it ended; now when None.
        """
        seconds = (at or time.time()) - self.started
        best = max((each["top1"] for each in self.found), default=0.0)
        if (top1 or 0.0) > best and seconds <= self.job.cap:
            self.found.append({"seconds": round(seconds, 3), "top1": top1, "policy": policy})

    @property
    def over(self) -> bool:
        return time.time() - self.started > self.job.cap

    def result(self) -> dict[str, Any]:
        """JSON types: each policy that was the best so far, and when."""
        lasted = round(min(time.time() - self.started, self.job.cap), 3)
        counts = {"trials": self.trials, "iterations": self.iterations}
        return {"found": self.found, "lasted": lasted, **counts}
