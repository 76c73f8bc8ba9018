from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lrbench_hpo.training import ImageData, Trainer, load_data


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads, and lose on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="session")
def few(digits: ImageData) -> ImageData:
    """Digits for networks that train a few updates: 200 for training, 50 for validation."""
    train, validation = (
        samples.take(torch.arange(size))
        for samples, size in ((digits.train, 200), (digits.validation, 50))
    )
    return dataclasses.replace(digits, train=train, validation=validation)


@pytest.fixture(scope="session")
def digits_trainer(digits: ImageData) -> Trainer:
    return Trainer(digits, "mlp", device="cpu")


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """40 colour images of 4 classes, 20x20 pixels, as arrays."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (40, 20, 20, 3), dtype=np.uint8), np.arange(40) % 4
