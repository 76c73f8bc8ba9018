"""Training image classifiers with an LR policy: models, data and the trainer. Needs torch.

The names below are loaded when they are first used: torch takes seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lrbench_hpo.errors import MissingExtraError

if TYPE_CHECKING:
    from lrbench_hpo.training.data.load import ImageData, data_root, load_data
    from lrbench_hpo.training.data.samples import Samples
    from lrbench_hpo.training.data.sources import SOURCES
    from lrbench_hpo.training.models.build import MODEL_FACTORIES, build_model, model_name
    from lrbench_hpo.training.population.member import Member
    from lrbench_hpo.training.population.population import Population, train_all
    from lrbench_hpo.training.session import TrainingSession
    from lrbench_hpo.training.trainer import TrainedRun, Trainer, find_device

# The packages of the extra, by the names they are imported under. They are looked for, not loaded.
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "sklearn": "scikit-learn",
    "psutil": "psutil",
}
for _module, _package in _PACKAGES.items():
    if find_spec(_module) is None:
        raise MissingExtraError.of(_package, "torch")

_HOME = {
    "MODEL_FACTORIES": "models.build",
    "SOURCES": "data.sources",
    "ImageData": "data.load",
    "Member": "population.member",
    "Population": "population.population",
    "Samples": "data.samples",
    "TrainedRun": "trainer",
    "Trainer": "trainer",
    "TrainingSession": "session",
    "build_model": "models.build",
    "data_root": "data.load",
    "find_device": "trainer",
    "load_data": "data.load",
    "model_name": "models.build",
    "train_all": "population.population",
}

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


# Hidden from type checkers, which would believe that any name is there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
