"""What of CUDA graphs can be seen without a GPU: the same step, LRs in tensors, state put back."""

from __future__ import annotations

import pytest
import torch

from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import Trainer
from lrbench_hpo.training.cuda_graphs import GraphedStep, undone
from lrbench_hpo.training.optimizers import use_tensor_learning_rates

OPTIMIZERS = ("sgd", "nesterov", "adam", "adamw")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_lrs_in_tensors_give_the_same_updates(digits, optimizer):
    recipe = recipe_for("digits", "lenet", optimizer=optimizer)
    trainer = Trainer(digits, "lenet", recipe, device="cpu")
    plain, tensors = trainer.start(), trainer.start()
    use_tensor_learning_rates(tensors._optimizer, trainer.device)
    rates = [0.002, 0.001, 0.003]
    assert plain.follow(rates)
    assert tensors.follow(rates)
    wanted = plain.model.state_dict()
    for name, value in tensors.model.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_that_warm_up_are_undone(digits, optimizer):
    recipe = recipe_for("digits", "resnet20", optimizer=optimizer, batch_size=8)
    trainer = Trainer(digits, "resnet20", recipe, device="cpu")
    plain, warmed = trainer.start(), trainer.start()
    images, labels = trainer.batches(9).next()
    with undone(warmed._tensors):
        for _ in range(2):
            warmed._compute(images, labels)
        warmed.model(images).sum().backward()  # as where a capture fails half-way
    for loop in (plain, warmed):
        loop.follow([0.01, 0.02])
    wanted = plain.model.state_dict()
    for name, value in warmed.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_where_nothing_can_be_captured_training_goes_on(digits):
    trainer = Trainer(digits, "mlp", device="cpu")
    plain, graphed = trainer.start(), trainer.start()

    def waiting(*inputs):
        # A GPU captures nothing that waits for it; without one, nothing is captured anyway.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return graphed._compute(*inputs)

    graphed._step = GraphedStep(waiting, graphed._tensors)
    plain.follow([0.1, 0.2])
    with pytest.warns(UserWarning, match=r"no CUDA graph .*: training goes on without") as told:
        graphed.follow([0.1, 0.2])
    assert len(told) == 1
    wanted = plain.model.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in graphed.model.state_dict().items())


def test_the_switch_does_nothing_on_a_cpu(digits):
    trainer = Trainer(digits, "mlp", device="cpu", cuda_graphs=True)
    assert not trainer.cuda_graphs
    assert trainer.start().follow([0.1])
