"""Trainings of which later policies may go on: up to an evaluation, the LRs were the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.population.member import Member

# The policy that led there, the network's state, and what was measured on the way.
_Stage = tuple[LRPolicy, Mapping[str, Any], Mapping[str, Any]]

MOST_BYTES = 512 * 2**20
_SAMPLES = 64  # LRs that tell most policies apart
_AT_ONCE = 100_000  # LRs compared at a time


class Stages:
    """Copies of networks at their evaluations, the latest used first to stay.

    A copy serves every policy with the same seed, the same LRs so far and the same evaluations so
    far: STEP and NSTEP before the drop in which they differ, a longer budget, a shared warm-up.

    Args:
        most_bytes: memory for the copies.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Any, ...], _Stage] = OrderedDict()
        self._bytes = 0

    def keep(self, riders: Sequence[Member], copied: Callable[[], dict[str, Any]]) -> None:
        """Keep where these members are now, which were just evaluated on the same network.

        Args:
            riders: the members.
            copied: gives a copy of the network's state.
        """
        healthy = [rider for rider in riders if rider.progress.status != "diverged"]
        found = {_key(rider, rider.iteration): rider for rider in healthy}
        unknown = {key: rider for key, rider in found.items() if key not in self._kept}
        if not unknown:
            return
        lane = copied()
        for key, rider in unknown.items():
            policy, progress = rider.progress.record.policy, rider.progress.state_dict()
            self._kept[key] = (policy, lane, progress)
            self._bytes += _size(self._kept[key])
        while self._bytes > self._most_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def longest(self, member: Member) -> Mapping[str, Any] | None:
        """The state of the network that this member can go on from, having got its past."""
        for point in reversed(member.progress.points[:-1]):
            key = _key(member, point)
            if key not in self._kept:
                continue
            policy, lane, progress = self._kept[key]
            if _same(policy, member.progress.record.policy, point):
                self._kept.move_to_end(key)
                member.iteration = point
                member.progress.load_state_dict(progress)
                return lane
        return None


def sampled(policy: LRPolicy, until: int) -> tuple[float, ...]:
    """Some of a policy's first LRs: policies that agree up to there have the same."""
    at = np.unique(np.linspace(0, until - 1, _SAMPLES).astype(int))
    return tuple(policy(at).tolist())


def _key(member: Member, iteration: int) -> tuple[Any, ...]:
    """What decides what has been measured of a network after so many updates."""
    progress = member.progress
    points = tuple(point for point in progress.points if point <= iteration)
    return member.seed, points, sampled(progress.record.policy, iteration)


def _same(one: LRPolicy, other: LRPolicy, until: int) -> bool:
    """Whether two policies have the same LRs up to an iteration."""
    for start in range(0, until, _AT_ONCE):
        block = np.arange(start, min(until, start + _AT_ONCE))
        if not np.array_equal(one(block), other(block)):
            return False
    return True


def _size(state: Any) -> int:
    """Bytes of the tensors within."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_size(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_size(value) for value in state)
    return 0
