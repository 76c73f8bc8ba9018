"""One training run, trained from evaluation to evaluation; it can be saved in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from lrbench_hpo.errors import TrainingError
from lrbench_hpo.records.run import CurvePoint, Run
from lrbench_hpo.training.cost import CostMeter
from lrbench_hpo.training.evaluation import Evaluator
from lrbench_hpo.training.loop import TrainingLoop
from lrbench_hpo.training.progress import Progress, Weights, weights_of
from lrbench_hpo.training.randomness import LayerRandomness

_FORMAT = 2  # of the state dict


@contextlib.contextmanager
def memory_checked(device: torch.device, batch_size: int | None) -> Iterator[None]:
    """Raise an error that names the batch size if the device runs out of memory inside.

    Raises:
        TrainingError: instead of torch's own error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"batch_size={batch_size}: {device} is out of memory: choose a smaller batch or model"
        ) from error


class TrainingSession:
    """A run in training, made by `Trainer.session`.

    `state_dict` returns the whole state of a run. A session that loads it continues with exactly
    the numbers of a run that was never interrupted.

    Args:
        loop: the training loop of a new run.
        evaluator: measures the network.
        progress: records the run's evaluations; still empty.
        device: where the network is.

    >>> from lrbench_hpo import LRPolicy
    >>> from lrbench_hpo.training import Trainer, load_data
    >>> trainer = Trainer(load_data("digits"), "mlp", evaluations=2)
    >>> session = trainer.session(LRPolicy("FIX", k0=0.1), max_iterations=20)
    >>> session.step().iteration, session.run().status
    (10, 'pruned')
    >>> again = trainer.session(LRPolicy("FIX", k0=0.1), max_iterations=20)
    >>> again.load_state_dict(session.state_dict())
    >>> again.step() == session.step(), again.finished
    (True, True)
    """

    def __init__(
        self,
        loop: TrainingLoop,
        evaluator: Evaluator,
        progress: Progress,
        device: torch.device,
    ) -> None:
        self._loop = loop
        self._evaluator = evaluator
        self._progress = progress
        self._record = progress.record
        self._device = device
        self._meter = CostMeter(device)
        self._randomness = LayerRandomness(device, self._record.seed or 0)

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or the run diverged."""
        return self._progress.finished

    @property
    def state(self) -> Weights:
        """Weights at the highest Top-1 so far; empty before the first evaluation."""
        return self._progress.state

    def step(self, on_progress: Callable[[int], None] | None = None) -> CurvePoint:
        """Train up to the next evaluation, and evaluate.

        Args:
            on_progress: called every few updates with the number of updates so far.

        Returns:
            The evaluation; without losses if the run diverged.

        Raises:
            TrainingError: if the run is finished, or the device has too little memory.
        """
        if self.finished:
            raise TrainingError(
                f"the run ended {self._progress.status} after {self._loop.iteration} iterations: "
                "start another session"
            )
        until = self._progress.next_point(self._loop.iteration)
        measured: dict[str, float | None] = {}
        enough_memory = memory_checked(self._device, self._record.task.batch_size)
        with enough_memory, self._randomness.active(), self._meter.running():
            if self._loop.advance(self._record.policy, until, on_progress):
                with self._meter.evaluating():
                    measured = self._evaluator(self._loop.model)
        model = self._loop.model
        return self._progress.add(self._loop.iteration, measured, lambda: weights_of(model))

    def run(self) -> Run:
        """The record: ``complete`` or ``diverged`` when finished, before that ``pruned``."""
        batch_size = self._record.task.batch_size or 0
        return self._progress.run(self._meter.cost(self._loop.iteration * batch_size))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the whole state of the run, in tensors and JSON types.

        ``torch.save`` writes it, ``torch.load(…, weights_only=True)`` reads it.
        """
        return {
            "format": _FORMAT,
            "identity": identity(self._record),
            "loop": self._loop.state_dict(),
            "randomness": self._randomness.state_dict(),
            "progress": self._progress.state_dict(),
            "meter": self._meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, here or on another machine.

        Raises:
            TrainingError: for the state of another run, or anything else.
        """
        parts = ("identity", "loop", "randomness", "progress", "meter")
        known = isinstance(state, Mapping) and all(part in state for part in parts)
        if not known or state.get("format") != _FORMAT:
            raise TrainingError(
                f"no state of a training run of format {_FORMAT}: give what state_dict gave"
            )
        here, there = identity(self._record), state["identity"]
        for name, value in here.items():
            if there.get(name) != value:
                raise TrainingError(
                    f"the state is of a run with {name}={there.get(name)}, not {value}: "
                    "give the state of this run"
                )
        self._loop.load_state_dict(state["loop"])
        self._randomness.load_state_dict(state["randomness"])
        self._progress.load_state_dict(state["progress"])
        self._meter.load_state_dict(state["meter"])


def identity(record: Run) -> dict[str, Any]:
    """The values that a run and a saved state must share for the run to continue from it."""
    return {
        **record.task.canonical_dict(),
        "policy": record.policy.to_dict(),
        "max_iterations": record.max_iterations,
        "seed": record.seed,
    }
