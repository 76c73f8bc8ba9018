"""How many networks fit into the memory at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from lrbench_hpo.training.optimizers import make_optimizer
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer

_TRIED_IMAGES = 4
_USED_SHARE = 0.8  # of the free memory: kernels need room, and others may come
_BACKWARD_SHARE = 0.5  # gradients of activations, beside the activations kept for them


@dataclass(frozen=True)
class Footprint:
    """Bytes that a network takes while it is trained.

    Attributes:
        weights: its parameters and statistics.
        optimizer: what the optimizer keeps of it.
        activations: one update on a batch, at its peak.
    """

    weights: int
    optimizer: int
    activations: int

    def needed(self, members: int, *, stacked: bool) -> int:
        """Bytes for so many members: each with its weights, and a copy of the best.

        Args:
            members: how many.
            stacked: trained in one go, not in turn, and put together anew where one leaves.

        >>> Footprint(10, 10, 100).needed(2, stacked=False)
        170
        """
        kept = 2 * self.weights + self.optimizer
        update = self.weights + self.activations
        if stacked:
            return members * (kept + self.weights + self.optimizer + update)
        return members * kept + update


def footprint(trainer: Trainer) -> Footprint:
    """Measure a few images' update and scale it to a batch.

    Args:
        trainer: whose networks are to be trained.
    """
    network = trainer.network(0)
    optimizer = make_optimizer(network, trainer.recipe)
    images, labels = trainer.batches(0).next()
    tried = min(_TRIED_IMAGES, len(labels))
    scale = len(labels) / tried
    images, labels = images[:tried].clone(), labels[:tried].clone()  # a view's storage is all of it
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.amp)
    with LayerRandomness(trainer.device, 0).active():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            with autocast:
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
    own = [*network.parameters(), *network.buffers()]
    for tensor in own:
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    kept = [value for state in optimizer.state.values() for value in state.values()]
    activations = sum(saved.values()) * scale * (1 + _BACKWARD_SHARE)
    return Footprint(_bytes(own), _bytes(kept), int(activations))


def members_that_fit(trainer: Trainer, room: int, *, stacked: bool, processes: int = 1) -> int:
    """How many of the wanted members can be trained at once, at least one.

    Args:
        trainer: whose networks are to be trained.
        room: how many are wanted.
        stacked: as one network, or in turn.
        processes: how many processes do the same on this device at the same time.

    >>> from lrbench_hpo.training import load_data
    >>> members_that_fit(Trainer(load_data("digits"), "mlp"), 4, stacked=True)
    4
    """
    if room <= 1:
        return max(room, 1)
    one = footprint(trainer)
    free = _USED_SHARE * free_bytes(trainer.device) / processes
    fitting = (k for k in range(room, 1, -1) if one.needed(k, stacked=stacked) <= free)
    return next(fitting, 1)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, with what torch holds there in reserve.

    >>> free_bytes(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return int(psutil.virtual_memory().available)


def _bytes(values: Iterable[object]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
