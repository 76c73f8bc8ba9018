"""Sources of images: a table of names, paths, and objects from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import DataError, UnknownNameError
from lrbench_hpo.training.data import files
from lrbench_hpo.training.data.samples import RawData, Samples, make_raw_data, make_samples

_DIGITS_SIDE = 16  # 8x8 is too small for two 5x5 convolutions
_DIGITS_WHITE = 16.0
_SPLITS = ("train", "validation", "test")
_NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError)
_TORCHVISION_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    AssertionError,
    *_NETWORK_ERRORS,
)


@dataclass(frozen=True)
class Options:
    """Location of a source's files, and whether they may be downloaded."""

    root: Path
    download: bool = False
    image_size: int = 32


Source = Callable[[Options], RawData]


def digits(options: Options) -> RawData:
    """Scikit-learn's 1,797 handwritten digits (UCI), enlarged from 8x8 to 16x16 pixels."""
    from sklearn.datasets import load_digits  # takes a second to load

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / _DIGITS_WHITE)
    size = (_DIGITS_SIDE, _DIGITS_SIDE)
    images = F.interpolate(small, size, mode="bilinear", align_corners=False).round()
    samples = make_samples(images.clamp(0, 255).to(torch.uint8), bunch.target, "digits")
    return make_raw_data("digits", [str(label) for label in range(10)], samples)


def _torchvision(name: str, class_name: str, splits: tuple[dict[str, Any], ...]) -> Source:
    """A data set of torchvision, whose ``data`` attribute holds all images."""

    def load_splits(options: Options) -> RawData:
        import torchvision  # takes a second to load

        made = getattr(torchvision.datasets, class_name)
        try:
            train, test = (
                made(root=str(options.root), download=options.download, **split) for split in splits
            )
        except _TORCHVISION_ERRORS as error:
            raise _unreadable(name, class_name, options, error) from error
        classes = getattr(train, "classes", None) or [str(label) for label in range(10)]
        return make_raw_data(
            name,
            classes,
            _torchvision_samples(train, f"{name} train"),
            test=_torchvision_samples(test, f"{name} test"),
        )

    return load_splits


_BY_TRAIN = ({"train": True}, {"train": False})
_BY_SPLIT = ({"split": "train"}, {"split": "test"})

SOURCES: Mapping[str, Source] = {
    "digits": digits,
    "mnist": _torchvision("mnist", "MNIST", _BY_TRAIN),
    "fashionmnist": _torchvision("fashionmnist", "FashionMNIST", _BY_TRAIN),
    "kmnist": _torchvision("kmnist", "KMNIST", _BY_TRAIN),
    "cifar10": _torchvision("cifar10", "CIFAR10", _BY_TRAIN),
    "cifar100": _torchvision("cifar100", "CIFAR100", _BY_TRAIN),
    "svhn": _torchvision("svhn", "SVHN", _BY_SPLIT),
    "folder": lambda options: files.load_folder(options.root, options.image_size),
    "npz": lambda options: files.load_npz(options.root),
}


def load(dataset: Any, options: Options) -> RawData:
    """Load a data set by name, by path, or from a Python object.

    Raises:
        UnknownNameError: for a name that is neither in `SOURCES` nor below the root.
        DataError: for data that is missing, unreadable or inconsistent.
    """
    if isinstance(dataset, str | os.PathLike):
        return _load_named(os.fspath(dataset), options)
    if isinstance(dataset, Mapping):
        wrong = sorted(set(dataset) - set(_SPLITS))
        if wrong or "train" not in dataset:
            raise DataError(
                f"splits {', '.join(map(repr, dataset))}: expected 'train' and, if there are any, "
                "'validation' and 'test'"
            )
        splits = {name: _from_python(part, name) for name, part in dataset.items()}
        return make_raw_data(
            _python_name(dataset["train"]), getattr(dataset["train"], "classes", None), **splits
        )
    name = _python_name(dataset)
    return make_raw_data(name, getattr(dataset, "classes", None), _from_python(dataset, name))


def _load_named(dataset: str, options: Options) -> RawData:
    name = canonical_name(dataset)
    if name in SOURCES:
        return SOURCES[name](options)
    given = Path(dataset).expanduser()
    for path in (given, options.root / given, options.root / f"{dataset}.npz"):
        if path.is_file():
            return files.load_npz(path)
        if path.is_dir():
            return files.load_folder(path, options.image_size)
    if given.suffix or os.sep in dataset:
        raise DataError(
            f"{dataset}: no such file or directory, here or in {options.root}: "
            "give the path of a .npz file or of a folder of images"
        )
    hint = f"A .npz file or a folder of images may be given by path, or lie in {options.root}"
    raise UnknownNameError.among("dataset", dataset, SOURCES, hint)


def _from_python(dataset: Any, where: str) -> Samples:
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        return make_samples(dataset[0], dataset[1], where)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"{where}: a {type(dataset).__name__} is no data set: expected a name, a path, a "
            "map-style Dataset of (image, label) or a pair (images, labels)"
        )
    if not len(dataset):
        raise DataError(f"{where}: the data set is empty: expected pairs (image, label)")
    images, labels = [], []
    for index in range(len(dataset)):
        try:
            image, label = dataset[index]
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: item {index} is no pair (image, label)") from error
        images.append(_array(image))
        labels.append(int(label))
    if len({image.shape for image in images}) > 1:
        shapes = sorted({str(image.shape) for image in images})
        raise DataError(
            f"{where}: images of different shapes, {shapes[0]} and {shapes[1]}: "
            "resize them to one shape in the Dataset"
        )
    return make_samples(np.stack(images), np.array(labels), where)


def _array(image: Any) -> np.ndarray[Any, Any]:
    if isinstance(image, torch.Tensor):
        return image.detach().cpu().numpy()
    if hasattr(image, "convert") and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image)


def _python_name(dataset: Any) -> str:
    return "data" if isinstance(dataset, tuple | list) else type(dataset).__name__.lower()


def _torchvision_samples(dataset: Any, where: str) -> Samples:
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return make_samples(dataset.data, labels, where)


def _unreadable(name: str, class_name: str, options: Options, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
    # With several mirrors torchvision reports the last one's failure only as text.
    if isinstance(error, _NETWORK_ERRORS) or reason.startswith("Error downloading"):
        return DataError(
            f"{name}: torchvision's {class_name} cannot be downloaded ({reason}): check the "
            "network, or point --data DIR (or LRBENCH_DATA) to its files"
        )
    advice = (
        "delete its files there and try again"
        if options.download
        else "point --data DIR (or LRBENCH_DATA) to it, or let --download fetch it"
    )
    return DataError(
        f"{name}: torchvision's {class_name} cannot be read in {options.root} ({reason}): {advice}"
    )
