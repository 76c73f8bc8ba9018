from __future__ import annotations

import io
import struct
import tracemalloc
import urllib.request

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lrbench_hpo.errors import DataError, UnknownNameError
from lrbench_hpo.training import Samples, load_data
from lrbench_hpo.training.data.load import data_root, split


class Own(torch.utils.data.Dataset):
    classes = ("a", "b")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def numbered(data):
    """Each split's images as a list of bytes, to tell samples apart."""
    parts = (data.train, data.validation, data.test)
    return [[image.numpy().tobytes() for image in part.images] for part in parts]


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root, train=60, test=20):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for name, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return folder


def write_folder(root, classes=("cat", "dog"), count=5):
    random = np.random.default_rng(2)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_digits_are_split_by_class_with_no_sample_twice(digits):
    train, validation, test = numbered(digits)
    assert (len(train), len(validation), len(test)) == (1221, 216, 360)
    assert not set(train) & set(validation)
    assert not (set(train) | set(validation)) & set(test)
    for part in (digits.train, digits.validation, digits.test):
        shares = torch.bincount(part.labels).double() / len(part)
        assert (shares - 0.1).abs().max() < 0.015
    assert digits.image_shape == (1, 16, 16)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.max() == 255


def test_the_seed_chooses_the_validation_split_and_nothing_else(digits):
    first, again, other = numbered(digits), numbered(load_data("digits")), None
    other = numbered(load_data("digits", seed=1))
    assert first == again
    assert first[2] == other[2]
    assert first[1] != other[1]
    assert sorted(first[0] + first[1]) == sorted(other[0] + other[1])


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 2**32 - 1),
)
def test_a_split_loses_nothing_and_takes_its_share_of_each_class(labels, share, seed):
    samples = Samples(torch.arange(len(labels)).view(-1, 1, 1, 1), torch.tensor(labels))
    if not 1 <= np.ceil(round(len(labels) * share, 6)) < len(labels):
        with pytest.raises(DataError, match="cannot be split"):
            split(samples, share, seed)
        return
    rest, part = split(samples, share, seed)
    assert sorted([*rest.images.flatten(), *part.images.flatten()]) == list(range(len(labels)))
    assert len(part) == np.ceil(round(len(labels) * share, 6))
    for label in set(labels):
        chosen = (part.labels == label).sum().item()
        assert abs(chosen - share * labels.count(label)) <= 1


@pytest.mark.parametrize(("share", "size"), [(None, 6), (0.5, 20)])
def test_own_test_split_is_kept_and_validation_is_a_share_of_train(tmp_path, share, size):
    arrays = {
        "train_images": np.zeros((40, 8, 8), np.uint8),
        "train_labels": np.arange(40) % 2,
        "test_images": np.ones((10, 8, 8), np.uint8),
        "test_labels": np.arange(10) % 2,
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    data = load_data(tmp_path / "mine.npz", validation_share=share)
    assert (data.name, data.classes) == ("mine", ("0", "1"))
    assert (len(data.train), len(data.validation), len(data.test)) == (40 - size, size, 10)
    assert data.test.images.min() == 1


def test_mnist_files_are_read_by_torchvision(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    data = load_data("MNIST", tmp_path)
    assert (data.name, data.num_classes, data.image_shape) == ("mnist", 10, (1, 28, 28))
    assert len(data.test) == 20
    monkeypatch.setenv("LRBENCH_DATA", str(tmp_path))
    assert numbered(load_data("mnist")) == numbered(data)


def test_the_data_folder_is_the_given_one_or_the_environments_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LRBENCH_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "x") == tmp_path / "x"
    monkeypatch.delenv("LRBENCH_DATA")
    assert "lrbench_hpo" in str(data_root())


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "float"])
def test_npz_layouts_mean_the_same_images(tmp_path, pictures, layout):
    images, labels = pictures
    stored = {
        "NHWC": images,
        "NCHW": images.transpose(0, 3, 1, 2),
        "NHW": images[..., 0],
        "float": images / 255,
    }[layout]
    np.savez(tmp_path / "mine.npz", train_images=stored, train_labels=labels)
    data = load_data("mine", tmp_path)
    assert data.image_shape == ((1 if layout == "NHW" else 3), 20, 20)
    whole = torch.cat([data.train.images, data.validation.images, data.test.images])
    unit = whole.float() / (1 if layout == "float" else 255)
    expected = images[..., :1] if layout == "NHW" else images
    assert unit.sum().item() == pytest.approx(expected.sum() / 255, rel=1e-4)


