"""K networks of one kind as one: by stacked layers if they fit, else by torch.func.vmap."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from lrbench_hpo.training.population.stacked_layers import NotStackableError, converted, stack
from lrbench_hpo.training.randomness import LayerRandomness
from lrbench_hpo.training.trainer import Trainer

_CHECKED_IMAGES = 6
_TOLERANCE = 1e-8  # relative; float64 sums in another order differ by less
_GRADIENT = "gradient of "


class StackedNetwork(Protocol):
    """K networks: parameters and buffers by their ordinary names, in tensors (K, …)."""

    how: str

    def load(self, parameters: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor]) -> None:
        """Use these tensors from now on; buffers are changed in place."""

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Map one shared batch (n, C, H, W), or K batches, to logits (K, n, classes)."""


class GroupedNetwork:
    """Runs the network's own `forward` on stacked layers.

    Args:
        network: an ordinary one, in training mode.

    Raises:
        NotStackableError: for a layer with parameters and no stacked counterpart.
    """

    how = "stacked layers"

    def __init__(self, network: nn.Module) -> None:
        self._network = converted(copy.deepcopy(network))
        self._members = 0

    def load(self, parameters: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor]) -> None:
        """Use these tensors from now on."""
        self._members = len(next(iter(parameters.values())))
        for name, value in {**parameters, **buffers}.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self._network.get_submodule(owner), attribute, value)

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Map one shared batch, or one for each member, to logits (K, n, classes)."""
        given = images[0] if len(images) == 1 else torch.cat(list(images), 1)
        logits: Tensor = self._network(given).unflatten(1, (self._members, -1))
        return logits.transpose(0, 1)


class VmappedNetwork:
    """Lets torch.func.vmap batch the network over its parameters.

    Args:
        network: an ordinary one, in training mode.
    """

    how = "vmap"

    def __init__(self, network: nn.Module) -> None:
        self._network = copy.deepcopy(network)
        self._tensors: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})

    def load(self, parameters: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor]) -> None:
        """Use these tensors from now on."""
        self._tensors = dict(parameters), dict(buffers)

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Map one shared batch, or one for each member, to logits (K, n, classes)."""
        shared = len(images) == 1
        given = images[0] if shared else torch.stack(list(images))
        over = (0, None if shared else 0)
        logits: Tensor = torch.func.vmap(self._one, in_dims=over)(self._tensors, given)
        return logits

    def _one(self, tensors: tuple[dict[str, Tensor], dict[str, Tensor]], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(self._network, tensors, (images,))
        return logits


def losses_of(logits: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """The mean cross-entropy of each member (K,).

    Args:
        logits: (K, n, classes).
        labels: one batch's (n,) that all share, or K of them.
    """
    members, size, _ = logits.shape
    wanted = labels[0].expand(members, size) if len(labels) == 1 else torch.stack(list(labels))
    flat = logits.flatten(0, 1)
    exact = flat if flat.dtype == torch.float64 else flat.float()
    losses = F.cross_entropy(exact, wanted.flatten(), reduction="none")
    return losses.view(members, size).mean(1)


def stack_network(trainer: Trainer) -> tuple[StackedNetwork, str]:
    """Stack the trainer's network in the first way that is correct.

    A network's own `forward` may do anything, such as mix channels, so correctness is tested and
    not derived: two members with different weights run forward and backward on a shared batch, then
    on a batch each. Losses, summed gradients and buffers must equal those of two ordinary networks.
    This is done in float64, where the order of sums hardly matters.

    Args:
        trainer: trains the networks.

    Returns:
        The stacked network, without members, and the reason against stacked layers, if any.

    Raises:
        NotStackableError: if no way is correct; it has the reasons.
    """
    network = trainer.network(0)
    _check_names(network)
    with LayerRandomness(torch.device("cpu"), 0).active():
        reference = _Reference(trainer)
        reasons: list[str] = []
        ways: tuple[Callable[[nn.Module], StackedNetwork], ...] = (GroupedNetwork, VmappedNetwork)
        for way in ways:
            reason = reference.differs(way)
            if reason is None:
                return way(network), "".join(reasons)
            reasons.append(reason)
    raise NotStackableError(f"stacked layers: {reasons[0]}; vmap: {reasons[1]}")


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers by name, not copied."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def load_members(
    network: StackedNetwork, ordinary: nn.Module, tensors: Mapping[str, Tensor]
) -> dict[str, nn.Parameter]:
    """Load stacked tensors into a stacked network.

    Args:
        network: the stacked network.
        ordinary: an ordinary network, for names and for which parameters are trained.
        tensors: parameters and buffers (K, …).

    Returns:
        The stacked parameters by name.
    """
    parameters = {
        name: nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
        for name, parameter in ordinary.named_parameters()
    }
    network.load(parameters, {name: tensors[name] for name, _ in ordinary.named_buffers()})
    return parameters


def _check_names(network: nn.Module) -> None:
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in network.named_buffers(remove_duplicate=False)]
    if len(names) > len(tensors_of(network)):
        raise NotStackableError("layers share parameters")
    if set(network.state_dict()) - set(names):
        raise NotStackableError("its state holds more than parameters and buffers")


