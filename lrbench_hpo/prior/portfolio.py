"""A short list of good and different policies out of past results.

Every known run becomes a point of the new task's space. Of scattered results, a candidate's worth
is a kernel estimate (`choose`): the mean quality of the runs whose LR curves are near its own,
weighted by how much each run says, shrunk while little is known, and cut by how alike its own task
is. Where the similar tasks' results show whole response surfaces, the list is what does well on
all of them between its policies (`cover`). Both pick greedily, near-copies left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench_hpo.policies import LRPolicy, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.features import curve_features
from lrbench_hpo.policies.parameters import MAX_LR
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.short_budgets import HIGHER, far_shorter
from lrbench_hpo.prior.similarity import budget_share
from lrbench_hpo.prior.surrogate import Experts
from lrbench_hpo.records.run import Run

# Two policies whose LRs differ by a factor of two nearly everywhere share half of their evidence.
_KERNEL_WIDTH = 0.35  # decades of LR, root mean square over the budget
_COPY = 0.15  # decades: a nearer policy of the same function adds nothing to a short list
_SHRINKAGE = 0.3  # weight of knowing nothing, in runs on the same task
_OTHER_FUNCTION_PENALTY = 0.15  # what a curve already on the list takes from one that is the same
_SAME_CURVE = 0.05  # log regret that a curve already on the list costs
_ALONE = 0.25  # how much a policy's own worth counts beside what it adds to the list
_KNOWN_GOOD = 0.1  # a poorer run is evidence, but no candidate


@dataclass(frozen=True)
class Candidate:
    """A known run as a point of the new task's space.

    Attributes:
        policy: its policy in the new task's scale.
        point: its scale-free coordinates there.
        run: the run it stands for.
        quality: how good the run was among its peers, 1 for the best, 0 if it learnt nothing.
        weight: how much it says about the new task, 1 for an own run on the same task.
        similarity: of the run's task to the new one.
        moved: coordinates that had to be moved into the space.
        peak_times: the share of the run's peak, where that is all that was kept of its policy.
    """

    policy: LRPolicy
    point: Mapping[str, float]
    run: Run
    quality: float
    weight: float
    similarity: float
    moved: tuple[str, ...] = ()
    peak_times: float | None = None


@dataclass(frozen=True)
class Choice:
    """A policy on the list, its estimated worth, and the evidence, strongest first."""

    candidate: Candidate
    worth: float
    evidence: tuple[Candidate, ...]


def choose(candidates: Sequence[Candidate], max_iterations: int, n: int) -> list[Choice]:
    """The `n` candidates worth trying first, best first, near-copies left out.

    Args:
        candidates: what is known; those of poor quality only warn.
        max_iterations: the new task's budget, in iterations.
        n: length of the list at most.
    """
    if not candidates:
        return []
    features = np.array([curve_features(c.policy, max_iterations) for c in candidates])
    distances = _distances(features)
    kernel = np.exp(-((distances / _KERNEL_WIDTH) ** 2))
    weights = kernel * np.array([c.weight for c in candidates]) * _tells(candidates)
    qualities = np.array([c.quality for c in candidates])
    worth = (weights @ qualities) / (weights.sum(axis=1) + _SHRINKAGE)
    # A policy of another task may lie near good ones of this task; those themselves come first.
    worth *= np.array([c.similarity for c in candidates])
    worth *= np.array([_shape_holds(c, max_iterations) for c in candidates])
    worth[qualities < _KNOWN_GOOD] = 0.0
    chosen: list[int] = []
    left = worth.copy()
    while len(chosen) < n and left.max() > 0:
        best = int(left.argmax())
        chosen.append(best)
        same = np.array([c.policy.function == candidates[best].policy.function for c in candidates])
        left[same & ((distances[best] < _COPY) | _both_annealed(candidates, best))] = 0.0
        left[best] = 0.0
        left[~same] *= 1 - _OTHER_FUNCTION_PENALTY * kernel[best][~same]
    return [
        Choice(candidates[i], float(worth[i]), _evidence(candidates, i, weights[i])) for i in chosen
    ]


def _tells(candidates: Sequence[Candidate]) -> npt.NDArray[np.bool_]:
    """Which candidates are evidence for which: nobody has seen how an annealed one does."""
    annealed = np.array([c.peak_times is not None for c in candidates])
    tells: npt.NDArray[np.bool_] = annealed[:, None] | ~annealed[None, :]
    return tells


def _shape_holds(candidate: Candidate, max_iterations: int) -> float:
    """What a change of budget leaves of a policy's worth; a peak alone outlasts a shape."""
    left = budget_share(max_iterations, candidate.run.max_iterations)
    return math.sqrt(left) if candidate.peak_times else left