def test_jpegs_in_an_npz_are_decoded_in_order(tmp_path):
    # Flat colours survive compression, so each image tells its number.
    jpegs = []
    for index in range(40):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (6 * index,) * 3).save(stream, "JPEG")
        jpegs.append(np.frombuffer(stream.getvalue(), np.uint8))
    arrays = {
        "train_jpeg": np.concatenate(jpegs),
        "train_offsets": np.cumsum([0, *map(len, jpegs)]),
        "train_labels": np.arange(40, dtype=np.uint8) % 2,
        "classes": np.array(["even", "odd"]),
    }
    np.savez(tmp_path / "flat_jpeg.npz", **arrays)
    data = load_data(str(tmp_path / "flat_jpeg.npz"))
    assert (data.name, data.classes) == ("flat_jpeg", ("even", "odd"))
    for part in (data.train, data.validation, data.test):
        numbers = (part.images.float().mean((1, 2, 3)) / 6).round()
        assert torch.equal(numbers % 2, part.labels.float())


def test_a_folder_of_class_folders_is_resized_and_split(tmp_path):
    write_folder(tmp_path / "pets")
    data = load_data(tmp_path / "pets", image_size=10)
    assert (data.name, data.classes, data.image_shape) == ("pets", ("cat", "dog"), (3, 10, 10))
    assert sum(map(len, (data.train, data.validation, data.test))) == 10


def test_a_folder_with_splits_keeps_them(tmp_path):
    for name, count in (("train", 4), ("val", 3), ("test", 2)):
        write_folder(tmp_path / "pets" / name, count=count)
    data = load_data("pets", tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 6, 4]
    assert numbered(load_data("folder", tmp_path / "pets")) == numbered(data)


def test_a_users_dataset_arrays_and_splits(pictures):
    images, labels = pictures
    pil = Own([(Image.fromarray(image), int(y % 2)) for image, y in zip(*pictures, strict=True)])
    data = load_data(pil)
    assert (data.name, data.classes, data.image_shape) == ("own", ("a", "b"), (3, 20, 20))
    tensors = Own([(torch.rand(1, 8, 8) - 0.5, torch.tensor(i % 2)) for i in range(20)])
    assert load_data(tensors, name="mine").train.images.dtype == torch.float32
    pair = load_data((images, labels))
    assert pair.num_classes == 4
    splits = load_data({"train": (images, labels), "test": (images[:8], labels[:8])}, name="m")
    assert (splits.name, len(splits.test), len(splits.train) + len(splits.validation)) == (
        "m",
        8,
        40,
    )
    assert load_data(pair) is pair


