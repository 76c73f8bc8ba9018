"""A short list of good and different policies, from past results.

The past runs are candidates in the new task's space. `choose` rates them by a kernel estimate, for
scattered results. `cover` needs source tasks with whole response surfaces, and picks policies of
which at least one does well on each of them. Both pick greedily and leave out similar policies.
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
_SIMILAR_POLICY = 0.15  # decades: a nearer policy of the same function is left out
_SHRINKAGE = 0.3  # weight of the estimate 0, in own runs on the same task
_SAME_CURVE_SHARE = 0.15  # share of its value that an equal curve of another function loses
_SAME_CURVE_COST = 0.05  # log regret added to a curve that is on the list already
_OWN_SHARE = 0.25  # weight of a policy's own expected log regret, beside the list's
_MIN_QUALITY = 0.1  # a run below it is evidence, but no candidate


@dataclass(frozen=True)
class Candidate:
    """A known run as a point of the new task's space.

    Attributes:
        policy: its policy in the new task's scale.
        point: its scale-free coordinates there.
        run: the run it stands for.
        quality: how good the run was among its peers, near 1 for the best, 0 if it learnt nothing.
        weight: how much it counts for the new task, 1 for an own run on the same task.
        similarity: of the run's task to the new one.
        moved: coordinates that were moved into the space.
        peak_times: the ratio of its peak to the run's, where only the peak was kept of its policy.
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
    """A policy on the list, its estimated value, and the evidence, strongest first."""

    candidate: Candidate
    value: float
    evidence: tuple[Candidate, ...]


def choose(candidates: Sequence[Candidate], max_iterations: int, n: int) -> list[Choice]:
    """Choose up to `n` different candidates by the quality of the runs near them, best first.

    Args:
        candidates: the past runs; those of poor quality count as evidence only.
        max_iterations: the new task's budget, in iterations.
        n: length of the list at most.
    """
    if not candidates:
        return []
    # A Nadaraya-Watson estimate, shrunk to 0 while little is known:
    #
    #     value_i = s_i * b_i * sum_j w_j K_ij q_j / (sum_j w_j K_ij + 0.3),
    #     K_ij = exp(-(d_ij / 0.35)^2),
    #
    # with the quality q and weight w of a run, the distance d of two LR curves, the similarity s of
    # the candidate's task and the factor b of its budget. So an own failure near a published
    # success takes it off the list, and one lucky run proves nothing. s_i counts once more outside
    # of the mean: a policy of another task may lie near good ones of this task, which should come
    # first.
    features = np.array([curve_features(c.policy, max_iterations) for c in candidates])
    distances = _distances(features)
    kernel = np.exp(-((distances / _KERNEL_WIDTH) ** 2))
    weights = kernel * np.array([c.weight for c in candidates]) * _counts_for(candidates)
    qualities = np.array([c.quality for c in candidates])
    values = (weights @ qualities) / (weights.sum(axis=1) + _SHRINKAGE)
    values *= np.array([c.similarity for c in candidates])
    values *= np.array([_budget_factor(c, max_iterations) for c in candidates])
    values[qualities < _MIN_QUALITY] = 0.0
    # Greedy: the best one left, then without similar policies of its function. Equal curves of
    # another function stay, with less value: the list should hold several functions.
    chosen: list[int] = []
    left = values.copy()
    while len(chosen) < n and left.max() > 0:
        best = int(left.argmax())
        chosen.append(best)
        same = np.array([c.policy.function == candidates[best].policy.function for c in candidates])
        left[same & ((distances[best] < _SIMILAR_POLICY) | _both_annealed(candidates, best))] = 0.0
        left[best] = 0.0
        left[~same] *= 1 - _SAME_CURVE_SHARE * kernel[best][~same]
    return [
        Choice(candidates[i], float(values[i]), _evidence(candidates, i, weights[i]))
        for i in chosen
    ]


def _counts_for(candidates: Sequence[Candidate]) -> npt.NDArray[np.bool_]:
    """Which candidates (columns) are evidence for which (rows): annealed ones only for their kind.

    An annealed candidate was never trained: its run had another policy.
    """
    annealed = np.array([c.peak_times is not None for c in candidates])
    counts: npt.NDArray[np.bool_] = annealed[:, None] | ~annealed[None, :]
    return counts


def _budget_factor(candidate: Candidate, max_iterations: int) -> float:
    """The factor of a candidate's value for its budget; a peak alone depends on it less."""
    factor = budget_share(max_iterations, candidate.run.max_iterations)
    return math.sqrt(factor) if candidate.peak_times else factor


