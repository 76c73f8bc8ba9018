"""The recipe's optimizer for K networks at once, each with its own LR.

The formulas are those of torch.optim, with one difference: what depends on the LR or on the number
of the update (step sizes, bias corrections, decay) is a coefficient for each member instead of one
number. The coefficients of several updates are computed at once, in float64 on the CPU.
"""

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
# An optimizer's state for one parameter, by torch's names: momentum_buffer, or exp_avg and
# exp_avg_sq.
State = Mapping[str, Tensor]

# Options that the formulas below leave out. `make_optimizer` never sets them, but a model's own
# parameter groups may.
_LEFT_OUT = ("dampening", "maximize", "amsgrad")


@dataclass(frozen=True)
class Rule:
    """The formulas of one optimizer.

    Attributes:
        state: the names of its state for each parameter, for a group's options.
        coefficients: computes rows of (members, updates) from a group's options, its LRs (members,
            updates) and the numbers of the updates, counted from 1 (same shape).
        update: changes parameters in place; it takes a group's options, parameters, gradients,
            states, and the coefficients (rows, members) of one update.
    """

    state: Callable[[Group], tuple[str, ...]]
    coefficients: Callable[[Group, Array, Array], Sequence[Array]]
    update: Callable[[Group, list[Tensor], list[Tensor], list[State], Tensor], None]


def _each(row: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """One coefficient per member, in shapes that broadcast over each parameter."""
    return [row.view(-1, *[1] * (parameter.ndim - 1)) for parameter in parameters]


# SGD with momentum mu and weight decay d, as torch defines it; b starts at 0:
#     g <- g + d w,  b <- mu b + g,  w <- w - lr b  (Nesterov: w <- w - lr (g + mu b)).
# Coefficients: lr.
def _sgd(
    group: Group,
    parameters: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    rows: Tensor,
) -> None:
    if group["weight_decay"]:
        torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
    steps = gradients
    if group["momentum"]:
        buffers = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if group["nesterov"]:
            torch._foreach_add_(gradients, buffers, alpha=group["momentum"])
        else:
            steps = buffers
    rates = _each(rows[0], parameters)
    for parameter, step, rate in zip(parameters, steps, rates, strict=True):
        parameter.addcmul_(step, rate, value=-1)


def _sgd_state(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] else ()


# Adam (Kingma, Ba 2015, arXiv 1412.6980) with weight decay d; m and v start at 0:
#     g <- g + d w,  m <- m + (1 - b1) (g - m),  v <- b2 v + (1 - b2) g^2,
#     w <- w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)  at update t.
# AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) leaves g alone and does w <- (1 - lr d) w first.
# Coefficients: lr / (1 - b1^t), sqrt(1 - b2^t) and 1 - lr d.
def _adam_coefficients(group: Group, rates: Array, counts: Array) -> Sequence[Array]:
    first, second = group["betas"]
    sizes = rates / (1 - first**counts)
    return sizes, np.sqrt(1 - second**counts), 1 - rates * group["weight_decay"]


def _adam(
    group: Group,
    parameters: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    rows: Tensor,
    *,
    decoupled: bool = False,
) -> None:
    first, second = group["betas"]
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
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


_SGD = Rule(_sgd_state, lambda group, rates, counts: (rates,), _sgd)
_MOMENTS = ("exp_avg", "exp_avg_sq")
RULES: Mapping[str, Rule] = {
    "sgd": _SGD,
    "nesterov": _SGD,
    "adam": Rule(lambda group: _MOMENTS, _adam_coefficients, _adam),
    "adamw": Rule(lambda group: _MOMENTS, _adam_coefficients, _adamw),
}


class StackedOptimizer:
    """Updates stacked parameters (members, …) by the recipe's rule, an LR for each member.

    Args:
        network: an ordinary network, for its parameter groups.
        recipe: as in `make_optimizer`.

    Raises:
        NotStackableError: for groups with options that the formulas leave out.
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
        self._state_names: dict[str, tuple[str, ...]] = {
            name: self._rule.state(group)
            for group, members in zip(self._groups, self._names, strict=True)
            for name in members
        }

    def coefficients(self, learning_rates: Sequence[Sequence[float]], done: Sequence[int]) -> Array:
        """The coefficients of the next updates: (updates, groups, rows, members).

        Args:
            learning_rates: a row for each member, with the LR of each update.
            done: how many updates each member has made.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        counts = np.arange(1, rates.shape[1] + 1) + np.asarray(done, dtype=np.float64)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite LR harms only its member
            groups = [
                np.stack(self._rule.coefficients(group, rates * group["lr_scale"], counts))
                for group in self._groups
            ]
        return np.moveaxis(np.stack(groups), -1, 0)

    @torch.no_grad()
    def step(
        self,
        parameters: Mapping[str, Tensor],
        states: Mapping[str, State],
        coefficients: Tensor,
    ) -> None:
        """Make one update; a parameter without a gradient does not change.

        Args:
            parameters: by name, (members, …), with their gradients.
            states: the state of each.
            coefficients: of this update, (groups, rows, members).
        """
        for group, members, rows in zip(self._groups, self._names, coefficients, strict=True):
            names = [name for name in members if parameters[name].grad is not None]
            if names:
                own = [parameters[name] for name in names]
                gradients = [p.grad for p in own if p.grad is not None]
                self._rule.update(group, own, gradients, [states[name] for name in names], rows)

    def state_dict(self, states: Mapping[str, State], done: int) -> dict[str, Any]:
        """One member's state, as torch's own optimizer would return it after ``done`` updates."""
        state = {}
        for index, name in enumerate(self._in_torchs_order):
            kept = {key: value.clone() for key, value in states[name].items()}
            if kept and done:
                counted = (
                    {"step": torch.tensor(float(done), dtype=torch.float32)}
                    if "exp_avg" in kept
                    else {}
                )
                state[index] = {**counted, **kept}
        return {"state": state, "param_groups": [dict(group) for group in self._described]}

    def initial(self, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """One member's state of each parameter before the first update: zeros."""
        return {
            name: {key: torch.zeros_like(parameters[name]) for key in keys}
            for name, keys in self._state_names.items()
        }

    def restored(
        self, parameters: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> dict[str, dict[str, Tensor]]:
        """One member's state of each parameter, from a state dict of this or torch's optimizer."""
        kept = self.initial(parameters)
        for index, name in enumerate(self._in_torchs_order):
            for key, value in kept[name].items():
                given = state["state"].get(index, {}).get(key)
                if given is not None:
                    value.copy_(given)
        return kept
