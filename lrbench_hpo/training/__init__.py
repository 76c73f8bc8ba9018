"""Training image classifiers with an LR policy: models, data and the trainer. Needs torch."""

from __future__ import annotations

from lrbench_hpo.errors import MissingExtraError

try:
    from lrbench_hpo.training.data import ImageData, data_root, load_data
    from lrbench_hpo.training.models import MODEL_FACTORIES, build_model, model_name
    from lrbench_hpo.training.samples import Samples
    from lrbench_hpo.training.sources import SOURCES
    from lrbench_hpo.training.trainer import TrainedRun, Trainer, find_device
except ModuleNotFoundError as error:
    # The packages of the extra, by the names they are imported under.
    packages = {name: name for name in ("torch", "torchvision", "psutil")}
    packages["sklearn"] = "scikit-learn"
    missing = (error.name or "").partition(".")[0]
    if missing not in packages:
        raise
    raise MissingExtraError.of(packages[missing], "torch") from error

__all__ = [
    "MODEL_FACTORIES",
    "SOURCES",
    "ImageData",
    "Samples",
    "TrainedRun",
    "Trainer",
    "build_model",
    "data_root",
    "find_device",
    "load_data",
    "model_name",
]