def _both_annealed(candidates: Sequence[Candidate], best: int) -> npt.NDArray[np.bool_]:
    """The annealed candidates, if the best one is annealed: all differ in their peak only."""
    annealed = candidates[best].peak_times is not None
    return np.array([annealed and c.peak_times is not None for c in candidates])


def cover(
    candidates: Sequence[Candidate], experts: Experts, max_iterations: int, n: int
) -> list[Choice]:
    """Choose up to `n` candidates of which one does well on each source task, best first.

    Args:
        candidates: the past runs; those of poor quality are left out.
        experts: the source tasks' surrogates, in each reading of their LRs.
        max_iterations: the new task's budget, in iterations.
        n: length of the list at most.
    """
    good = [entry for entry in candidates if entry.quality >= _MIN_QUALITY]
    if not good:
        return []
    # With m_ji the log regret that expert j (of weight w_j) predicts for candidate i, a list S has
    # the expected log regret of its best policy,
    #
    #     F(S) = sum_j w_j max_{i in S} m_ji.
    #
    # F is monotone and submodular (facility location), so adding the candidate with the largest
    # gain each time comes near the best list (Nemhauser, Wolsey & Fisher 1978, Math. Programming
    # 14); Winkelmolen et al. 2020 build portfolios of hyperparameters in this way. Where the tasks
    # are known but the factor of their LRs is not, the list goes through the factors.
    #
    # Two terms are added to the gain: 0.25 sum_j w_j m_ji, so that a policy that is good for one
    # expert and very bad for the others comes late, and minus 0.05 exp(-(d / 0.35)^2) at the
    # distance d from the list, so that of equally good policies the more different one comes first.
    features = np.array([curve_features(entry.policy, max_iterations) for entry in good])
    distances = _distances(features)
    means, weights = experts.predict(features)[0], experts.priors
    expected = weights @ means
    functions = np.array([entry.policy.function for entry in good])
    left = np.ones(len(good), bool)
    reached = np.full(len(means), -np.inf)
    chosen: list[int] = []
    while len(chosen) < n and left.any():
        together = weights @ np.maximum(means, reached[:, None]) + _OWN_SHARE * expected
        if chosen:
            nearest = distances[chosen].min(axis=0)
            together -= _SAME_CURVE_COST * np.exp(-((nearest / _KERNEL_WIDTH) ** 2))
        best = int(np.where(left, together, -np.inf).argmax())
        if not chosen and far_shorter(max_iterations, good[best].run.max_iterations):
            # Its shape does not carry over to the short budget; its peak does.
            annealed = np.array([entry.peak_times is not None for entry in good])
            best = int(np.where(annealed, together, -np.inf).argmax()) if annealed.any() else best
        chosen.append(best)
        reached = np.maximum(reached, means[:, best])
        left &= (functions != functions[best]) | (distances[best] >= _SIMILAR_POLICY)
        left &= ~_both_annealed(good, best)
        left[best] = False
    near = np.exp(-((distances / _KERNEL_WIDTH) ** 2)) * np.array([c.weight for c in good])
    near *= _counts_for(good)
    # exp(log regret) = 1 / (1 + regret in units) is near 1 for a good policy, as in `choose`.
    values = np.exp(expected / max(float(weights.sum()), 1e-9))
    return [
        Choice(good[index], float(values[index]), _evidence(good, index, near[index]))
        for index in chosen
    ]


def bracket(
    choices: Sequence[Choice], candidates: Sequence[Candidate], scale: Scale, space: SearchSpace
) -> list[Choice]:
    """Insert twice the peak after a first choice that is a known peak for a far shorter budget.

    The list is returned unchanged where a run near the higher peak is known to be poor.

    Args:
        choices: best first.
        candidates: the past runs.
        scale: budget and reference LR of the new task.
        space: its search space.
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
    near = (_distances(features)[0] < _SIMILAR_POLICY).tolist()[1:]
    poor = (c.peak_times is None and c.quality < _MIN_QUALITY for c in candidates)
    if any(low and close for low, close in zip(poor, near, strict=False)):
        return list(choices)
    others = zip(choices[1:], near[len(candidates) :], strict=True)
    later = [c for c, close in others if not close or c.candidate.policy.function != function]
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
    """A candidate, and up to four other runs of the largest weight for it."""
    order = np.argsort(-weights, kind="stable")
    others = [candidates[i] for i in order if i != index and weights[i] > 0.05]
    # A run may be there twice: as it was, and annealed.
    first = {other.run.uid: other for other in reversed(others)}
    mine = candidates[index]
    others = [o for o in others if first[o.run.uid] is o and o.run.uid != mine.run.uid]
    return (mine, *others[:4])
