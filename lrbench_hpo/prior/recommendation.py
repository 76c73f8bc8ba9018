"""A recommended policy with its evidence, and the defaults without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space import Range, SearchSpace
from lrbench_hpo.prior.portfolio import Choice
from lrbench_hpo.records.run import Run, own_source

# Usual first choices in scale-free coordinates, for tasks to which nothing similar is known.
DEFAULT_POINTS: Sequence[tuple[str, Mapping[str, float]]] = (
    ("COS", {"peak": 3.0, "floor": 1e-3, "half_cycles": 1}),
    ("SINEXP", {"peak": 6.0, "floor": 1e-2, "half_cycles": 10, "end": 0.05}),
    ("NSTEP", {"peak": 1.0, "drops": 2, "end": 0.01, "gap1": 0.5, "gap2": 0.5}),
    ("FIX", {"peak": 1.0}),
    ("POLY", {"peak": 1.0, "power": 1.0}),
    ("TRI2", {"peak": 6.0, "floor": 1e-2, "half_cycles": 10}),
)
_USUAL: Mapping[str, float] = {
    "floor": 1e-2,
    "half_cycles": 10,
    "end": 0.05,
    "steps": 5,
    "drops": 2,
    "power": 1.0,
    "midpoint": 0.5,
    "steepness": 10.0,
}


@dataclass(frozen=True)
class Recommendation:
    """A policy to try, and why.

    Attributes:
        policy: in the task's own scale.
        point: its scale-free coordinates.
        origin: ``own``, ``shared`` (another user's run), ``published`` or ``default``.
        source: where it comes from, in a few words.
        why: the evidence in one line.
        choice: the runs behind it; None for a default.
    """

    policy: LRPolicy
    point: Mapping[str, float]
    origin: str
    source: str
    why: str
    choice: Choice | None = None

    @property
    def bracketed(self) -> bool:
        """Whether it is the peak of a run with a far longer budget, or twice that peak."""
        return self.choice is not None and self.choice.candidate.peak_times is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON types: policy, coordinates, origin, why, and the runs behind it."""
        evidence = self.choice.evidence if self.choice else ()
        return {
            "policy": self.policy.to_dict(),
            "coordinates": dict(self.point),
            "origin": self.origin,
            "source": self.source,
            "why": self.why,
            "worth": round(self.choice.value, 4) if self.choice else None,
            "evidence": [
                {
                    "run": c.run.uid,
                    "source": c.run.source,
                    "dataset": c.run.task.dataset,
                    "model": c.run.task.model,
                    "policy": c.run.policy.to_dict(),
                    "max_iterations": c.run.max_iterations,
                    "top1": c.run.metrics.get("top1"),
                    "similarity": c.similarity,
                    "weight": round(c.weight, 4),
                    "status": c.run.status,
                    "notes": dict(c.run.notes),
                }
                for c in evidence
            ],
        }


def _origin(run: Run) -> str:
    if run.source == PAPER:
        return "published"
    return "own" if run.source == own_source() else "shared"


def recommendation_of(choice: Choice) -> Recommendation:
    """A chosen candidate with its evidence in words."""
    candidate = choice.candidate
    run = candidate.run
    origin = _origin(run)
    where = f"{run.task.dataset}/{run.task.model}"
    top1 = run.metrics.get("top1")
    after = f"{run.max_iterations:,} iterations"
    result = f"{100 * top1:.2f} % Top-1 after {after}" if top1 else "result"
    table = f" (Table {run.notes['table']})" if "table" in run.notes else ""
    source = {
        "own": f"your own run on {where}",
        "shared": f"{run.source}'s run on {where}",
        "published": f"published for {where}{table}",
    }[origin]
    times = candidate.peak_times
    if times:
        source = f"peak {'' if origin == 'published' else 'of '}{source}"
    parts = [f"{source}: {result}", f"{100 * candidate.similarity:.0f} % similar"]
    if others := len(choice.evidence) - 1:
        parts.append(f"{others} more run{'s' if others > 1 else ''} near it")
    ratio = candidate.policy.bounds[1] / run.policy.bounds[1] / (times or 1.0)
    if abs(ratio - 1) > 0.01:
        parts.append(f"LRs times {ratio:.3g}")
    if times:
        higher = f"{times:g} times as high, " if times != 1 else ""
        parts.append(f"{higher}falling once over this far shorter budget")
    if candidate.moved:
        parts.append(f"{', '.join(candidate.moved)} moved into the search space")
    why = "; ".join(parts)
    return Recommendation(candidate.policy, candidate.point, origin, source, why, choice)


def default_recommendations(
    scale: Scale, space: SearchSpace, n: int, why: str
) -> list[Recommendation]:
    """The `DEFAULT_POINTS` whose functions a space has, at most `n`."""
    usual = dict(DEFAULT_POINTS)
    defaults = []
    for function in [name for name in usual if name in space.functions] or space.functions:
        point = usual.get(function) or _usual_point(space.functions[function])
        inside, _ = space.clip(function, point)
        policy = coordinates.to_policy(function, inside, scale)
        defaults.append(Recommendation(policy, inside, "default", "a common default", why))
    return defaults[:n]


def _usual_point(ranges: Mapping[str, Range]) -> dict[str, float]:
    """A default point for a function without a usual first choice."""
    point = {name: value for name, value in _USUAL.items() if name in ranges}
    drops = int(point.get("drops", 0))
    point |= {f"gap{number + 1}": 0.5 for number in range(drops)}
    return point | {"peak": 6.0 if "floor" in ranges else 1.0}
