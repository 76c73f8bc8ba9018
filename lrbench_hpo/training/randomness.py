"""Random numbers of a run: one stream for each use, separate from torch's global state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """Uses of random numbers; each use of a run's seed has a stream of its own."""

    INIT = 0
    ORDER = 1
    LAYERS = 2
    TRAIN_LOSS = 3


def stream_seed(seed: int, stream: Stream) -> int:
    """The seed of one stream of a run.

    >>> stream_seed(0, Stream.INIT) == stream_seed(0, Stream.ORDER)
    False
    """
    return int(np.random.SeedSequence((seed, int(stream))).generate_state(1)[0])


class LayerRandomness:
    """Random numbers for layers such as dropout, and deterministic kernels.

    The numbers continue where they stopped, however often a run is interrupted. Torch's global
    random state is neither used nor changed.

    Args:
        device: where the layers are.
        seed: the run's seed.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device = device
        number = stream_seed(seed, Stream.LAYERS)
        self._states = {"cpu": torch.Generator().manual_seed(number).get_state()}
        if device.type != "cpu":
            self._states[device.type] = torch.Generator(device).manual_seed(number).get_state()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make torch draw from these random numbers inside."""
        kernels = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        before = self._current()
        self._set(self._states)
        try:
            with kernels:
                yield
        finally:
            self._states = self._current()
            self._set(before)

    def state_dict(self) -> dict[str, Tensor]:
        """The positions of the random number generators."""
        return {name: state.clone() for name, state in self._states.items()}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        """Continue from there; a kind of device without a saved state starts from the seed."""
        self._states |= {name: states[name].cpu() for name in self._states if name in states}

    def _current(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        elif self._device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return states

    def _set(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)
        if "mps" in states:
            torch.mps.set_rng_state(states["mps"])
