"""Layers that hold the parameters of K networks, and the table of their ordinary counterparts.

The K networks are the members of a stack. Between such layers the activations of member k are the
k-th part of the channels: (n, K * C, H, W) or (n, K * features). Operations that treat every
channel alone (ReLU, pooling, sums of activations) need no change, so a converted network runs the
`forward` of the ordinary one. K convolutions become one with K times the groups, as in horizontally
fused training arrays (Wang et al. 2021, arXiv 2102.02344).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from lrbench_hpo.errors import TrainingError
from lrbench_hpo.training.models.build import ColourInput
from lrbench_hpo.training.models.resnet import Shortcut


class NotStackableError(TrainingError):
    """A network that cannot be stacked with others; the message has the reason."""


class StackedConv2d(nn.Module):
    """K convolutions as one: a group for each, or one group if they share their input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        if layer.padding_mode != "zeros":
            raise NotStackableError(f"a Conv2d has padding_mode={layer.padding_mode!r}")
        self.weight, self.bias = layer.weight, layer.bias
        self.in_channels, self.groups = layer.in_channels, layer.groups
        self.options: dict[str, Any] = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, in, H, W) that all share, or (n, K * in, H, W), to (n, K * out, H, W)."""
        members = len(self.weight)
        bias = None if self.bias is None else self.bias.flatten()
        weight = self.weight.flatten(0, 1)
        shared = images.shape[1] == self.in_channels
        if shared and self.groups > 1 and members > 1:
            # Output channels are sorted by member, so each member's groups need their own input.
            images, shared = images.repeat(1, members, 1, 1), False
        groups = self.groups if shared else self.groups * members
        return F.conv2d(images, weight, bias, groups=groups, **self.options)


class StackedLinear(nn.Module):
    """K linear layers: one batched product, or one large product if they share their input."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features = layer.in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, in) that all share, or (n, K * in), to (n, K * out)."""
        if inputs.ndim != 2:
            raise NotStackableError(f"a Linear layer gets {inputs.ndim} dimensions")
        if inputs.shape[1] == self.in_features:
            bias = None if self.bias is None else self.bias.flatten()
            return F.linear(inputs, self.weight.flatten(0, 1), bias)
        own = inputs.unflatten(1, (len(self.weight), self.in_features)).transpose(0, 1)
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            outputs = torch.bmm(own, weight)
        else:
            outputs = torch.baddbmm(self.bias.unsqueeze(1), own, weight)
        return outputs.transpose(0, 1).flatten(1)


class StackedBatchNorm(nn.Module):
    """Batch normalisation with statistics for each member (Ioffe, Szegedy 2015)."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if layer.momentum is None:
            raise NotStackableError("a BatchNorm has momentum=None")
        self.weight, self.bias = layer.weight, layer.bias
        self.momentum, self.eps = layer.momentum, layer.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.training = layer.training

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (n, K * C, …) by channel."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, var, weight, bias = (
            None if value is None else value.flatten()
            for value in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        training = self.training or mean is None
        return F.batch_norm(inputs, mean, var, weight, bias, training, self.momentum, self.eps)


class StackedGroupNorm(nn.Module):
    """Group normalisation: K times the groups (Wu, He 2018)."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.groups, self.eps = layer.num_groups, layer.eps
        self.channels = layer.num_channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (n, K * C, …) by group."""
        weight, bias = (None if v is None else v.flatten() for v in (self.weight, self.bias))
        groups = self.groups * (inputs.shape[1] // self.channels)
        return F.group_norm(inputs, groups, weight, bias, self.eps)


class StackedShortcut(nn.Module):
    """A residual network's widening shortcut: zeros on both sides of each member's channels."""

    def __init__(self, layer: Shortcut) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, K * in, H, W) to (n, K * out, H / stride, W / stride)."""
        if not self.layer.new_channels:
            return images
        stride = self.layer.stride
        thinned = images[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
        members = thinned.unflatten(3, (-1, self.layer.in_channels))
        return F.pad(members, self.layer.padding()).flatten(3).permute(0, 3, 1, 2)


class StackedColourInput(nn.Module):
    """Grey images of each member, their channel repeated three times."""

    def __init__(self, layer: ColourInput) -> None:
        super().__init__()
        self.model = converted(layer.model)

    def forward(self, images: Tensor) -> Tensor:
        """Map grey images (n, 1, H, W) that all share, or (n, K, H, W)."""
        logits: Tensor = self.model(images.repeat_interleave(3, 1))
        return logits


# Looked up by exact type: the forward of a subclass may do anything.
STACKED_LAYERS: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Conv2d: StackedConv2d,
    nn.Linear: StackedLinear,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.GroupNorm: StackedGroupNorm,
    Shortcut: StackedShortcut,
    ColourInput: StackedColourInput,
}


def converted(module: nn.Module) -> nn.Module:
    """Replace each layer of a network by its stacked counterpart, in place.

    Other modules are kept. Whether their `forward` treats every channel alone is only known once it
    has run: see `stacked_model.stack_network`.

    Args:
        module: the network; the names of its parameters and buffers do not change.

    Raises:
        NotStackableError: for a layer with parameters or buffers that has no counterpart.

    >>> converted(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))[1]
    StackedLinear()
    """
    counterpart = STACKED_LAYERS.get(type(module))
    if counterpart is not None:
        return counterpart(module)
    if any(True for _ in module.parameters(recurse=False)) or any(
        True for _ in module.buffers(recurse=False)
    ):
        raise NotStackableError(f"{type(module).__name__} has no stacked counterpart")
    for name, child in module.named_children():
        setattr(module, name, converted(child))
    return module


def stack(tensors: list[Tensor]) -> Tensor:
    """Stack tensors of one shape into one (K, …); each keeps its memory format.

    >>> stack([torch.zeros(2), torch.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    first = torch.empty_like(tensors[0])  # dense, even if a user's tensor is not
    strides = (first.numel(), *first.stride())
    stacked = torch.empty_strided(
        (len(tensors), *first.shape), strides, dtype=first.dtype, device=first.device
    )
    for member, tensor in zip(stacked, tensors, strict=True):
        member.copy_(tensor)
    return stacked
