"""Residual networks for CIFAR (He, Zhang, Ren, Sun 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

DEPTHS = (20, 32, 44, 56, 110)


class Shortcut(nn.Module):
    """Every stride-th pixel; where the block widens, channels of zeros on both sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.new_channels = channels - in_channels
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Map activations (n, in, H, W) to (n, out, H / stride, W / stride)."""
        if not self.new_channels:
            return images
        thinned = images[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, *self.padding()))

    def padding(self) -> tuple[int, int]:
        """Channels of zeros before and after."""
        before = self.new_channels // 2
        return before, self.new_channels - before


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (the paper's option A)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = Shortcut(in_channels, channels, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map activations (n, in, H, W) to (n, out, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(images)), inplace=True)
        hidden = self.bn2(self.conv2(hidden))
        return F.relu(hidden + self.shortcut(images), inplace=True)


class CifarResNet(nn.Module):
    """ResNet of ``depth = 6n + 2`` layers: three stages of n blocks with 16, 32, 64 channels.

    >>> sum(p.numel() for p in CifarResNet(20, 10, (3, 32, 32)).parameters())
    269722
    """

    def __init__(self, depth: int, num_classes: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(
            _stage(16, 16, blocks, stride=1),
            _stage(16, 32, blocks, stride=2),
            _stage(32, 64, blocks, stride=2),
        )
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # the paper's MSRA
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, H, W) to logits (n, classes)."""
        hidden = F.relu(self.bn(self.conv(images)), inplace=True)
        # A plain mean, as adaptive pooling has no deterministic backward on CUDA.
        return cast(Tensor, self.fc(self.stages(hidden).mean((2, 3))))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
