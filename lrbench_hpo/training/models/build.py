"""Freshly initialised networks from a model's name, factory or instance."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.training.models.caffe import CNN3, LeNet
from lrbench_hpo.training.models.resnet import DEPTHS, CifarResNet

ModelFactory = Callable[..., nn.Module]
ModelSpec = str | ModelFactory | nn.Module

# Without their auxiliary classifiers: the loop's loss is the cross-entropy of one output.
_TORCHVISION_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


class MLP(nn.Sequential):
    """Two hidden layers of 128 ReLU units.

    >>> sum(p.numel() for p in MLP(10, (1, 28, 28)).parameters())
    118282
    """

    def __init__(self, num_classes: int, image_shape: Sequence[int], hidden: int = 128) -> None:
        inputs = 1
        for side in image_shape:
            inputs *= side
        super().__init__(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )


class ColourInput(nn.Module):
    """A network for colour images that also takes grey ones: their channel is repeated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 1 or 3, H, W) to the wrapped network's output."""
        return cast(Tensor, self.model(images.expand(-1, 3, -1, -1)))


MODEL_FACTORIES: Mapping[str, ModelFactory] = {
    "lenet": LeNet,
    "cnn3": CNN3,
    "mlp": MLP,
    **{f"resnet{depth}": functools.partial(CifarResNet, depth) for depth in DEPTHS},
}


def build_model(
    model: ModelSpec, num_classes: int, image_shape: Sequence[int], seed: int = 0
) -> nn.Module:
    """Build a network whose initial weights depend only on the seed.

    Args:
        model: a name of `MODEL_FACTORIES`, ``torchvision:NAME``, ``package.module:factory``, a
            callable or nn.Module class (called with whichever of num_classes and image_shape its
            signature takes), or an nn.Module, which is copied with the weights it has.
        num_classes: number of classes, the logits' second dimension.
        image_shape: (C, H, W) in pixels.
        seed: seed of the initial weights; torch's global random state does not change.

    Raises:
        UnknownNameError: for an unknown name; the message has the nearest known ones.
        TrainingError: for a model that does not take such images or returns no logits for them.

    >>> build_model("lenet", 10, (1, 28, 28)).fc2.out_features
    10
    """
    factory = find_factory(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            built = factory(num_classes=num_classes, image_shape=tuple(image_shape))
        except Exception as error:  # the user's own code, which may raise anything
            raise TrainingError(
                f"model {model_name(model)!r} cannot be built for {num_classes} classes of "
                f"{_size(image_shape)} images ({_summary(error)}): choose another model or image "
                "size"
            ) from error
        # Blank images in eval mode change no statistics, and initialise lazy layers.
        with torch.no_grad():
            check_logits(model, built.eval(), torch.zeros(2, *image_shape), num_classes)
    return built.train()


def check_logits(model: ModelSpec, network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise for a network that fails on these images, or returns no logits for them.

    Args:
        model: what the network was built from, for the error.
        network: the network, in the mode to check.
        images: its input (n, C, H, W).
        num_classes: the logits must have the shape (n, num_classes).

    Raises:
        TrainingError: with the network's own error, or its output's shape and the expected one.
    """
    try:
        logits = network(images)
    except Exception as error:  # the user's own code, which may raise anything
        raise TrainingError(
            f"model {model_name(model)!r} fails on {_size(images.shape[1:])} images "
            f"({_summary(error)}): choose another model or image size"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (len(images), num_classes):
        raise TrainingError(
            f"model {model_name(model)!r} gives {found} for {len(images)} images of {num_classes} "
            f"classes: expected logits of shape {(len(images), num_classes)}"
        )


def model_name(model: ModelSpec) -> str:
    """The model's name in the records of its runs.

    >>> model_name("ResNet-32"), model_name(LeNet)
    ('ResNet-32', 'lrbench_hpo.training.models.caffe:LeNet')
    """
    if isinstance(model, str):
        return model
    named = model if hasattr(model, "__qualname__") else type(model)
    return f"{named.__module__}:{named.__qualname__}"


def find_factory(model: ModelSpec) -> ModelFactory:
    """The factory of a model; it takes the keywords num_classes and image_shape."""
    if isinstance(model, nn.Module):
        return lambda **_: copy.deepcopy(model)
    if not isinstance(model, str):
        if not callable(model):
            raise TrainingError(f"model={model!r}: expected a name, an nn.Module or a factory")
        return _with_known_keywords(model)
    name = canonical_name(model)
    if name in MODEL_FACTORIES:
        return MODEL_FACTORIES[name]
    if model.startswith("torchvision:"):
        return _torchvision_factory(model.removeprefix("torchvision:"))
    if ":" in model:
        return _with_known_keywords(_imported(model))
    hint = "torchvision:NAME and package.module:factory are understood too"
    raise UnknownNameError.among("model", model, MODEL_FACTORIES, hint)


def _torchvision_factory(name: str) -> ModelFactory:
    import torchvision  # takes a second to load

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError.among("torchvision classifier", name, known)

    def factory(num_classes: int, image_shape: Sequence[int]) -> nn.Module:
        options = _TORCHVISION_OPTIONS.get(name, {})
        built = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        return ColourInput(built) if image_shape[0] == 1 else cast(nn.Module, built)

    return factory


def _imported(path: str) -> ModelFactory:
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # importing runs the user's own code, which may raise anything
        raise UnknownNameError(
            f"model {path!r} cannot be imported ({_summary(error)}): expected "
            "package.module:factory, with the package installed or in the current directory"
        ) from error
    if isinstance(found, nn.Module):
        return lambda **_: copy.deepcopy(found)
    return cast(ModelFactory, found)


def _with_known_keywords(factory: ModelFactory) -> ModelFactory:
    """Wrap a factory so that it gets only the keywords in its signature."""
    if not callable(factory):
        raise TrainingError(f"model factory {factory!r} cannot be called: give a function or class")
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError as error:  # some functions written in C
        raise TrainingError(
            f"model factory {factory!r} tells no signature: give a Python function or class"
        ) from error
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def call(**keywords: Any) -> nn.Module:
        taken = {k: v for k, v in keywords.items() if takes_all or k in parameters}
        built = factory(**taken)
        if not isinstance(built, nn.Module):
            raise TypeError(f"the factory gave a {type(built).__name__}, no nn.Module")
        return built

    return call


def _size(image_shape: Sequence[int]) -> str:
    return "x".join(map(str, image_shape))


def _summary(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
