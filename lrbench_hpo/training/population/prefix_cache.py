"""A cache of evaluated networks, from which members with the same LRs so far continue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.population.member import Member

# The policy of a prefix, the network's state after it, and the evaluations up to there.
_Prefix = tuple[LRPolicy, Mapping[str, Any], Mapping[str, Any]]

MAX_BYTES = 512 * 2**20
_SAMPLES = 64  # LRs in a key, enough to tell most policies apart
_AT_ONCE = 100_000  # LRs compared at a time


class PrefixCache:
    """Copies of networks at their evaluations; the least recently used ones are removed first.

    A copy serves every policy with the same seed, the same LRs and the same evaluations so far:
    STEP and NSTEP up to the first step in which they differ, a longer budget, a common warm-up.

    Args:
        max_bytes: memory for the copies.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Any, ...], _Prefix] = OrderedDict()
        self._bytes = 0

    def keep(self, members: Sequence[Member], copied: Callable[[], dict[str, Any]]) -> None:
        """Keep the state of members that share a network and were just evaluated.

        Args:
            members: the members.
            copied: returns a copy of the network's state.
        """
        healthy = [member for member in members if member.progress.status != "diverged"]
        found = {_key(member, member.iteration): member for member in healthy}
        unknown = {key: member for key, member in found.items() if key not in self._kept}
        if not unknown:
            return
        network = copied()
        for key, member in unknown.items():
            policy, progress = member.progress.record.policy, member.progress.state_dict()
            self._kept[key] = (policy, network, progress)
            self._bytes += _size(self._kept[key])
        while self._bytes > self._max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def longest(self, member: Member) -> Mapping[str, Any] | None:
        """Give a new member the past of its longest prefix.

        Returns:
            The state of the network that the member continues from; None if no prefix is known.
        """
        for point in reversed(member.progress.points[:-1]):
            key = _key(member, point)
            if key not in self._kept:
                continue
            policy, network, progress = self._kept[key]
            if _same(policy, member.progress.record.policy, point):
                self._kept.move_to_end(key)
                member.iteration = point
                member.progress.load_state_dict(progress)
                return network
        return None


def sampled(policy: LRPolicy, until: int) -> tuple[float, ...]:
    """Some of a policy's LRs before an iteration; equal for policies that are equal up to there."""
    at = np.unique(np.linspace(0, until - 1, _SAMPLES).astype(int))
    return tuple(policy(at).tolist())


def _key(member: Member, iteration: int) -> tuple[Any, ...]:
    """All that determines a network and its evaluations up to an iteration, LRs by samples."""
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
    """Bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_size(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_size(value) for value in state)
    return 0
