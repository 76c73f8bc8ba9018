"""Images from the user's files: ``.npz`` archives and folders of pictures."""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lrbench_hpo.errors import DataError
from lrbench_hpo.training.data.samples import RawData, Samples, make_raw_data, make_samples

_NPZ_KEYS = "train_images and train_labels, or train_jpeg, train_offsets and train_labels"
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError)  # raised for broken files

Pixels = np.ndarray[Any, Any]

# Names of the splits' folders.
_FOLDER_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def load_npz(path: Path) -> RawData:
    """Read ``{train,test}_{images,labels}`` or ``{train,test}_{jpeg,offsets,labels}``.

    Images are uint8, or floats in [0, 1]. Image i of the JPEG form is
    ``jpeg[offsets[i]:offsets[i + 1]]``. ``classes`` (names) and the test split may be missing.
    Nothing is unpickled.

    Args:
        path: the file; its name without the suffix names the data set.

    Raises:
        DataError: for a file that is missing, is not a .npz, or lacks these arrays.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: give the path of a .npz file")
    try:
        archive = np.load(path, allow_pickle=False) if zipfile.is_zipfile(path) else None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        with archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        if "allow_pickle" in reason:  # numpy's advice would be to unpickle
            reason = "it holds an array of Python objects"
        raise DataError(
            f"{path}: not a readable .npz file ({reason}): write it again with numpy.savez"
        ) from error
    if "train_labels" not in arrays:
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}: expected {_NPZ_KEYS}")
    classes = [str(name) for name in arrays["classes"]] if "classes" in arrays else None
    has_test = "test_labels" in arrays
    return make_raw_data(
        path.stem,
        classes,
        _npz_samples(arrays, "train", path),
        test=_npz_samples(arrays, "test", path) if has_test else None,
    )


def _npz_samples(arrays: dict[str, Any], split: str, path: Path) -> Samples:
    where = f"{path} {split}"
    labels = arrays[f"{split}_labels"]
    if f"{split}_images" in arrays:
        images = arrays[f"{split}_images"]
        if (
            images.dtype.kind == "f"
            and images.size
            and not (0 <= images.min() <= images.max() <= 1)
        ):
            raise DataError(
                f"{where}: float images from {images.min():g} to {images.max():g}: "
                "expected floats in [0, 1], or uint8"
            )
        return make_samples(images, labels, where)
    if f"{split}_jpeg" in arrays and f"{split}_offsets" in arrays:
        stream, offsets = arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"]
        return make_samples(
            _decode_jpegs(stream, offsets, where), labels, where, channels_last=True
        )
    raise DataError(f"{path}: no {split} images: expected {_NPZ_KEYS.replace('train', split)}")


def _decode_jpegs(stream: Any, offsets: Any, where: str) -> Pixels:
    rising = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1
    if rising:
        offsets = offsets.astype(np.int64)
        rising = (
            bool((np.diff(offsets) > 0).all()) and 0 <= offsets[0] <= offsets[-1] <= stream.size
        )
    if stream.dtype != np.uint8 or stream.ndim != 1 or not rising:
        raise DataError(
            f"{where}: expected uint8 JPEG bytes and offsets that rise from 0 to their number"
        )
    view = memoryview(stream.tobytes())
    pieces = [view[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(_decode_jpeg, pieces, [where] * len(pieces), range(len(pieces))))
    if len({picture.shape for picture in pictures}) > 1:
        raise DataError(f"{where}: JPEGs of different sizes: expected images of one size")
    return np.stack(pictures)


def _decode_jpeg(data: memoryview, where: str, index: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    except _PILLOW_ERRORS as error:
        raise DataError(f"{where}: image {index} cannot be decoded: expected a JPEG") from error


def load_folder(path: Path, image_size: int) -> RawData:
    """Read pictures from one folder per class, below train/ (and val/, test/) if it exists.

    Args:
        path: the folder; its name names the data set.
        image_size: side in pixels to which every picture is resized.

    Raises:
        DataError: for a folder without pictures, a broken picture, or splits whose classes differ.
    """
    if image_size < 1:
        raise DataError(f"image_size={image_size}: expected a positive number of pixels")
    if not (path / "train").is_dir():
        samples, classes = _folder_samples(path, image_size)
        return make_raw_data(path.resolve().name, classes, samples)
    splits: dict[str, Samples] = {}
    names: Sequence[str] = ()
    for split, directory in _FOLDER_SPLITS.items():
        if not (path / directory).is_dir():
            continue
        splits[split], found = _folder_samples(path / directory, image_size)
        if names and list(found) != list(names):
            raise DataError(
                f"{path / directory}: classes {', '.join(found)}, but train has "
                f"{', '.join(names)}: give every split the same class folders"
            )
        names = found
    return make_raw_data(path.resolve().name, names, **splits)


def _folder_samples(path: Path, image_size: int) -> tuple[Samples, Sequence[str]]:
    from torchvision.datasets import ImageFolder  # takes a second to load

    try:
        folder = ImageFolder(str(path), allow_empty=True)
    except OSError as error:
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise DataError(
            f"{path}: no folder of images ({reason}): expected one folder a class with pictures, "
            "as in train/cat/1.png"
        ) from error
    empty = sorted(set(range(len(folder.classes))) - set(folder.targets))
    if empty:
        raise DataError(
            f"{path / folder.classes[empty[0]]}: a class folder without a picture: put pictures "
            "into it, or remove it"
        )
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda s: _picture(s[0], image_size), folder.samples))
    labels = [label for _, label in folder.samples]
    return make_samples(np.stack(pictures), labels, str(path), channels_last=True), folder.classes


def _picture(file: str, image_size: int) -> Pixels:
    try:
        with Image.open(file) as image:
            resized = image.convert("RGB").resize(
                (image_size, image_size), Image.Resampling.BILINEAR
            )
    except _PILLOW_ERRORS as error:
        raise DataError(f"{file}: not a readable picture: remove or replace it") from error
    return np.asarray(resized)
