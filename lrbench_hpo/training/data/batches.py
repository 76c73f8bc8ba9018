"""Batches from data that is stored on the device as one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.training.data.samples import Samples

PIXELS = ("unit", "caffe", "standard")
AUGMENTATIONS = ("none", "crop_flip")
PADDING = 4
_BRIGHTEST = 255.0


@dataclass(frozen=True, eq=False)
class Pixels:
    """An affine map per channel, from stored pixels to the network's input."""

    scale: Tensor
    shift: Tensor | None

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (n, C, H, W), uint8 or float, to float32 in the same memory format."""
        scaled = images * self.scale
        return scaled if self.shift is None else scaled.sub_(self.shift)


def pixels_for(kind: str, train: Samples, device: torch.device) -> Pixels:
    """The map for a recipe's ``pixels``, with the training images' means and deviations.

    Args:
        kind: ``unit``: x / 255; ``caffe``: x - mean, on the scale 0..255; ``standard``:
            (x - mean) / std. Float images count as divided by 255 already.
        train: the training samples.
        device: where batches are.

    Raises:
        UnknownNameError: for another kind.

    >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> samples = Samples(images, torch.zeros(2))
    >>> pixels_for("standard", samples, torch.device("cpu"))(samples.images).flatten().tolist()
    [-1.0, 1.0]
    """
    if kind not in PIXELS:
        raise UnknownNameError.among("pixel scale", kind, PIXELS)
    unit = 1.0 if train.images.is_floating_point() else 1 / _BRIGHTEST
    mean, std = _channel_statistics(train.images)
    # A channel that is the same everywhere is left at zero, not divided by zero.
    factor = {
        "unit": torch.full_like(std, unit),
        "caffe": torch.full_like(std, unit * _BRIGHTEST),
        "standard": 1 / torch.where(std > 0, std, 1.0),
    }[kind]
    shape = (1, -1, 1, 1)
    exact = torch.get_default_dtype()  # that of the networks
    shift = None if kind == "unit" else (mean * factor).to(exact).view(shape).to(device)
    return Pixels(factor.to(exact).view(shape).to(device), shift)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each channel's stored values, in float64."""
    channels = [images[:, channel] for channel in range(images.shape[1])]
    if images.is_floating_point():
        pairs = [torch.std_mean(channel.double(), correction=0) for channel in channels]
        return torch.stack([mean for _, mean in pairs]), torch.stack([std for std, _ in pairs])
    # A histogram is exact and needs no float copy of the data set.
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256).double() for c in channels])
    shares = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


class DeviceSamples:
    """Samples on the device, stored so that batches have the model's memory format."""

    def __init__(self, samples: Samples, device: torch.device, *, channels_last: bool) -> None:
        self.channels_last = channels_last
        images = samples.images
        if channels_last:
            images = images.permute(0, 2, 3, 1)
        self.stored = images.contiguous().to(device)
        self.labels = samples.labels.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The samples from start to stop: images (n, C, H, W) and labels."""
        return self._view(self.stored[start:stop]), self.labels[start:stop]

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at these indices, on the same device."""
        return self._view(self.stored.index_select(0, indices)), self.labels.index_select(
            0, indices
        )

    def _view(self, stored: Tensor) -> Tensor:
        return stored.permute(0, 3, 1, 2) if self.channels_last else stored


class CroppedSamples:
    """Training samples that are cropped at random in every batch, and mirrored half of the time.

    The images are padded once by 4 black pixels on each side. All crops of a batch are one indexing
    of a sliding-window view, so they are cut in one operation, on the device.
    """

    def __init__(self, samples: Samples, device: torch.device) -> None:
        height, width = samples.images.shape[2:]
        padded = F.pad(samples.images, (PADDING,) * 4).permute(0, 2, 3, 1).contiguous().to(device)
        windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # n, dy, dx, C, H, W
        self._windows = windows.permute(0, 1, 2, 4, 5, 3)
        self.labels = samples.labels.to(device)

    def take(self, indices: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at these indices; ``places`` (3, n) are rows, columns and mirroring."""
        rows, columns, mirrored = places
        crops = self._windows[indices, rows, columns]
        crops = torch.where(mirrored.bool().view(-1, 1, 1, 1), crops.flip(2), crops)
        return crops.permute(0, 3, 1, 2), self.labels.index_select(0, indices)


class Batches:
    """An endless stream of training batches, drawn from its own generator.

    Every epoch is a new shuffle; its last, incomplete batch is left out. Random numbers are drawn
    on the CPU for a whole epoch, so the batches are the same on every device.
    """

    def __init__(
        self, samples: DeviceSamples | CroppedSamples, pixels: Pixels, batch_size: int, seed: int
    ) -> None:
        size = len(samples.labels)
        if batch_size > size:
            raise TrainingError(
                f"batch_size={batch_size}: larger than the {size} training images: "
                f"choose at most {size}"
            )
        self._samples = samples
        self._pixels = pixels
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._batches_per_epoch = size // batch_size
        self._position = self._batches_per_epoch
        self._epoch_start = self._generator.get_state()

    def state_dict(self) -> dict[str, Any]:
        """The position: the generator before this epoch's draws, and the batches since then."""
        begun = self._position < self._batches_per_epoch
        return {
            "generator": self._epoch_start.clone() if begun else self._generator.get_state(),
            "position": self._position if begun else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position with the same batches."""
        self._generator.set_state(state["generator"].cpu())
        self._position = self._batches_per_epoch
        if state["position"] is not None:
            self._start_epoch()
            self._position = state["position"]

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: images (n, C, H, W), float32, and labels (n,)."""
        if self._position == self._batches_per_epoch:
            self._start_epoch()
        index = self._position
        self._position += 1
        if isinstance(self._samples, CroppedSamples):
            images, labels = self._samples.take(self._order[index], self._places[index])
        else:
            images, labels = self._samples.take(self._order[index])
        return self._pixels(images), labels

    def _start_epoch(self) -> None:
        device = self._samples.labels.device
        used = self._batches_per_epoch * self._batch_size
        self._epoch_start = self._generator.get_state()
        order = torch.randperm(len(self._samples.labels), generator=self._generator)[:used]
        self._order = order.view(-1, self._batch_size).to(device)
        self._position = 0
        if isinstance(self._samples, CroppedSamples):
            places = torch.randint(2 * PADDING + 1, (3, used), generator=self._generator)
            places[2].random_(2, generator=self._generator)
            batched = places.view(3, -1, self._batch_size).transpose(0, 1)
            self._places = batched.contiguous().to(device)
