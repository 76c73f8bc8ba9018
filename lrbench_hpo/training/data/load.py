"""Image data with its three splits, all in memory."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import DataError
from lrbench_hpo.records.tasks import dataset_info
from lrbench_hpo.training.data import sources
from lrbench_hpo.training.data.samples import RawData, Samples

DEFAULT_VALIDATION_SHARE = 0.1
MAX_DEFAULT_VALIDATION = 5_000
_SMALL_SET, _SMALL_SET_SHARE = 5_000, 0.15
_TEST_SHARE = 0.2
# A test split made here never depends on the user's seed, so that results stay comparable.
_TEST_SEED = 20_190_818


@dataclass(frozen=True)
class ImageData:
    """A data set of labelled images, split into train, validation and test.

    Attributes:
        name: the name in records of its runs.
        classes: the classes' names; label i means ``classes[i]``.
        train: the samples that networks are trained on.
        validation: the samples that LR policies are compared on.
        test: the samples that the best policy is measured on, once.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    validation: Samples
    test: Samples

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_data(
    dataset: Any,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    seed: int = 0,
    validation_share: float | None = None,
    image_size: int = 32,
    name: str | None = None,
) -> ImageData:
    """Load images and split them; the seed chooses the validation split, never the test split.

    Args:
        dataset: a name of `sources.SOURCES`, a ``.npz`` file, a folder of images, a name of such a
            file or folder below ``root``, a map-style torch Dataset of (image, label), a pair
            (images, labels), a mapping of split names (train, validation, test) to those, or an
            `ImageData`, which is returned as it is.
        root: directory with the data; default: the environment's ``LRBENCH_DATA``, else a
            directory in the user's cache.
        download: let torchvision download missing data sets.
        seed: seed of the validation split.
        validation_share: share of the training samples for validation, in (0, 1); default 0.1
            (0.15 below 5,000 samples) and at most 5,000 samples.
        image_size: side in pixels to which a folder's images are resized.
        name: the name to record; default: that of the data set.

    Raises:
        DataError: for data that is missing, unreadable or inconsistent.
        UnknownNameError: for an unknown name; the message has the nearest known ones.

    >>> data = load_data("digits")
    >>> data.image_shape, len(data.train), len(data.validation), len(data.test)
    ((1, 16, 16), 1221, 216, 360)
    """
    if isinstance(dataset, ImageData):
        return dataset
    if validation_share is not None and not 0 < validation_share < 1:
        raise DataError(f"validation_share={validation_share!r}: expected a share between 0 and 1")
    if checks.whole("seed", seed, 0, error=DataError) >= 2**32:
        checks.refuse("seed", seed, "expected a whole number of at most 2^32 - 1", error=DataError)
    options = sources.Options(data_root(root), download, image_size)
    raw = sources.load(dataset, options)
    if name is not None:
        raw = dataclasses.replace(raw, name=name)
    _check_published_classes(raw)
    train, test = raw.train, raw.test
    if test is None:
        train, test = split(train, _TEST_SHARE, _TEST_SEED, raw.name)
    validation = raw.validation
    if validation is None:
        share = _default_share(len(train)) if validation_share is None else validation_share
        train, validation = split(train, share, seed, raw.name)
    return ImageData(raw.name, raw.classes, train, validation, test)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Directory with the data: the one given, ``LRBENCH_DATA``, or the user's cache.

    >>> data_root("pictures").name
    'pictures'
    """
    given = root or os.environ.get("LRBENCH_DATA")
    if given:
        return Path(given).expanduser()
    return Path(platformdirs.user_cache_dir("lrbench_hpo"), "data")


def split(samples: Samples, share: float, seed: int, name: str = "data") -> tuple[Samples, Samples]:
    """Split samples at random, every class by the same share: (the rest, the share).

    Args:
        samples: what to split.
        share: share of the second part, in (0, 1).
        seed: seed of the choice.
        name: the data set's name, for the error.

    Raises:
        DataError: if one of the parts would be empty.

    >>> samples = Samples(torch.zeros(10, 1, 2, 2), torch.tensor([0, 1] * 5))
    >>> [sorted(part.labels.tolist()) for part in split(samples, 0.4, seed=0)]
    [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1]]
    """
    # numpy guarantees RandomState's stream, so a seed means the same split in every version.
    random = np.random.RandomState(seed)
    labels = samples.labels.numpy()
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Stratified by walking through the samples, sorted by class: sample i is chosen where
    # ceil(i * share) steps up, which is every 1/share-th, so each class gives its share, rounded.
    steps = np.ceil(np.round(np.arange(len(order) + 1) * share, 6))
    chosen = np.diff(steps) > 0
    rest, part = np.sort(order[~chosen]), np.sort(order[chosen])
    if not len(rest) or not len(part):
        raise DataError(
            f"{name}: {len(labels)} images cannot be split by a share of {share:g}: "
            "give more images or another validation share"
        )
    return samples.take(torch.from_numpy(rest)), samples.take(torch.from_numpy(part))


def _default_share(num_samples: int) -> float:
    if num_samples < _SMALL_SET:
        return _SMALL_SET_SHARE
    return min(DEFAULT_VALIDATION_SHARE, MAX_DEFAULT_VALIDATION / num_samples)


def _check_published_classes(raw: RawData) -> None:
    info = dataset_info(raw.name)
    if info is not None and info.num_classes != len(raw.classes):
        raise DataError(
            f"{raw.name}: found {len(raw.classes)} classes, but {canonical_name(raw.name)} has "
            f"{info.num_classes}: check the files, or give the data another name"
        )
