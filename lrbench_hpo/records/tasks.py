"""What is known of data sets, models and training recipes: from two names to a `Task`.

Plain facts, no framework: the prior compares tasks with them, training takes its defaults from
them. Recipes of MNIST/LeNet, CIFAR-10/CNN3 and CIFAR-10/ResNet-32 are those of Table II in
Wu et al. 2019 (arXiv 1908.06477).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import UnknownNameError
from lrbench_hpo.records.run import Task

OPTIMIZERS = ("sgd", "nesterov", "adam", "adamw")

# The best constant LR one expects before anything was measured: the usual first try.
DEFAULT_REFERENCE_LR: Mapping[str, float] = {
    "sgd": 0.01,
    "nesterov": 0.01,
    "adam": 0.001,
    "adamw": 0.001,
}


@dataclass(frozen=True)
class DatasetInfo:
    """A data set: its family (sets of one family look alike), size and shape (C, H, W)."""

    family: str
    num_classes: int
    num_train: int
    image_shape: tuple[int, int, int]
    augment: bool = False  # mirrored and shifted images are still images of their class


@dataclass(frozen=True)
class ModelInfo:
    """A model: its family, its size (None: depends on the data) and its usual recipe."""

    family: str
    num_parameters: int | None
    recipe: Recipe


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, the LR policy apart.

    Attributes:
        optimizer: one of ``sgd``, ``nesterov``, ``adam``, ``adamw``.
        momentum: SGD's momentum, or Adam's beta1.
        weight_decay: L2 penalty (decoupled for ``adamw``).
        batch_size: images in an iteration.
        init: how weights start, for the record.
        max_iterations: the budget of one run.
        pixels: ``unit`` (x/255), ``caffe`` (0..255 minus the mean) or ``standard`` (per channel).
        augment: ``none`` or ``crop_flip`` (4 pixels of padding, random crop, mirror image).
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 100
    init: str = "default"
    max_iterations: int = 2_000
    pixels: str = "standard"
    augment: str = "none"


_LENET = Recipe(init="xavier", pixels="unit", max_iterations=10_000)
_CNN3 = Recipe(init="gaussian", weight_decay=0.004, pixels="caffe", max_iterations=70_000)
_RESNET = Recipe(
    optimizer="nesterov",
    weight_decay=1e-4,
    batch_size=128,
    init="MSRA",
    max_iterations=64_000,
    augment="crop_flip",
)
_MLP = Recipe(weight_decay=0.0, init="default", pixels="unit")

DATASETS: Mapping[str, DatasetInfo] = {
    "digits": DatasetInfo("digits", 10, 1_437, (1, 16, 16)),
    "mnist": DatasetInfo("digits", 10, 60_000, (1, 28, 28)),
    "kmnist": DatasetInfo("digits", 10, 60_000, (1, 28, 28)),
    "fashionmnist": DatasetInfo("digits", 10, 60_000, (1, 28, 28)),
    "svhn": DatasetInfo("photos", 10, 73_257, (3, 32, 32)),
    "cifar10": DatasetInfo("photos", 10, 50_000, (3, 32, 32), augment=True),
    "cifar10jpeg": DatasetInfo("photos", 10, 50_000, (3, 32, 32), augment=True),
    "cifar100": DatasetInfo("photos", 100, 50_000, (3, 32, 32), augment=True),
    "imagenet1k": DatasetInfo("photos", 1_000, 1_281_167, (3, 224, 224), augment=True),
}

MODELS: Mapping[str, ModelInfo] = {
    "lenet": ModelInfo("cnn", 431_080, _LENET),
    "cnn3": ModelInfo("cnn", 89_578, _CNN3),
    "mlp": ModelInfo("mlp", None, _MLP),
    "resnet20": ModelInfo("resnet", 269_722, _RESNET),
    "resnet32": ModelInfo("resnet", 464_154, _RESNET),
    "resnet44": ModelInfo("resnet", 658_586, _RESNET),
    "resnet56": ModelInfo("resnet", 853_018, _RESNET),
    "resnet110": ModelInfo("resnet", 1_727_962, _RESNET),
}

# Budgets of tasks whose data set is far smaller or larger than the recipe's own.
_BUDGETS: Mapping[tuple[str, str], int] = {
    ("mnist", "lenet"): 10_000,
    ("cifar10", "cnn3"): 70_000,
    ("cifar10", "resnet32"): 64_000,
}
_DEFAULT_EPOCHS = 20
_OF_TASK = ("batch_size", "optimizer", "momentum", "weight_decay")  # fields of task and recipe


def model_family(model: str) -> str:
    """Which models behave alike: ``cnn``, ``resnet``, ``mlp``, or the name's letters.

    >>> model_family("ResNet-32"), model_family("torchvision:resnet18"), model_family("vgg16")
    ('resnet', 'resnet', 'vgg')
    """
    key = canonical_name(model.rpartition(":")[2] if model.startswith("torchvision:") else model)
    if key in MODELS:
        return MODELS[key].family
    letters = "".join(char for char in key if char.isalpha())
    return "resnet" if letters.startswith("resnet") else letters or key


def dataset_info(dataset: str) -> DatasetInfo | None:
    """Facts of a data set known by name, or None.

    >>> dataset_info("CIFAR-10").num_train
    50000
    """
    return DATASETS.get(canonical_name(dataset, "dataset"))


def recipe_for(
    dataset: str, model: str, details: Mapping[str, Any] | None = None, **changes: Any
) -> Recipe:
    """The usual recipe of a model on a data set, with the caller's changes.

    Args:
        dataset: the data set's name; an unknown one gets the model's recipe without augmentation.
        model: the model's name; an unknown one gets plain SGD with momentum.
        details: fields of `Task`; its optimizer, momentum, weight decay and batch size count where
            no change is given.
        changes: fields of `Recipe`; those that are None change nothing.

    Raises:
        UnknownNameError: for an unknown optimizer.
        RecordError: for a batch size or budget below one.

    >>> recipe_for("cifar10", "resnet32").max_iterations
    64000
    >>> recipe_for("digits", "lenet", batch_size=50).batch_size
    50
    """
    known = MODELS.get(canonical_name(model, "model"))
    recipe = known.recipe if known else Recipe()
    info = dataset_info(dataset)
    if info is None or not info.augment:
        recipe = dataclasses.replace(recipe, augment="none")
    elif model.startswith("torchvision:"):
        recipe = dataclasses.replace(recipe, augment="crop_flip")
    of_task = {name: (details or {}).get(name) for name in _OF_TASK}
    given = {name: value for name, value in of_task.items() if value is not None}
    given |= {name: value for name, value in changes.items() if value is not None}
    optimizer = given.get("optimizer", recipe.optimizer)
    if str(optimizer).lower() not in OPTIMIZERS:
        raise UnknownNameError.among("optimizer", optimizer, OPTIMIZERS)
    given["optimizer"] = str(optimizer).lower()
    for name in ("batch_size", "max_iterations"):
        if name in given:
            given[name] = checks.whole(name, given[name], hint="leave it out for the usual one")
    recipe = dataclasses.replace(recipe, **given)
    if "max_iterations" in given:
        return recipe
    return dataclasses.replace(recipe, max_iterations=_budget(dataset, model, recipe, info))


def _budget(dataset: str, model: str, recipe: Recipe, info: DatasetInfo | None) -> int:
    published = _BUDGETS.get((canonical_name(dataset), canonical_name(model)))
    if published or info is None:
        return published or recipe.max_iterations
    epochs = round(_DEFAULT_EPOCHS * info.num_train / recipe.batch_size, -2)
    return min(recipe.max_iterations, max(300, int(epochs)))


def known_facts(dataset: str, model: str) -> dict[str, Any]:
    """The fields of `Task` that follow from the names of data set and model; None if unknown."""
    info = dataset_info(dataset)
    known = MODELS.get(canonical_name(model))
    return {
        "num_classes": info.num_classes if info else None,
        "num_train": info.num_train if info else None,
        "image_shape": info.image_shape if info else None,
        "num_parameters": known.num_parameters if known else None,
    }


def task_for(
    dataset: str, model: str, recipe: Recipe | None = None, details: Mapping[str, Any] | None = None
) -> Task:
    """The task of two names: everything known of them, then the caller's details.

    Args:
        dataset: the data set's name.
        model: the model's name.
        recipe: how it is trained; the usual recipe when None.
        details: fields of `Task` that the caller knows better.

    Raises:
        RecordError: for a detail that is no field of a task, or breaks a rule.

    >>> task_for("cifar10", "resnet32").num_parameters
    464154
    >>> task_for("flowers", "vgg16", details={"num_classes": 102}).num_classes
    102
    """
    recipe = recipe or recipe_for(dataset, model)
    fields = known_facts(dataset, model) | {
        "dataset": dataset,
        "model": model,
        "framework": "pytorch",
        "optimizer": recipe.optimizer,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "batch_size": recipe.batch_size,
        "init": recipe.init,
    }
    return Task.from_dict({**fields, **(details or {})})
