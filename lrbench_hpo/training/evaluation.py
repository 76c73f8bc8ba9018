"""Loss and prediction metrics of a network on a whole split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from lrbench_hpo.training.data.batches import DeviceSamples, Pixels
from lrbench_hpo.training.metrics import loss_difference, prediction_metrics

_BATCH = {"cpu": 250}  # images; their activations stay in the CPU's cache
_GPU_BATCH = 2_000


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Measures networks on a split, and their training loss on a fixed part of the train split.

    Both losses are means over many samples, in evaluation mode and without augmentation. The loss
    of single training batches would add noise and dropout to their difference.
    """

    samples: DeviceSamples
    train_samples: DeviceSamples
    pixels: Pixels
    amp: bool = False

    def __call__(self, model: nn.Module) -> dict[str, float | None]:
        """All prediction metrics, ``eval_loss``, ``train_loss`` and ``loss_difference``.

        A network with a non-finite loss has no metrics: they are None.
        """
        was_training = model.training
        model.eval()
        try:
            logits = self._logits(model, self.samples)
            train_logits = self._logits(model, self.train_samples)
        finally:
            model.train(was_training)
        eval_loss = F.cross_entropy(logits, self.samples.labels).item()
        train_loss = F.cross_entropy(train_logits, self.train_samples.labels).item()
        if not (math.isfinite(eval_loss) and math.isfinite(train_loss)):
            return {"eval_loss": None, "train_loss": None, "loss_difference": None}
        probabilities = logits.double().softmax(1).cpu().numpy()
        return {
            **prediction_metrics(probabilities, self.samples.labels.cpu().numpy()),
            "eval_loss": eval_loss,
            "train_loss": train_loss,
            "loss_difference": loss_difference(train_loss, eval_loss),
        }

    @torch.inference_mode()
    def _logits(self, model: nn.Module, samples: DeviceSamples) -> Tensor:
        device = samples.labels.device
        batch = _BATCH.get(device.type, _GPU_BATCH)
        parts = []
        for start in range(0, len(samples), batch):
            images, _ = samples.slice(start, start + batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
                parts.append(model(self.pixels(images)))
        return torch.cat(parts).float()
