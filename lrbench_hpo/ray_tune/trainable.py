"""The ready trainable: one Ray trial is one training run of a policy, or a population of them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrbench_hpo.errors import MissingExtraError
from lrbench_hpo.ray_tune.on_worker import CHECKPOINT, read_checkpoint, trainer_for, use_cpus
from lrbench_hpo.ray_tune.population_trial import PopulationTrial
from lrbench_hpo.ray_tune.trial_config import TrialConfig
from lrbench_hpo.records.reports import report

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from ray import tune
    from ray.tune.result import DONE, SHOULD_CHECKPOINT

if TYPE_CHECKING:
    from lrbench_hpo.training import Trainer, TrainingSession

# What a trainer is made from: a trial that differs in something else can use the same one.
_OF_TRAINER = (
    "dataset",
    "model",
    "batch_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "max_iterations",
    "data",
    "download",
    "seed",
    "device",
    "amp",
    "evaluations",
    "task",
)


class Train(tune.Trainable):
    """Trains a model with the policy of a Ray trial: ``tune.run(lrbench_hpo.train, …)``.

    Its config holds ``dataset``, ``model`` and ``lr_policy`` (which `LRBenchSearcher` suggests)
    and whatever else `TrialConfig` knows. It reports at the policy's LR minima: ``score``, every
    metric, ``iteration`` and the cost so far. Checkpoints hold all that a run is made of, so a
    trial that was paused, moved or killed goes on with the numbers it would have had. The score
    is that of `Objective` with the same policy, seed and threads.

    With ``lr_policies``, a list, in place of ``lr_policy`` the trial is a population: its
    policies are trained together, and each report holds the best one's metrics, and under
    ``members`` the reports of the policies that moved.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory | None:
        """The resources in the config; else those of ``resources_per_trial``.

        Ray calls this on the driver, before a trial starts: a config that cannot work ends here.

        Raises:
            LRBenchError: for an unknown key, one that is missing, or a value that cannot work.
        """
        resources = TrialConfig.of(config).resources
        if resources is None:
            return None
        names = {"cpu": "CPU", "gpu": "GPU"}
        bundle = {"cpu": 0.0, **resources}
        return tune.PlacementGroupFactory([{names.get(k, k): v for k, v in bundle.items()}])

    def setup(self, config: dict[str, Any]) -> None:
        """Load the data, build the trainer and begin the run."""
        self._trainer: Trainer | None = None
        self._trained: TrialConfig | None = None
        self._executor: str | None = None
        self._begin(TrialConfig.of(config))

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation, and report the run so far."""
        session = self._session
        if not session.finished:  # a trial restored from its last checkpoint only reports again
            session.step()
        waited = time.monotonic() - self._saved
        due = session.finished or waited >= self._config.checkpoint_seconds
        if isinstance(session, PopulationTrial):
            result, due = session.report(), due or session.has_new_best
        else:
            run, weights = session.run(), self._config.score_weights
            result = report(run, weights, finished=session.finished)
        return {**result, DONE: session.finished, SHOULD_CHECKPOINT: due}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write all that the run is made of into one file."""
        import torch

        torch.save(self._session.state_dict(), Path(checkpoint_dir, CHECKPOINT))
        self._saved = time.monotonic()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from such a file.

        Raises:
            TrainingError: for a file that is missing, damaged or of another run.
        """
        self._session.load_state_dict(read_checkpoint(checkpoint))
        self._saved = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process, with the trainer that is there if it fits."""
        self._begin(TrialConfig.of(new_config))
        return True

    def cleanup(self) -> None:
        """Release data and network."""
        self._trainer = self._trained = None
        vars(self).pop("_session", None)

    def _begin(self, config: TrialConfig) -> None:
        self._use_own_cpus()
        _warn_of_idle_gpus(config)
        if self._trainer is None or not _same_trainer(self._trained, config):
            self._trainer = None  # its memory is free before the next one is built
            vars(self).pop("_session", None)
            self._trainer = trainer_for(config)
            self._trained = config
            self._executor = None
        self._config = config
        self._session: TrainingSession | PopulationTrial = self._begun(self._trainer, config)
        self._saved = time.monotonic()
        # Ray sends the config along with every report: a data set in it would go each time.
        shown = {"dataset": self._trainer.data.name, "model": self._trainer.task.model}
        self.config |= {
            name: value for name, value in shown.items() if not isinstance(self.config[name], str)
        }

    def _begun(self, trainer: Trainer, config: TrialConfig) -> TrainingSession | PopulationTrial:
        budget = trainer.recipe.max_iterations
        if config.lr_policy is not None:
            return trainer.session(config.lr_policy, budget)
        executor = config.executor
        if executor == "auto" and self._executor is not None:
            executor = self._executor  # measured by the trial before, on the same trainer
        trial = PopulationTrial(
            trainer,
            config.lr_policies,
            budget,
            weights=config.score_weights,
            executor=executor,
            early_stopping=config.early_stopping,
        )
        self._executor = trial.executor
        return trial

    def _use_own_cpus(self) -> None:
        """As many threads as the trial has CPUs, so that trials do not fight for them."""
        resources = self.trial_resources
        if resources is not None:
            use_cpus(math.floor(resources.head_cpus))


train = Train


def _warn_of_idle_gpus(config: TrialConfig) -> None:
    """Warn that a trial trains on the CPU although the cluster has GPUs."""
    if config.device != "auto" or not ray.is_initialized() or ray.get_gpu_ids():
        return
    if ray.cluster_resources().get("GPU", 0) > 0:
        warnings.warn(
            "the cluster has GPUs and this trial was given none, so it trains on the CPU: give "
            "config['resources'] = {'cpu': 1, 'gpu': 0.5}, or device='cpu' to be content",
            stacklevel=2,
        )


def _same_trainer(there: TrialConfig | None, here: TrialConfig) -> bool:
    def same(old: Any, new: Any) -> bool:
        # Equality of data sets and models may mean anything; of plain values it means equality.
        plain = isinstance(new, str | int | float | Mapping) and type(old) is type(new)
        return old is new or (plain and old == new)

    return there is not None and all(
        same(getattr(there, name), getattr(here, name)) for name in _OF_TRAINER
    )
