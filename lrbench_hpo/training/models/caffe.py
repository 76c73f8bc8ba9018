"""LeNet and CNN3 as Caffe defines them, the two small networks of the LRBench paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from lrbench_hpo.errors import TrainingError

# Caffe lets biases learn at twice the rate of the weights.
_BIAS_LR_SCALE = 2.0
_LENET_SMALLEST = 13  # two 5x5 convolutions and two halvings leave one pixel of it


class LeNet(nn.Module):
    """LeNet of Caffe: two 5x5 convolutions with max pooling, then 500 hidden units.

    LeCun, Bottou, Bengio, Haffner 1998, in the variant of Caffe's MNIST example: no squashing
    between convolution and pooling, one ReLU. Takes images of at least 13x13 pixels.

    >>> sum(p.numel() for p in LeNet(10, (1, 28, 28)).parameters())
    431080
    """

    def __init__(self, num_classes: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * _lenet_side(height) * _lenet_side(width), 500)
        self.fc2 = nn.Linear(500, num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                _caffe_xavier_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, H, W) to logits (n, classes)."""
        hidden = F.max_pool2d(self.conv1(images), 2, ceil_mode=True)
        hidden = F.max_pool2d(self.conv2(hidden), 2, ceil_mode=True)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))  # type: ignore[no-any-return]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weights at the LR, biases at twice the LR, both decayed."""
        weights = [p for name, p in self.named_parameters() if name.endswith("weight")]
        biases = [p for name, p in self.named_parameters() if name.endswith("bias")]
        return [
            {"params": weights, "lr_scale": 1.0, "weight_decay": weight_decay},
            {"params": biases, "lr_scale": _BIAS_LR_SCALE, "weight_decay": weight_decay},
        ]


class CNN3(nn.Module):
    """The three-convolution network of Caffe's "cifar10_full", called CNN3 by LRBench.

    Its weights start so small that it needs pixels on the 0..255 scale (recipe ``caffe``).

    >>> sum(p.numel() for p in CNN3(10, (3, 32, 32)).parameters())
    89578
    """

    # Caffe decays the classifier's weights 250 times as much as the rest, and not its biases.
    _CLASSIFIER_DECAY_SCALE = 250.0

    def __init__(self, num_classes: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc = nn.Linear(64 * _cnn3_side(height) * _cnn3_side(width), num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=1e-4 if name == "conv1.weight" else 1e-2)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, C, H, W) to logits (n, classes)."""
        hidden = F.relu(F.max_pool2d(self.conv1(images), 3, 2, ceil_mode=True))
        hidden = F.relu(self.conv2(local_response_norm(hidden)))
        hidden = local_response_norm(F.avg_pool2d(hidden, 3, 2, ceil_mode=True))
        hidden = F.avg_pool2d(F.relu(self.conv3(hidden)), 3, 2, ceil_mode=True)
        return self.fc(hidden.flatten(1))  # type: ignore[no-any-return]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Caffe's LR and decay multipliers (the third convolution's biases have none)."""
        strong = weight_decay * self._CLASSIFIER_DECAY_SCALE
        convolutions = [self.conv1.weight, self.conv2.weight, self.conv3.weight, self.conv3.bias]
        biases = [self.conv1.bias, self.conv2.bias]
        return [
            {"params": convolutions, "lr_scale": 1.0, "weight_decay": weight_decay},
            {"params": biases, "lr_scale": _BIAS_LR_SCALE, "weight_decay": weight_decay},
            {"params": [self.fc.weight], "lr_scale": 1.0, "weight_decay": strong},
            {"params": [self.fc.bias], "lr_scale": _BIAS_LR_SCALE, "weight_decay": 0.0},
        ]


def local_response_norm(images: Tensor, size: int = 3, alpha: float = 5e-5) -> Tensor:
    """Response normalisation within a channel: ``x / (1 + alpha * mean(x^2))^0.75``.

    The mean is over a size x size window of the same channel, zeros beyond the border counted,
    as in Caffe. Krizhevsky, Sutskever, Hinton 2012 describe the form across channels.

    Args:
        images: activations (n, C, H, W).
        size: side of the window in pixels, odd.
        alpha: strength.

    >>> round(local_response_norm(torch.full((1, 1, 1, 1), 3.0), size=1, alpha=1.0).item(), 4)
    0.5335
    """
    normalised: Tensor = _LocalResponseNorm.apply(images, size, alpha)[0]
    return normalised


class _LocalResponseNorm(torch.autograd.Function):
    """Written out, because autograd's backward pass through the formula takes twice the time.

    With ``s = 1 + alpha * mean(x^2)`` the output is ``x * s^-0.75``. Every output in the window
    depends on x, so the gradient is ``g * s^-0.75 - 1.5 * alpha * x * mean(g * x * s^-1.75)``;
    1.5 is 0.75 times the 2 of the square's derivative.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, size: int, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        scale = F.avg_pool2d(images * images, size, 1, size // 2).mul_(alpha).add_(1)
        inverse_root = scale.rsqrt_()
        factor = inverse_root.sqrt().mul_(inverse_root)  # s^-0.75 without the slow pow
        return images * factor, factor, inverse_root

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, ctx.size, ctx.alpha = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(images, *output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        images, factor, inverse_root = ctx.saved_tensors
        direct = gradients[0] * factor
        # The window is symmetric, so the transpose of its mean is the same mean: of g x s^-1.75.
        inner = (direct * images).mul_(inverse_root).mul_(inverse_root)
        spread = F.avg_pool2d(inner, ctx.size, 1, ctx.size // 2)
        return direct.addcmul_(images, spread, value=-1.5 * ctx.alpha), None, None


def _caffe_xavier_(weight: Tensor) -> None:
    """Uniform within sqrt(3 / fan_in): Caffe's "xavier" looks at the inputs alone."""
    fan_in = weight[0].numel()
    nn.init.uniform_(weight, -((3 / fan_in) ** 0.5), (3 / fan_in) ** 0.5)


def _lenet_side(pixels: int) -> int:
    if pixels < _LENET_SMALLEST:
        raise TrainingError(f"LeNet needs at least {_LENET_SMALLEST} pixels a side, got {pixels}")
    for _ in range(2):
        pixels = -(-(pixels - 4) // 2)
    return pixels


def _cnn3_side(pixels: int) -> int:
    for _ in range(3):
        pixels = max(-(-(pixels - 3) // 2) + 1, 0)
    return pixels
