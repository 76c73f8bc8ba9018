"""How good the policies are that searches found: trained again, by one trainer, with other seeds.

A search sees one seed of each policy, and takes the luckiest for the best. What counts here is a
policy's mean over the reference's seeds. Any schedule is judged, by its LR at every iteration.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import json_lines
from benchmarks.search_time.plain import SCHEDULES
from benchmarks.search_time.tasks import EVALUATIONS, SEEDS, SearchTask
from lrbench_hpo import LRPolicy

# So many of a seed's deviations below the best of its own search, or below the target: not near it.
_HOPELESS = 3.0


def learning_rates(policy: Mapping[str, Any], iterations: int) -> list[float]:
    """The LR of every iteration, of one of our policies or of a configured schedule of torch."""
    if "function" in policy:
        return [LRPolicy.from_dict(dict(policy))(t) for t in range(iterations)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=policy["lr"])
    schedule = SCHEDULES[policy["schedule"]](optimizer, policy, iterations)
    rates = []
    for _ in range(iterations):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


class Judge:
    """Trains policies of one task, and keeps what they reached.

    Args:
        task: the task.
        folder: of the results.
        tell: is given a line for each training.
    """

    def __init__(self, task: SearchTask, folder: Path, tell: Callable[[str], None] = print) -> None:
        self._task, self._tell = task, tell
        self._file = folder / f"judged-{task.name}.jsonl"
        self._known = {
            (row["policy"], row["seed"]): row["top1"] for row in json_lines.read(self._file)
        }
        self._trainer = cache(lambda: task.trainer(task.data(folder)))

    def reaches(self, policy: Mapping[str, Any], target: float, noise: float) -> bool:
        """Whether a policy's mean Top-1 over the reference's seeds is at least the target.

        Args:
            policy: one of our policies, or a configured schedule of torch.
            target: the mean Top-1 asked for.
            noise: standard deviation of a seed.
        """
        rates = learning_rates(policy, self._task.iterations)
        key = hashlib.sha256(json.dumps(rates).encode()).hexdigest()[:16]
        found: list[float] = []
        for seed in SEEDS:
            if (key, seed) not in self._known:
                top1 = self._known[key, seed] = self._train(policy, rates, seed)
                row = {"policy": key, "seed": seed, "top1": top1, "is": dict(policy)}
                json_lines.append(self._file, row)
                self._tell(f"{self._task.name}, seed {seed}: {top1:.4f} by {dict(policy)}")
            found.append(self._known[key, seed])
            if statistics.fmean(found) < target - _HOPELESS * noise:
                return False  # no further seed would change that
        return statistics.fmean(found) >= target

    def _train(self, policy: Mapping[str, Any], rates: Sequence[float], seed: int) -> float:
        """The highest Top-1 at a policy's own evaluations, or at equal parts; 0 if it diverged."""
        budget, trainer = self._task.iterations, self._trainer()
        points = [round(budget * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)]
        if "function" in policy:
            ours = LRPolicy.from_dict(dict(policy))
            points = list(ours.evaluation_points(budget, limit=EVALUATIONS))
        loop, best = trainer.start(seed=seed), 0.0
        for begin, end in zip([0, *points], points, strict=False):
            if not loop.follow(rates[begin:end]):
                return 0.0
            best = max(best, trainer.evaluator(loop.model).get("top1") or 0.0)
        return best

    def when_found(self, search: Mapping[str, Any], target: float, noise: float) -> float | None:
        """Seconds until a search's best so far was a policy that reaches the target.

        Args:
            search: a result of `Watch`.
            target: the mean Top-1 asked for.
            noise: standard deviation of a seed.
        """
        best = max((each["top1"] for each in search["found"]), default=0.0)
        for each in search["found"]:
            hopeful = each["top1"] >= best - _HOPELESS * noise
            if hopeful and self.reaches(each["policy"], target, noise):
                return float(each["seconds"])
        return None
