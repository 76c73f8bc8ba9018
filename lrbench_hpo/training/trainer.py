"""Training a network on image data with an LR policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrbench_hpo import checks
from lrbench_hpo.errors import TrainingError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.records.tasks import Recipe, recipe_for, task_for
from lrbench_hpo.training.cost import environment
from lrbench_hpo.training.data.batches import (
    AUGMENTATIONS,
    Batches,
    CroppedSamples,
    DeviceSamples,
    pixels_for,
)
from lrbench_hpo.training.data.load import ImageData
from lrbench_hpo.training.data.samples import Samples
from lrbench_hpo.training.evaluation import Evaluator
from lrbench_hpo.training.loop import BatchSource, TrainingLoop
from lrbench_hpo.training.models.build import ModelSpec, build_model, check_logits, model_name
from lrbench_hpo.training.optimizers import make_optimizer
from lrbench_hpo.training.progress import Progress
from lrbench_hpo.training.randomness import LayerRandomness, Stream, stream_seed
from lrbench_hpo.training.session import TrainingSession, memory_checked

OnEvaluation = Callable[[CurvePoint, Run], bool | None]

MAX_ITERATIONS = 10**9
_MAX_TRAIN_LOSS_SAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """The result of a training: its record, and the weights at its best evaluation.

    Attributes:
        run: the record, with everything that was measured.
        state: state dict of the network at the highest Top-1; empty if there was no evaluation.
    """

    run: Run
    state: Mapping[str, Tensor]


class Trainer:
    """Trains one model on one data set with one recipe, with any number of LR policies.

    The data is moved to the device once. Runs with the same seed start from the same weights and
    get the same batches, whatever their policy. Repeated on the same machine, a run returns the
    same numbers.

    Args:
        data: the images.
        model: a name, factory or nn.Module, as in `build_model`.
        recipe: optimizer, batch size, pixels, augmentation; if None, the usual one for this data
            set and model.
        device: ``auto`` (CUDA if available, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: train and evaluate under bfloat16 autocast.
        seed: default seed of the runs.
        task: metadata to record beside what the trainer finds out itself.
        evaluations: the largest number of evaluations in a run.

    Raises:
        TrainingError: for settings that cannot work together, before any training.

    >>> from lrbench_hpo.training import load_data
    >>> trainer = Trainer(load_data("digits"), "lenet")
    >>> trained = trainer.train(LRPolicy("FIX", k0=0.01), max_iterations=20)
    >>> trained.run.status, trained.run.curve[-1].iteration
    ('complete', 20)
    """

    def __init__(
        self,
        data: ImageData,
        model: ModelSpec,
        recipe: Recipe | None = None,
        *,
        device: str = "auto",
        amp: bool = False,
        seed: int = 0,
        task: Task | None = None,
        evaluations: int = 10,
    ) -> None:
        self.data = data
        self.recipe = recipe or recipe_for(data.name, model_name(model))
        self.device = find_device(device)
        self._model = model
        self.amp = amp
        self._seed = _seed(seed)
        self._evaluations = checks.whole("evaluations", evaluations, error=TrainingError)
        network = build_model(model, data.num_classes, data.image_shape)
        make_optimizer(network, self.recipe)
        self.task = self._describe(task, network)
        self._channels_last = any(isinstance(m, nn.Conv2d) for m in network.modules())
        self._pixels = pixels_for(self.recipe.pixels, data.train, self.device)
        self._train = self._stored(data.train)
        if self.recipe.augment not in AUGMENTATIONS:
            raise UnknownNameError.among("augmentation", self.recipe.augment, AUGMENTATIONS)
        self._stream: DeviceSamples | CroppedSamples = self._train
        if self.recipe.augment == "crop_flip":
            self._stream = CroppedSamples(data.train, self.device)
        self.evaluator = self._evaluator_for(data.validation)
        Batches(self._stream, self._pixels, self.recipe.batch_size, seed=0)
        self._try_batch(network)

    def train(
        self,
        policy: LRPolicy,
        max_iterations: int,
        *,
        seed: int | None = None,
        on_evaluation: OnEvaluation | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> TrainedRun:
        """Train once, with evaluations on the validation split at the policy's LR minima.

        Args:
            policy: the LR of every iteration.
            max_iterations: the budget, in iterations.
            seed: of initial weights and data order; the trainer's own when None.
            on_evaluation: called after each evaluation with its point and the run so far. If it
                returns True, the run ends there as ``pruned``, unless its budget is used up.
            on_progress: called every few updates with the number of updates so far.

        Raises:
            TrainingError: for a budget below one iteration or above 10^9, or too little memory on
                the device.
        """
        session = self.session(policy, max_iterations, seed=seed)
        while not session.finished:
            point = session.step(on_progress)
            run = session.run()
            if run.status != "diverged" and on_evaluation and on_evaluation(point, run):
                break
        return TrainedRun(session.run(), session.state)

    def session(
        self, policy: LRPolicy, max_iterations: int, *, seed: int | None = None
    ) -> TrainingSession:
        """Prepare a run whose caller decides after each evaluation whether it continues.

        Args:
            policy: the LR of every iteration.
            max_iterations: the budget, in iterations.
            seed: of initial weights and data order; the trainer's own when None.

        Raises:
            TrainingError: for a budget below one iteration or above 10^9, or too little memory on
                the device.
        """
        with memory_checked(self.device, self.recipe.batch_size):
            loop = self.start(seed=seed)
        record, points = self.record(policy, max_iterations, seed=seed)
        return TrainingSession(loop, self.evaluator, Progress(record, points), self.device)

    def record(
        self, policy: LRPolicy, max_iterations: int, *, seed: int | None = None
    ) -> tuple[Run, tuple[int, ...]]:
        """The record of a run before it begins, and the iterations after which it is evaluated.

        Raises:
            TrainingError: for a budget below one iteration or above 10^9.
        """
        budget = checks.whole("max_iterations", max_iterations, error=TrainingError)
        if budget > MAX_ITERATIONS:
            rule = f"expected a whole number of at most {MAX_ITERATIONS}"
            checks.refuse("max_iterations", budget, rule, error=TrainingError)
        record = Run(
            task=self.task,
            policy=policy,
            max_iterations=budget,
            seed=self.seed_of(seed),
            environment=environment(self.device, amp=self.amp),
            notes={"evaluation_samples": len(self.data.validation)},
        )
        return record, policy.evaluation_points(budget, limit=self._evaluations)

    def seed_of(self, seed: int | None) -> int:
        """A run's seed: the trainer's own when None."""
        return self._seed if seed is None else _seed(seed)

    def start(self, *, seed: int | None = None, batches: BatchSource | None = None) -> TrainingLoop:
        """The training loop of a new run, without policy, evaluation and record.

        Args:
            seed: of initial weights and data order; the trainer's own when None.
            batches: the data; if None, batches drawn for this loop alone.
        """
        network = self.network(seed)
        own = self.batches(seed) if batches is None else batches
        optimizer = make_optimizer(network, self.recipe)
        return TrainingLoop(network, optimizer, own, amp=self.amp)

    def network(self, seed: int | None = None) -> nn.Module:
        """The initial network of a run with this seed, on the device."""
        return self._network(stream_seed(self.seed_of(seed), Stream.INIT))

    def batches(self, seed: int | None = None) -> Batches:
        """The batches of a run with this seed, from the first."""
        order_seed = stream_seed(self.seed_of(seed), Stream.ORDER)
        return Batches(self._stream, self._pixels, self.recipe.batch_size, order_seed)

    def test(self, state: Mapping[str, Tensor]) -> dict[str, float | None]:
        """Measure all metrics on the test split, for the network with these weights.

        Args:
            state: a state dict, as in `TrainedRun.state`.

        Raises:
            TrainingError: for weights of another model.
        """
        network = self._network(0)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise TrainingError(
                f"these are not weights of {self.task.model!r}: give the state of a run of this "
                "trainer that was evaluated at least once"
            ) from error
        with LayerRandomness(self.device, 0).active():
            return self._evaluator_for(self.data.test)(network)

    def _network(self, seed: int) -> nn.Module:
        network = build_model(self._model, self.data.num_classes, self.data.image_shape, seed)
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        return network.to(self.device, memory_format=layout)  # type: ignore[call-overload,no-any-return]

    def _try_batch(self, network: nn.Module) -> None:
        """Raise for a network that fails in training mode; it may not be used afterwards."""
        images, _ = self._train.slice(0, min(2, self.recipe.batch_size))
        batch = self._pixels(images)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
        with LayerRandomness(self.device, 0).active(), torch.no_grad(), autocast:
            check_logits(self._model, network.to(self.device), batch, self.data.num_classes)

    def _stored(self, samples: Samples) -> DeviceSamples:
        return DeviceSamples(samples, self.device, channels_last=self._channels_last)

    def _evaluator_for(self, samples: Samples) -> Evaluator:
        """An evaluator; its training loss is over as many samples as there are for validation."""
        size = min(len(self.data.train), len(self.data.validation), _MAX_TRAIN_LOSS_SAMPLES)
        generator = torch.Generator().manual_seed(stream_seed(0, Stream.TRAIN_LOSS))
        chosen = torch.randperm(len(self.data.train), generator=generator)[:size]
        part = self.data.train.take(chosen)
        return Evaluator(self._stored(samples), self._stored(part), self._pixels, self.amp)

    def _describe(self, task: Task | None, network: nn.Module) -> Task:
        """The task to record: measured facts replace those of the given task."""
        data, recipe = self.data, self.recipe
        return dataclasses.replace(
            task or task_for(data.name, model_name(self._model), recipe),
            num_classes=data.num_classes,
            num_train=len(data.train) + len(data.validation),
            image_shape=data.image_shape,
            num_parameters=sum(p.numel() for p in network.parameters()),
            framework="pytorch",
            optimizer=recipe.optimizer,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            batch_size=recipe.batch_size,
        )


def find_device(name: str) -> torch.device:
    """Find a device by name.

    Raises:
        UnknownNameError: for a name that torch does not know.
        TrainingError: for a device that this machine does not have.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = ("auto", "cpu", "cuda", "mps")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownNameError.among("device", name, kinds) from None
    if device.type not in kinds:
        raise UnknownNameError.among("device", name, kinds)
    available = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[device.type]:
        raise TrainingError(f"device={name!r}: not on this machine: choose auto or cpu")
    return device


def _seed(seed: int) -> int:
    return checks.whole("seed", seed, 0, error=TrainingError)
