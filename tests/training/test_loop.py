from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy, compose
from lrbench_hpo.policies import ALL_FUNCTIONS, FUNCTIONS
from lrbench_hpo.training.loop import TrainingLoop

PARAMETERS = {"k0": 0.3, "k1": 0.01, "gamma": 0.997, "p": 1.3, "l": 37}


def policy_of(name: str) -> LRPolicy:
    if name == "COMPOSED":
        return compose([(31, policy_of("SINEXP")), (None, policy_of("POLY"))])
    values = {key: PARAMETERS[key] for key in FUNCTIONS[name].parameters}
    return LRPolicy(name, **(values | {"l": [30, 60, 110]} if name == "NSTEP" else values))


class OneBatch:
    """The same batch for ever."""

    def next(self):
        return torch.ones(4, 2), torch.tensor([0, 1, 0, 1])


class Recorder(torch.optim.SGD):
    """SGD that notes the LR of each update."""

    def __init__(self, parameters):
        super().__init__([{"params": parameters, "lr_scale": 1.0}], lr=0.0)
        self.rates = []

    def step(self):
        self.rates.append(self.param_groups[0]["lr"])
        super().step()


def rates(policy: LRPolicy, points: list[int]) -> list[float]:
    model = nn.Linear(2, 2)
    optimizer = Recorder(model.parameters())
    loop = TrainingLoop(model, optimizer, OneBatch())
    for point in points:
        assert loop.advance(policy, point)
    return optimizer.rates


@pytest.mark.parametrize("name", [*ALL_FUNCTIONS, "COMPOSED"])
def test_the_lrs_are_the_policys_bit_for_bit_wherever_it_pauses(name):
    policy = policy_of(name)
    assert rates(policy, [3, 60, 61, 130]) == policy(np.arange(130)).tolist()