def test_missing_data_says_where_it_looked_and_what_helps(tmp_path):
    with pytest.raises(DataError) as caught:
        load_data("cifar10", tmp_path)
    message = str(caught.value)
    assert all(word in message for word in ("cifar10", str(tmp_path), "--data", "--download"))
    assert "\n" not in message
    with pytest.raises(UnknownNameError, match="did you mean mnist"):
        load_data("minst", tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load_data("nowhere/mine.npz", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_download_without_network_says_what_failed(tmp_path, monkeypatch, name):
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # nobody listens there
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    with pytest.raises(DataError) as caught:
        load_data(name, tmp_path, download=True)
    message = str(caught.value)
    assert all(word in message for word in (name, "cannot be downloaded", "network", "--data DIR"))
    assert "delete" not in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\0\0\x08\x03" + b"\0" * 12 + b"xyz"])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist_files_are_one_line(tmp_path, damage, file):
    (write_mnist(tmp_path) / file).write_bytes(damage)
    with pytest.raises(DataError, match="mnist") as caught:
        load_data("mnist", tmp_path)
    assert "\n" not in str(caught.value)


IMAGES = np.zeros((20, 8, 8), np.uint8)
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": IMAGES}, "expected train_images"),
        ({"train_labels": LABELS}, "no train images"),
        ({"train_images": IMAGES, "train_labels": LABELS[:5]}, "one whole number an image"),
        ({"train_images": IMAGES, "train_labels": LABELS * 1.0}, "one whole number an image"),
        ({"train_images": IMAGES, "train_labels": LABELS - 1}, "label -1"),
        ({"train_images": IMAGES, "train_labels": LABELS + 1}, "label 0"),
        ({"train_images": IMAGES, "train_labels": LABELS * 0}, "at least 2"),
        ({"train_images": IMAGES[0], "train_labels": LABELS}, "expected .n, H, W"),
        ({"train_images": IMAGES[..., None, None], "train_labels": LABELS}, "1 or 3 channels"),
        ({"train_images": IMAGES + 9.0, "train_labels": LABELS}, "expected floats in"),
        (
            {"train_images": np.full((20, 8, 8), np.nan), "train_labels": LABELS},
            "expected floats in",
        ),
        ({"train_images": IMAGES.astype(int), "train_labels": LABELS}, "expected uint8"),
        ({"train_images": IMAGES, "train_labels": LABELS.astype(object)}, "Python objects"),
        (
            {"train_images": IMAGES, "train_labels": LABELS, "classes": np.array(["one"])},
            "expected labels from 0 to 0",
        ),
        (
            {
                "train_images": IMAGES,
                "train_labels": LABELS,
                "test_images": IMAGES[:, :4],
                "test_labels": LABELS,
            },
            "expected one shape",
        ),
        (
            {"train_images": IMAGES, "train_labels": LABELS, "test_labels": LABELS},
            "no test images",
        ),
        (
            {
                "train_jpeg": IMAGES.ravel(),
                "train_offsets": np.array([0, 9, 5]),
                "train_labels": LABELS[:2],
            },
            "offsets that rise",
        ),
        (
            {
                "train_jpeg": IMAGES.ravel(),
                "train_offsets": np.array([0, 5, 9]),
                "train_labels": LABELS[:2],
            },
            "cannot be decoded",
        ),
    ],
)
def test_bad_npz_files_are_one_line(tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=words) as caught:
        load_data(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz_are_one_line(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", IMAGES)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("text.npz", "array.npz"):
        with pytest.raises(DataError, match=r"it is no \.npz archive") as caught:
            load_data(tmp_path / name)
        assert "allow_pickle" not in str(caught.value)
    np.savez_compressed(tmp_path / "whole.npz", train_images=IMAGES, train_labels=LABELS)
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[60:80] = b"\xff" * 20
    (tmp_path / "damaged.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_data(tmp_path / "damaged.npz")


@pytest.mark.parametrize(
    ("label", "words"), [(10**9, "has label 2, but one has 1000000000"), (-7, "label -7: expected")]
)
def test_labels_far_out_of_range_cost_no_memory(tmp_path, label, words):
    labels = LABELS.copy()
    labels[3] = label
    np.savez(tmp_path / "far.npz", train_images=IMAGES, train_labels=labels)
    own = Own([(image, int(y)) for image, y in zip(IMAGES, labels, strict=True)])
    own.classes = None
    for dataset in (tmp_path / "far.npz", own, (IMAGES, labels)):
        tracemalloc.start()
        with pytest.raises(DataError, match=words) as caught:
            load_data(dataset)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6
        assert "\n" not in str(caught.value)


def test_published_names_must_have_the_published_classes(tmp_path):
    np.savez(tmp_path / "cifar10.npz", train_images=IMAGES, train_labels=LABELS)
    with pytest.raises(DataError, match="cifar10 has 10"):
        load_data(tmp_path / "cifar10.npz")


def test_bad_folders_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one folder a class"):
        load_data(tmp_path / "empty")
    hollow = write_folder(tmp_path / "hollow")
    (hollow / "cow").mkdir()
    (hollow / "cow" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"hollow/cow: a class folder without a picture"):
        load_data(hollow)
    broken = write_folder(tmp_path / "broken")
    (broken / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png"):
        load_data(broken)
    write_folder(tmp_path / "differ" / "train")
    write_folder(tmp_path / "differ" / "test", classes=("cat", "cow"))
    with pytest.raises(DataError, match="same class folders"):
        load_data(tmp_path / "differ")


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        (Own([]), {}, "empty"),
        (Own([1, 2]), {}, "no pair"),
        (Own([(np.zeros((8, 8)), 0), (np.zeros((9, 8)), 1)]), {}, "different shapes"),
        (42, {}, "is no data set"),
        ({"tran": (IMAGES, LABELS)}, {}, "expected 'train'"),
        ((np.full((20, 8, 8), np.inf), LABELS), {}, "NaN or infinity"),
        ("digits", {"validation_share": 0}, "between 0 and 1"),
        ("digits", {"validation_share": 1.5}, "between 0 and 1"),
        ("digits", {"seed": -1}, "whole number"),
        ((IMAGES[:2], LABELS[:2]), {}, "cannot be split"),
    ],
)
def test_bad_datasets_from_python_are_one_line(dataset, options, words):
    with pytest.raises(DataError, match=words) as caught:
        load_data(dataset, **options)
    assert "\n" not in str(caught.value)
