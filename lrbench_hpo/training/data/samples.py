"""Labelled images as tensors, checked once when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrbench_hpo.errors import DataError


@dataclass(frozen=True, eq=False)
class Samples:
    """Images (n, C, H, W), uint8 or float32, and their labels (n,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Samples:
        """The samples at these indices."""
        return Samples(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class RawData:
    """The data of a source, before missing splits are made."""

    name: str
    classes: tuple[str, ...]
    train: Samples
    validation: Samples | None = None
    test: Samples | None = None


def make_samples(
    images: Any, labels: Any, where: str, *, channels_last: bool | None = None
) -> Samples:
    """Turn arrays into samples.

    Args:
        images: (n, H, W), (n, H, W, C) or (n, C, H, W); uint8, or finite floats, by convention
            in [0, 1]. C is 1 or 3.
        labels: (n,) whole numbers from 0.
        where: names the data in errors.
        channels_last: whether C comes last; if None, the shape decides.

    Raises:
        DataError: for another shape or type, values that are not finite, or negative labels.

    >>> make_samples(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], "mine").images.shape
    torch.Size([2, 3, 8, 8])
    """
    pixels = _as_tensor(images, f"{where} images")
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.ndim == 4:
        last = pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3)
        if last if channels_last is None else channels_last:
            pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"{where}: images of shape {tuple(pixels.shape)}: expected (n, H, W), (n, H, W, C) "
            "or (n, C, H, W) with 1 or 3 channels"
        )
    if pixels.dtype != torch.uint8:
        if not pixels.is_floating_point():
            raise DataError(f"{where}: images of {pixels.dtype}: expected uint8 or float")
        pixels = pixels.float()
        if not bool(torch.isfinite(pixels).all()):
            raise DataError(f"{where}: images hold NaN or infinity: expected finite pixels")
    numbers = _as_tensor(labels, f"{where} labels")
    if numbers.shape != pixels.shape[:1] or numbers.is_floating_point():
        raise DataError(
            f"{where}: labels of shape {tuple(numbers.shape)} and {numbers.dtype} for "
            f"{len(pixels)} images: expected one whole number an image"
        )
    if int(numbers.min()) < 0:
        raise DataError(f"{where}: label {int(numbers.min())}: expected labels that count from 0")
    return Samples(pixels.contiguous(), numbers.long())


def make_raw_data(
    name: str,
    classes: Sequence[str] | None,
    train: Samples,
    validation: Samples | None = None,
    test: Samples | None = None,
) -> RawData:
    """Put splits together, with equal shapes and labels within the classes.

    Args:
        name: the data set's name.
        classes: the classes' names; if None, one for each label from 0 to the highest.
        train: training samples.
        validation: validation samples, if the source has its own.
        test: test samples, if the source has its own.

    Raises:
        DataError: if the splits' shapes differ, or a label has no class.
    """
    if classes is None:
        classes = [str(label) for label in _labels_without_gaps(name, train)]
    for split_name, samples in (("train", train), ("validation", validation), ("test", test)):
        if samples is None:
            continue
        if samples.images.shape[1:] != train.images.shape[1:]:
            raise DataError(
                f"{name}: {split_name} images are {tuple(samples.images.shape[1:])}, "
                f"training images {tuple(train.images.shape[1:])}: expected one shape"
            )
        if samples.images.dtype != train.images.dtype:
            raise DataError(
                f"{name}: {split_name} images are {samples.images.dtype}, training images "
                f"{train.images.dtype}: expected one type"
            )
        if int(samples.labels.max()) >= len(classes):
            raise DataError(
                f"{name}: {split_name} label {int(samples.labels.max())} with {len(classes)} "
                f"classes: expected labels from 0 to {len(classes) - 1}"
            )
    if len(classes) < 2:
        raise DataError(f"{name}: found {len(classes)} class: a classifier needs at least 2")
    return RawData(name, tuple(classes), train, validation, test)


def _labels_without_gaps(name: str, train: Samples) -> range:
    """The labels from 0 to the highest, if none is missing; a huge one takes no memory."""
    found = torch.unique(train.labels)  # sorted
    gaps = torch.nonzero(found != torch.arange(len(found)))
    if len(gaps):
        raise DataError(
            f"{name}: no training image has label {int(gaps[0])}, but one has {int(found[-1])}: "
            "labels count from 0 without gaps"
        )
    return range(len(found))


def _as_tensor(values: Any, where: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: values of type {array.dtype}: expected numbers")
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array))
