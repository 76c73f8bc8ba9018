"""The small real tasks of the transfer benchmark: data, networks, recipes and measured policies.

Each trains in a fraction of a second on one core, on real images, and differs from the others in
data, network, optimizer, batch size or budget. What `pool.py` measured on them comes with
the package, one file a task, which `lrbench-hpo db import --measured` reads.
"""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from torch import Tensor, nn

from lrbench_hpo.exchange.files import Line
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.rows import Found
from lrbench_hpo.exchange.shipped import FOLDER
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import ImageData, Trainer, data_root, load_data

POOLS = Path(str(files("lrbench_hpo.database"))) / FOLDER
SPACE_FILE = Path(__file__).with_name("space.yaml")
EVALUATIONS = 3  # of a training: at LR minima, or thirds of the budget

Shape = Sequence[int]
Arrays = tuple[Any, Any]


# --- networks: small enough for a fraction of a second, of the usual kinds --------------


def mlp(hidden: Sequence[int], num_classes: int, image_shape: Shape) -> nn.Module:
    """ReLU layers of these widths."""
    sizes = [int(np.prod(image_shape)), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


def lenet_like(channels: Sequence[int], num_classes: int, image_shape: Shape) -> nn.Module:
    """Two 5x5 convolutions, each halving the image by its stride, and a hidden layer of 32."""
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(image_shape[0], first, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(32),
        nn.ReLU(inplace=True),
        nn.Linear(32, num_classes),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images), inplace=True)


def resnet6(width: int, num_classes: int, image_shape: Shape) -> nn.Module:
    """Two residual blocks with BatchNorm, on an image halved by the first convolution."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


# --- data: fixed subsets, the same everywhere -----------------------------------------------------


def _digits() -> dict[str, Arrays]:
    from sklearn.datasets import load_digits  # takes a second to load

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    return _parts(images[order], bunch.target[order], 900, 700)


def _mnist() -> dict[str, Arrays]:
    import torchvision  # takes a second to load

    made = torchvision.datasets.MNIST(root=str(data_root()))
    return _parts(_halved(made.data[:6_000].numpy()), made.targets[:6_000].numpy(), 4_000, 1_000)


def _cifar() -> dict[str, Arrays]:
    with np.load(data_root() / "cifar10_jpeg.npz") as archive:
        stream, offsets = archive["train_jpeg"], archive["train_offsets"][:6_001]
        labels = archive["train_labels"][:6_000]
    data = stream[: offsets[-1]].tobytes()
    pictures = [
        np.asarray(Image.open(io.BytesIO(data[start:stop])).convert("RGB"))
        for start, stop in itertools.pairwise(offsets)
    ]
    images = np.ascontiguousarray(_halved(np.stack(pictures)).transpose(0, 3, 1, 2))
    return _parts(images, labels, 4_000, 1_000)


def _halved(images: Any) -> Any:
    """Means of 2x2 pixels."""
    count, height, width = images.shape[:3]
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, *images.shape[3:])
    return np.round(blocks.mean((2, 4))).astype(np.uint8)


def _parts(images: Any, labels: Any, train: int, validation: int) -> dict[str, Arrays]:
    ends = {"train": (0, train), "validation": (train, train + validation)}
    ends["test"] = (train + validation, len(images))
    return {name: (images[a:b], labels[a:b].astype(np.int64)) for name, (a, b) in ends.items()}


_DATA: Mapping[str, Callable[[], dict[str, Arrays]]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10jpeg": _cifar,
}


@cache
def data(name: str) -> ImageData:
    """A subset with its fixed splits, under the data set's own name."""
    return load_data(_DATA[name](), name=name)


# --- tasks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransferTask:
    """One task of the benchmark.

    Attributes:
        dataset: a name of the data above.
        model: the network's name in the records.
        network: its factory.
        recipe: how it is trained; `max_iterations` is the budget of a trial.
        cheap: whether it is searched with many seeds.
    """

    dataset: str
    model: str
    network: Callable[..., nn.Module]
    recipe: Recipe
    cheap: bool

    @property
    def budget(self) -> int:
        return self.recipe.max_iterations

    @cache  # noqa: B019 - there are eight of them
    def trainer(self) -> Trainer:
        """Trains the task; its data is loaded once a process."""
        return Trainer(
            data(self.dataset),
            self.network,
            self.recipe,
            device="cpu",
            task=Task(self.dataset, self.model, init=self.recipe.init),
            evaluations=EVALUATIONS,
        )


def _recipe(optimizer: str, momentum: float, batch_size: int, iterations: int) -> Recipe:
    return Recipe(optimizer, momentum, 0.0, batch_size, max_iterations=iterations)


TASKS: Mapping[str, TransferTask] = {
    "digits-mlp-sgd": TransferTask(
        "digits", "mlp64", partial(mlp, (64,)), _recipe("sgd", 0.9, 32, 100), cheap=True
    ),
    "mnist-mlp-adam": TransferTask(
        "mnist", "mlp64", partial(mlp, (64,)), _recipe("adam", 0.9, 64, 120), cheap=True
    ),
    "digits-cnn-nesterov": TransferTask(
        "digits", "cnn2", partial(lenet_like, (8, 16)), _recipe("nesterov", 0.9, 32, 80), True
    ),
    "mnist-mlp-plain": TransferTask(
        "mnist", "mlp48x2", partial(mlp, (48, 48)), _recipe("sgd", 0.0, 32, 150), cheap=True
    ),
    "mnist-cnn-sgd": TransferTask(
        "mnist", "cnn2", partial(lenet_like, (8, 16)), _recipe("sgd", 0.9, 64, 120), cheap=False
    ),
    "digits-resnet-nesterov": TransferTask(
        "digits", "resnet6", partial(resnet6, 8), _recipe("nesterov", 0.9, 32, 100), cheap=False
    ),
    "cifar-mlp-sgd": TransferTask(
        "cifar10jpeg", "mlp64", partial(mlp, (64,)), _recipe("sgd", 0.9, 128, 250), cheap=False
    ),
    "cifar-cnn-adam": TransferTask(
        "cifar10jpeg", "cnn2", partial(lenet_like, (8, 16)), _recipe("adam", 0.9, 32, 160), False
    ),
}


def search_space(task: TransferTask) -> SearchSpace:
    """A space without prior knowledge: absolute LRs from 1e-4 to 3."""
    return load_space(SPACE_FILE).within(task.budget)


@cache
def pool(name: str) -> tuple[Run, ...]:
    """The measured runs of a task: 320 random policies at seed 0, some of them at 1 and 2 too."""
    with gzip.open(POOLS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [Line(number, text) for number, text in enumerate(file, start=1)]
    return tuple(cast(Found, row).run for row in jsonl.read(name, lines))
