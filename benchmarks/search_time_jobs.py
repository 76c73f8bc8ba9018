"""One search of the search-time benchmark: what it is given, and what is noted of it.

The clock starts when modules are loaded, the images are in memory, the LR database is there and Ray
is started; what a search itself starts (worker processes, actors) counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.search_time_tasks import SEARCH_SEED, SearchTask
from lrbench_hpo.training import ImageData


@dataclass(frozen=True)
class Job:
    """One search: what it looks for, and when it is broken off."""

    task: SearchTask
    data: ImageData
    seed: int
    target: float
    cap: float  # seconds
    trials: int
    folder: Path

    @property
    def training_seed(self) -> int:
        """Of initial weights and data order: the same for all trials and methods of a seed."""
        return SEARCH_SEED + self.seed


@dataclass
class Watch:
    """What a search has done so far, and whether it is over."""

    job: Job
    started: float = field(default_factory=time.time)
    hit: float | None = None  # seconds
    best: float = 0.0
    iterations: int = 0
    trials: int = 0
    path: list[tuple[float, float]] = field(default_factory=list)  # seconds, best Top-1 since then

    def saw(self, top1: float | None, at: float | None = None) -> bool:
        """Note a Top-1, seen now or at a time; whether the search is over."""
        seconds = (at or time.time()) - self.started
        if self.hit is None and seconds <= self.job.cap:
            if (top1 or 0.0) > self.best:
                self.best = top1 or 0.0
                self.path.append((round(seconds, 3), self.best))
            if self.best >= self.job.target:
                self.hit = seconds
        return self.over

    @property
    def over(self) -> bool:
        return self.hit is not None or time.time() - self.started > self.job.cap

    def result(self) -> dict[str, Any]:
        """JSON types; ``seconds`` is None where the target was not reached."""
        seconds = None if self.hit is None else round(self.hit, 3)
        lasted = seconds or round(min(time.time() - self.started, self.job.cap), 3)
        counts = {"trials": self.trials, "iterations": self.iterations}
        found = {"best": self.best, "path": self.path}
        return {"seconds": seconds, "lasted": lasted, **found, **counts}
