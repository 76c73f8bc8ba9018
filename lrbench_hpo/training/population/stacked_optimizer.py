"""The recipe's optimizer for K networks at once, each with its own LR."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training.optimizers import make_optimizer
from lrbench_hpo.training.population.stacked_layers import NotStackableError

Array = NDArray[np.float64]
Group = Mapping[str, Any]
# What an optimizer keeps of each parameter, by torch's name for it.
Slots = Mapping[str, Tensor]

# Options of a group that `make_optimizer` never sets; a model's own groups may.
_LEFT_OUT = ("dampening", "maximize", "amsgrad")


@dataclass(frozen=True)
class Rule:
    """One optimizer's formulas, those of torch.

    Attributes:
        slots: names of what it keeps of each parameter.
        numbers: from a group, its LRs (members, updates) and the number of each update from 1 (the
            same shape) to what differs between members: rows of (members, updates).
        update: changes parameters in place, given their gradients, slots and those rows.
    """

    slots: Callable[[Group], tuple[str, ...]]
    numbers: Callable[[Group, Array, Array], Sequence[Array]]
    update: Callable[[Group, list[Tensor], list[Tensor], list[Slots], Tensor], None]


def _each(row: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """A number for each member, in a shape that multiplies each parameter."""
    return [row.view(-1, *[1] * (parameter.ndim - 1)) for parameter in parameters]


def _sgd(
    group: Group, parameters: list[Tensor], gradients: list[Tensor], kept: list[Slots], rows: Tensor
) -> None:
    if group["weight_decay"]:
        torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    steps = gradients
    if group["momentum"]:
        buffers = [slots["momentum_buffer"] for slots in kept]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if group["nesterov"]:
            torch._foreach_add_(gradients, buffers, alpha=group["momentum"])
        else:
            steps = buffers
    rates = _each(rows[0], parameters)
    for parameter, step, rate in zip(parameters, steps, rates, strict=True):
        parameter.addcmul_(step, rate, value=-1)


def _sgd_slots(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] else ()


def _adam_numbers(group: Group, rates: Array, counts: Array) -> Sequence[Array]:
    """Step size, root of the second bias correction, what decoupled decay leaves of a weight."""
    first, second = group["betas"]
    sizes = rates / (1 - first**counts)
    return sizes, np.sqrt(1 - second**counts), 1 - rates * group["weight_decay"]


def _adam(
    group: Group,
    parameters: list[Tensor],
    gradients: list[Tensor],
    kept: list[Slots],
    rows: Tensor,
    *,
    decoupled: bool = False,
) -> None:
    first, second = group["betas"]
    means = [slots["exp_avg"] for slots in kept]
    squares = [slots["exp_avg_sq"] for slots in kept]
    sizes, roots, remains = (_each(row, parameters) for row in rows)
    if group["weight_decay"] and decoupled:
        for parameter, remain in zip(parameters, remains, strict=True):
            parameter.mul_(remain)
    elif group["weight_decay"]:
        torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    torch._foreach_lerp_(means, gradients, 1 - first)
    torch._foreach_mul_(squares, second)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
    spreads = torch._foreach_sqrt(squares)
    for parameter, mean, spread, size, root in zip(
        parameters, means, spreads, sizes, roots, strict=True
    ):
        parameter.addcdiv_(mean * size, spread.div_(root).add_(group["eps"]), value=-1)


def _adamw(*arguments: Any) -> None:
    _adam(*arguments, decoupled=True)


_SGD = Rule(_sgd_slots, lambda group, rates, counts: (rates,), _sgd)
_MOMENTS = ("exp_avg", "exp_avg_sq")
RULES: Mapping[str, Rule] = {
    "sgd": _SGD,
    "nesterov": _SGD,
    "adam": Rule(lambda group: _MOMENTS, _adam_numbers, _adam),
    "adamw": Rule(lambda group: _MOMENTS, _adam_numbers, _adamw),
}


class StackedOptimizer:
    """Updates stacked parameters (members, …) by the recipe's rule, an LR for each member.

    Args:
        network: an ordinary network, for its parameter groups.
        recipe: as in `make_optimizer`.

    Raises:
        NotStackableError: for groups with options that the formulas here do not know.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        ordinary = make_optimizer(network, recipe)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._rule = RULES[recipe.optimizer]
        self._groups: Sequence[Group] = ordinary.param_groups
        for option in _LEFT_OUT:
            if any(group.get(option) for group in self._groups):
                raise NotStackableError(f"a parameter group has {option}")
        self._names = [[names[id(p)] for p in group["params"]] for group in self._groups]
        self._in_torchs_order = [name for group in self._names for name in group]
        self._described = ordinary.state_dict()["param_groups"]
        self.slots: dict[str, tuple[str, ...]] = {
            name: self._rule.slots(group)
            for group, members in zip(self._groups, self._names, strict=True)
            for name in members
        }

    def numbers(self, learning_rates: Sequence[Sequence[float]], done: Sequence[int]) -> Array:
        """All that the updates to come need to know of LRs: (updates, groups, rows, members).

        Args:
            learning_rates: a row for each member, with the LR of each update.
            done: how many updates each member has had.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        counts = np.arange(1, rates.shape[1] + 1) + np.asarray(done, dtype=np.float64)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite LR is the member's affair
            groups = [
                np.stack(self._rule.numbers(group, rates * group["lr_scale"], counts))
                for group in self._groups
            ]
        return np.moveaxis(np.stack(groups), -1, 0)

    @torch.no_grad()
    def step(
        self,
        parameters: Mapping[str, Tensor],
        slots: Mapping[str, Slots],
        numbers: Tensor,
    ) -> None:
        """One update; a parameter without a gradient stays as it is.

        Args:
            parameters: by name, (members, …), with their gradients.
            slots: what is kept of each.
            numbers: (groups, rows, members), one update of `numbers` as a tensor.
        """
        for group, members, rows in zip(self._groups, self._names, numbers, strict=True):
            names = [name for name in members if parameters[name].grad is not None]
            if names:
                own = [parameters[name] for name in names]
                gradients = [p.grad for p in own if p.grad is not None]
                self._rule.update(group, own, gradients, [slots[name] for name in names], rows)

    def state_dict(self, slots: Mapping[str, Slots], done: int) -> dict[str, Any]:
        """One member's state, as torch's own optimizer would give it."""
        state = {}
        for index, name in enumerate(self._in_torchs_order):
            kept = {slot: value.clone() for slot, value in slots[name].items()}
            if kept and done:
                counted = (
                    {"step": torch.tensor(float(done), dtype=torch.float32)}
                    if "exp_avg" in kept
                    else {}
                )
                state[index] = {**counted, **kept}
        return {"state": state, "param_groups": [dict(group) for group in self._described]}

    def fresh(self, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What is kept of each parameter before the first update."""
        return {
            name: {slot: torch.zeros_like(parameters[name]) for slot in slots}
            for name, slots in self.slots.items()
        }

    def restored(
        self, parameters: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> dict[str, dict[str, Tensor]]:
        """What is kept of each parameter, from what torch's own optimizer or this one gave."""
        kept = self.fresh(parameters)
        for index, name in enumerate(self._in_torchs_order):
            for slot, value in kept[name].items():
                given = state["state"].get(index, {}).get(slot)
                if given is not None:
                    value.copy_(given)
        return kept
