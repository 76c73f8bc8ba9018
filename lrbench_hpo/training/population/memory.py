"""The number of networks that fit into the memory at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from lrbench_hpo.training.optimizers import make_optimizer
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer

_TRIED_IMAGES = 4
_USED_SHARE = 0.8  # of the free memory; the rest is for kernels and other programs
_BACKWARD_SHARE = 0.5  # gradients of activations, relative to the activations kept for them


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a network needs while it is trained.

    Attributes:
        weights: its parameters and statistics.
        optimizer: the optimizer's state.
        activations: of one update on a batch, at its peak.
    """

    weights: int
    optimizer: int
    activations: int

    def needed(self, members: int, *, stacked: bool) -> int:
        """Bytes needed by several members.

        Each member keeps its weights, a copy of its best weights, and its optimizer state. An
        update needs gradients, as large as the weights, and activations. In turn, only one member
        needs them at a time. Stacked members need them all at once, and a second copy of weights
        and optimizer state when they are stacked again after one has ended.

        Args:
            members: how many.
            stacked: whether they are trained as one network, not in turn.

        >>> Footprint(10, 10, 100).needed(2, stacked=False)
        170
        """
        kept = 2 * self.weights + self.optimizer
        update = self.weights + self.activations
        if stacked:
            return members * (kept + self.weights + self.optimizer + update)
        return members * kept + update


def footprint(trainer: Trainer) -> Footprint:
    """Measure one update on a few images, and scale its activations to a batch.

    Activations are what autograd saves for the backward pass, each storage counted once, without
    the network's own tensors.

    Args:
        trainer: trains the networks.
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


def members_that_fit(trainer: Trainer, wanted: int, *, stacked: bool, processes: int = 1) -> int:
    """The number of members that can be trained at once, at least one.

    Args:
        trainer: trains the networks.
        wanted: the largest number to return.
        stacked: whether they are trained as one network, not in turn.
        processes: how many processes do the same on this device at the same time.

    >>> from lrbench_hpo.training import load_data
    >>> members_that_fit(Trainer(load_data("digits"), "mlp"), 4, stacked=True)
    4
    """
    if wanted <= 1:
        return 1
    one = footprint(trainer)
    free = _USED_SHARE * free_bytes(trainer.device) / processes
    fitting = (k for k in range(wanted, 1, -1) if one.needed(k, stacked=stacked) <= free)
    return next(fitting, 1)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, including torch's unused reserve.

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
