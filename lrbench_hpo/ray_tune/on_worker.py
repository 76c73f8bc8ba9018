"""What runs on a Ray worker beside the trainable: checks, range tests, tests of weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrbench_hpo.errors import MissingExtraError, TrainingError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.ray_tune.node_data import shared_data
from lrbench_hpo.ray_tune.population_trial import weights_in
from lrbench_hpo.ray_tune.trial_config import TrialConfig
from lrbench_hpo.records.member_reports import POLICIES
from lrbench_hpo.records.repeats import repeatable
from lrbench_hpo.records.tasks import recipe_for, task_for

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from ray import tune

if TYPE_CHECKING:
    from torch import Tensor

    from lrbench_hpo.training import Trainer


CHECKPOINT = "session.pt"
_ANY_POLICY = LRPolicy("FIX", k0=1.0)


def use_cpus(cpus: int) -> None:
    """Give torch as many threads as there are CPUs."""
    import torch

    torch.set_num_threads(max(1, cpus))


def best_weights(
    checkpoint_dir: str | os.PathLike[str], member: int | None = None
) -> Mapping[str, Tensor]:
    """The network's weights at its best evaluation, from a checkpoint of `Train`.

    Args:
        checkpoint_dir: folder of the checkpoint, as ``Checkpoint.as_directory()`` gives it.
        member: of a population, the place of the policy; that of the best score when None.

    Raises:
        TrainingError: for a folder without a checkpoint of `Train`, or a policy of a population
            that has not ended complete.
    """
    state = read_checkpoint(checkpoint_dir)
    if "policies" in state:
        return weights_in(state, member)
    weights: Mapping[str, Tensor] = state["progress"]["state"]
    return weights


def check_on_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    """Load the data and build the trainer of a config, with or without a policy.

    Returns:
        ``dataset``: the name that results are stored under; ``task``: what is trained, as a dict;
        ``environment``: where; ``repeatable``: whether the same training gives the same numbers.

    Raises:
        LRBenchError: for names, data or a recipe that cannot work.
    """
    checked = _with_any_policy(config)
    _use_own_share()
    trainer = trainer_for(checked)
    from lrbench_hpo.training import SOURCES
    from lrbench_hpo.training.cost import environment

    return {
        "dataset": trainer.task.dataset,
        "task": trainer.task.to_dict(),
        "environment": environment(trainer.device, amp=checked.amp),
        "repeatable": repeatable(checked.dataset, checked.model, SOURCES),
    }


def range_test_on_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    """An LR range test for trials of a config, as `RangeTest.to_dict` gives it.

    Raises:
        LRBenchError: for a config that cannot work.
    """
    checked = _with_any_policy(config)
    _use_own_share()
    trainer = trainer_for(checked)
    from lrbench_hpo.lr_range.measure import planned, smith

    budget = trainer.recipe.max_iterations
    plan = planned(trainer.recipe.optimizer, budget)
    return smith(trainer, budget, plan, seed=checked.seed).to_dict()


def measure_on_worker(
    config: Mapping[str, Any], checkpoint: tune.Checkpoint, member: int | None = None
) -> dict[str, Any]:
    """All metrics on the test split, of the best weights in a trial's checkpoint.

    Args:
        config: of the trial, whatever its policies.
        checkpoint: its checkpoint.
        member: as in `best_weights`.

    Raises:
        LRBenchError: for a checkpoint that is damaged or of another model.
    """
    _use_own_share()
    trainer = trainer_for(_with_any_policy(config))
    with checkpoint.as_directory() as folder:
        return dict(trainer.test(best_weights(folder, member)))


def train_on_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train a config's policy from the start, and measure its best weights on the test split.

    Raises:
        LRBenchError: for a config that cannot work.
    """
    policy = LRPolicy.from_dict(config["lr_policy"])
    checked = _with_any_policy(config)
    _use_own_share()
    trainer = trainer_for(checked)
    trained = trainer.train(policy, trainer.recipe.max_iterations)
    return dict(trainer.test(trained.state))


def _with_any_policy(config: Mapping[str, Any]) -> TrialConfig:
    """A config with or without policies, where they do not matter."""
    others = {name: value for name, value in config.items() if name != "lr_policy"}
    return TrialConfig.of({**others, POLICIES: [_ANY_POLICY]})


def _use_own_share() -> None:
    """As many threads as the task has CPUs."""
    use_cpus(int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def read_checkpoint(folder: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What a checkpoint of `Train` holds; nothing in it is executed.

    Raises:
        TrainingError: for a folder without a checkpoint that can be read.
    """
    import torch

    path = Path(folder, CHECKPOINT)
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever a damaged file leads them to
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{path}: no checkpoint that can be read ({type(error).__name__}: {reason}): "
            "start the trial again"
        ) from error
    return state


def trainer_for(config: TrialConfig) -> Trainer:
    """The trainer of a config, on the data set that this node shares."""
    data = shared_data(config.dataset, config.data, download=config.download, seed=config.seed)
    from lrbench_hpo.training import Trainer, model_name

    name = model_name(config.model)
    recipe = recipe_for(data.name, name, **config.recipe_changes)
    return Trainer(
        data,
        config.model,
        recipe,
        device=config.device,
        amp=config.amp,
        seed=config.seed,
        task=task_for(data.name, name, recipe, config.task),
        evaluations=config.evaluations,
    )
