"""Torch optimizers made from a recipe; parameter groups keep their LR ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.records.tasks import Recipe

Optimizer = torch.optim.Optimizer

# Devices where one fused kernel updates all parameters; others use torch's default.
_FUSED_DEVICES = ("cpu", "cuda")

OPTIMIZERS: Mapping[str, Callable[[Any, Recipe, bool], Optimizer]] = {
    "sgd": lambda groups, recipe, fused: torch.optim.SGD(
        groups, lr=0.0, momentum=recipe.momentum, fused=fused
    ),
    "nesterov": lambda groups, recipe, fused: torch.optim.SGD(
        groups, lr=0.0, momentum=recipe.momentum, nesterov=True, fused=fused
    ),
    "adam": lambda groups, recipe, fused: torch.optim.Adam(
        groups, lr=0.0, betas=(recipe.momentum, 0.999), fused=fused
    ),
    "adamw": lambda groups, recipe, fused: torch.optim.AdamW(
        groups, lr=0.0, betas=(recipe.momentum, 0.999), fused=fused
    ),
}


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Build the recipe's optimizer; its LR is 0 until `set_learning_rate` is called.

    A model may define ``parameter_groups(weight_decay)``, which returns a list of groups with
    ``params``, ``weight_decay`` and ``lr_scale``, the ratio of the group's LR to the policy's LR.
    All parameters of another model are one group.

    Args:
        model: the network, on its device.
        recipe: optimizer, momentum (beta1 for Adam) and weight decay.

    Raises:
        UnknownNameError: for an optimizer that is not in `OPTIMIZERS`.
        TrainingError: for a momentum outside [0, 1), a negative weight decay, or a model without
            a trainable parameter.
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise UnknownNameError.among("optimizer", recipe.optimizer, OPTIMIZERS)
    lowest = "(0" if recipe.optimizer == "nesterov" else "[0"
    if not 0 <= recipe.momentum < 1 or (recipe.momentum == 0 and lowest == "(0"):
        raise TrainingError(
            f"momentum={recipe.momentum!r}: expected a number in {lowest}, 1) for "
            f"{recipe.optimizer}"
        )
    if not 0 <= recipe.weight_decay < float("inf"):
        raise TrainingError(
            f"weight_decay={recipe.weight_decay!r}: expected 0 or a positive number"
        )
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise TrainingError(
            f"{type(model).__name__} has {len(parameters)} parameters, none of them trainable: "
            "give a model with a parameter that requires a gradient"
        )
    own_groups: Any = getattr(model, "parameter_groups", None)
    if own_groups is not None:
        groups = own_groups(recipe.weight_decay)
    else:
        groups = [{"params": parameters, "lr_scale": 1.0, "weight_decay": recipe.weight_decay}]
    fused = parameters[0].device.type in _FUSED_DEVICES
    return OPTIMIZERS[recipe.optimizer](groups, recipe, fused)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set every group's LR to ``learning_rate * lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