def _both_annealed(candidates: Sequence[Candidate], best: int) -> npt.NDArray[np.bool_]:
    """Which differ from the best one in their peak only: of those, the best is enough."""
    annealed = candidates[best].peak_times is not None
    return np.array([annealed and c.peak_times is not None for c in candidates])


def cover(
    candidates: Sequence[Candidate], experts: Experts, max_iterations: int, n: int
) -> list[Choice]:
    """The `n` candidates that do well on all similar tasks between them, best first.

    Greedy: each next one is that which, with those before it, minimises the expected log regret
    over the similar tasks, in each unit that their LRs may be in. So where one knows the tasks but
    not their scale, the list goes through the scales.

    Args:
        candidates: what is known; those of poor quality only warn.
        experts: the similar tasks' surrogates.
        max_iterations: the new task's budget, in iterations.
        n: length of the list at most.
    """
    good = [entry for entry in candidates if entry.quality >= _KNOWN_GOOD]
    if not good:
        return []
    features = np.array([curve_features(entry.policy, max_iterations) for entry in good])
    distances = _distances(features)
    said, weights = experts.say(features)[0], experts.priors
    expected = weights @ said
    functions = np.array([entry.policy.function for entry in good])
    left = np.ones(len(good), bool)
    reached = np.full(len(said), -np.inf)
    chosen: list[int] = []
    while len(chosen) < n and left.any():
        together = weights @ np.maximum(said, reached[:, None]) + _ALONE * expected
        if chosen:
            nearest = distances[chosen].min(axis=0)
            together -= _SAME_CURVE * np.exp(-((nearest / _KERNEL_WIDTH) ** 2))
        best = int(np.where(left, together, -np.inf).argmax())
        if not chosen and far_shorter(max_iterations, good[best].run.max_iterations):
            # Its shape is not believed in; its peak is.
            annealed = np.array([entry.peak_times is not None for entry in good])
            best = int(np.where(annealed, together, -np.inf).argmax()) if annealed.any() else best
        chosen.append(best)
        reached = np.maximum(reached, said[:, best])
        left &= (functions != functions[best]) | (distances[best] >= _COPY)
        left &= ~_both_annealed(good, best)
        left[best] = False
    near = np.exp(-((distances / _KERNEL_WIDTH) ** 2)) * np.array([c.weight for c in good])
    near *= _tells(good)
    worth = np.exp(expected / max(float(weights.sum()), 1e-9))
    return [
        Choice(good[index], float(worth[index]), _evidence(good, index, near[index]))
        for index in chosen
    ]


def bracket(
    choices: Sequence[Choice], candidates: Sequence[Candidate], scale: Scale, space: SearchSpace
) -> list[Choice]:
    """A list whose first policy is a known peak for a far shorter budget, with a higher one next.

    Not where a run like the higher one is known to be poor.

    Args:
        choices: best first.
        candidates: what is known.
        scale: of the new task.
        space: where its policies are looked for.
    """
    first = choices[0].candidate if choices else None
    if first is None or first.peak_times is None:
        return list(choices)
    function, higher = first.policy.function, first.point["peak"] * HIGHER
    point, moved = space.clip(function, {**first.point, "peak": higher})
    if moved or higher * scale.reference_lr > MAX_LR:
        return list(choices)
    policy = coordinates.to_policy(function, point, scale)
    second = dataclasses.replace(first, policy=policy, point=point, peak_times=HIGHER)
    shapes = [policy, *(c.policy for c in candidates), *(c.candidate.policy for c in choices[1:])]
    features = np.array([curve_features(each, scale.max_iterations) for each in shapes])
    near = (_distances(features)[0] < _COPY).tolist()[1:]
    poor = (c.peak_times is None and c.quality < _KNOWN_GOOD for c in candidates)
    if any(low and close for low, close in zip(poor, near, strict=False)):
        return list(choices)
    others = zip(choices[1:], near[len(candidates) :], strict=True)
    later = [c for c, copy in others if not copy or c.candidate.policy.function != function]
    return [choices[0], dataclasses.replace(choices[0], candidate=second), *later]


def _distances(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Root mean square differences of all pairs of rows, in decades."""
    squares = (features**2).sum(axis=1)
    sums = squares[:, None] + squares[None, :] - 2 * features @ features.T
    distances: npt.NDArray[np.float64] = np.sqrt(np.maximum(sums, 0.0) / features.shape[1])
    return distances


def _evidence(
    candidates: Sequence[Candidate], index: int, weights: npt.NDArray[np.float64]
) -> tuple[Candidate, ...]:
    """A candidate, and the runs that say most about it."""
    order = np.argsort(-weights, kind="stable")
    others = [candidates[i] for i in order if i != index and weights[i] > 0.05]
    # A run may be there twice: as it was, and annealed.
    first = {other.run.uid: other for other in reversed(others)}
    mine = candidates[index]
    others = [o for o in others if first[o.run.uid] is o and o.run.uid != mine.run.uid]
    return (mine, *others[:4])
