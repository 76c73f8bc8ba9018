"""Training image classifiers with an LR policy: models, data and the trainer. Needs torch."""

from __future__ import annotations

from importlib.util import find_spec

from lrbench_hpo.errors import MissingExtraError

# The packages of the extra, by the names they are imported under.
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "sklearn": "scikit-learn",
    "psutil": "psutil",
}
# Not loaded until something needs them: each takes a second, which every worker would pay.
for _module in ("torchvision", "sklearn"):
    if find_spec(_module) is None:
        raise MissingExtraError.of(_PACKAGES[_module], "torch")

try:
    from lrbench_hpo.training.data.load import ImageData, data_root, load_data
    from lrbench_hpo.training.data.samples import Samples
    from lrbench_hpo.training.data.sources import SOURCES
    from lrbench_hpo.training.models.build import MODEL_FACTORIES, build_model, model_name
    from lrbench_hpo.training.population.member import Member
    from lrbench_hpo.training.population.population import Population, train_all
    from lrbench_hpo.training.session import TrainingSession
    from lrbench_hpo.training.trainer import TrainedRun, Trainer, find_device
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in _PACKAGES:
        raise
    raise MissingExtraError.of(_PACKAGES[missing], "torch") from error

__all__ = [
    "MODEL_FACTORIES",
    "SOURCES",
    "ImageData",
    "Member",
    "Population",
    "Samples",
    "TrainedRun",
    "Trainer",
    "TrainingSession",
    "build_model",
    "data_root",
    "find_device",
    "load_data",
    "model_name",
    "train_all",
]
