"""A training step recorded once as a CUDA graph and replayed: no launch costs on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_WARM_UP_STEPS = 3  # PyTorch's documentation: before a capture, a few steps on a side stream


@contextmanager
def undone(state: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Put all numbers back that change inside; what was not there before is zeroed or let go.

    An optimizer whose momentum and moments are zero does what one without any does.

    Args:
        state: the tensors of parameters, buffers and optimizer, asked before and after.
    """
    before = [(tensor, tensor.detach().clone()) for tensor in state()]
    try:
        yield
    finally:
        with torch.no_grad():
            known = {id(tensor) for tensor, _ in before}
            for tensor in state():
                tensor.grad = None
                if id(tensor) not in known:
                    tensor.zero_()
            for tensor, value in before:
                tensor.copy_(value)


class GraphedStep:
    """Calls a function of CUDA tensors by replaying its graph, which the first call records.

    Where no graph can be captured, the function is called as it is, after one warning.

    Args:
        step: takes tensors of always the same shapes and changes ``state`` in place.
        state: all tensors that ``step`` changes, except gradients.
    """

    def __init__(self, step: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        self._step = step
        self._state = state
        self._eager = False
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The step's result for these inputs."""
        if self._eager:
            return self._step(*inputs)
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._graphs:
            try:
                with self._undone(inputs[0].device):
                    self._graphs[shapes] = _Graph(self._step, inputs)
            except (RuntimeError, ValueError) as error:  # torch has no error of its own for it
                self._eager = True
                reason = str(error).partition("\n")[0]
                warnings.warn(f"no CUDA graph ({reason}): training goes on without", stacklevel=3)
                return self._step(*inputs)
        return self._graphs[shapes](*inputs)

    @contextmanager
    def _undone(self, device: torch.device) -> Iterator[None]:
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), undone(self._state):
            yield


class _Graph:
    """A captured call, as in PyTorch's documentation of whole-network capture."""

    def __init__(self, step: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self._inputs = [value.clone() for value in inputs]  # static: replays read these
        device = inputs[0].device
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                step(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side):
            self._output = step(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for static, value in zip(self._inputs, inputs, strict=True):
            static.copy_(value)
        self._graph.replay()
        return self._output.clone()