class _Reference:
    """Two ordinary networks in float64 on real images, on the CPU, and their results."""

    def __init__(self, trainer: Trainer) -> None:
        self._networks = [trainer.network(seed).cpu().double() for seed in (0, 1)]
        noise = torch.Generator().manual_seed(0)
        for network in self._networks:
            for value in network.parameters():
                # Initial values such as zeros would hide what a layer does.
                scale = 0.1 * float(value.detach().abs().mean()) + 0.01
                drawn = torch.randn(value.shape, generator=noise, dtype=torch.float64)
                value.data.add_(drawn, alpha=scale)
        batches = trainer.batches(0)
        drawn_batches = [batches.next() for _ in range(3)]
        self._images = [images[:_CHECKED_IMAGES].cpu().double() for images, _ in drawn_batches]
        self._labels = [labels[:_CHECKED_IMAGES].cpu() for _, labels in drawn_batches]
        self._start = [copy.deepcopy(network) for network in self._networks]
        self._found = self._ordinary()

    def _ordinary(self) -> dict[str, Tensor]:
        """Losses, gradients and buffers of two passes: on a shared batch, then on a batch each."""
        before = torch.get_rng_state()
        members = []
        for index, network in enumerate(self._networks):
            found = {}
            for step, batch in enumerate((0, 1 + index)):
                try:
                    loss = F.cross_entropy(network(self._images[batch]), self._labels[batch])
                except Exception as error:  # the user's own code, which may raise anything
                    raise NotStackableError(_summary(error)) from error
                found[f"loss {step}"] = loss.detach()
                loss.backward()
            found |= _gradients(dict(network.named_parameters()))
            members.append(found | {name: b.detach() for name, b in network.named_buffers()})
        if not torch.equal(before, torch.get_rng_state()):
            raise NotStackableError("it draws random numbers, as dropout does")
        return {name: torch.stack([found[name] for found in members]) for name in members[0]}

    def differs(self, way: Callable[[nn.Module], StackedNetwork]) -> str | None:
        """The reason why a way of stacking is wrong, or None if its results are the same."""
        try:
            found = self._stacked(way)
        except Exception as error:  # the user's own code, which may raise anything
            return str(error) if isinstance(error, NotStackableError) else _summary(error)
        gradients = [value for name, value in self._found.items() if name.startswith(_GRADIENT)]
        steepest = max(float(value.abs().max()) for value in gradients)
        for name, wanted in self._found.items():
            scale = steepest if name.startswith(_GRADIENT) else float(wanted.abs().max())
            if name not in found or not _close(found[name], wanted, scale):
                return f"{name} is another"
        return None

    def _stacked(self, way: Callable[[nn.Module], StackedNetwork]) -> dict[str, Tensor]:
        members = [tensors_of(network) for network in self._start]
        tensors = {name: stack([own[name] for own in members]) for name in members[0]}
        network = way(self._start[0])
        parameters = load_members(network, self._start[0], tensors)
        found = {}
        for step, chosen in enumerate(([0], [1, 2])):
            logits = network.logits([self._images[batch] for batch in chosen])
            losses = losses_of(logits, [self._labels[batch] for batch in chosen])
            losses.sum().backward()
            found[f"loss {step}"] = losses.detach()
        found |= _gradients(parameters)
        return found | {name: tensors[name] for name, _ in self._start[0].named_buffers()}


def _gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    return {_GRADIENT + name: g for name, g in gradients.items() if g is not None}


def _close(found: Tensor, wanted: Tensor, scale: float) -> bool:
    """Whether tensors are equal up to the rounding of numbers of this size."""
    if found.shape != wanted.shape or not math.isfinite(scale):
        return False
    return torch.allclose(found.double(), wanted.double(), rtol=0.0, atol=_TOLERANCE * scale)


def _summary(error: Exception) -> str:
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}"
