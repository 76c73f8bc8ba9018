"""One copy of a data set on each node of a Ray cluster, for all trials that run there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import LRBenchError, MissingExtraError
from lrbench_hpo.records.tasks import DATASETS

with MissingExtraError.unless_installed("ray", "ray"):
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from lrbench_hpo.training import ImageData

NAMESPACE = "lrbench_hpo"
IDLE_SECONDS = 120.0
_ATTEMPTS = 3
# Names of data sets come before files and folders of that name.
_NAMES = frozenset({*DATASETS, "folder", "npz"})
_SPLITS = ("train", "validation", "test")


def shared_data(
    dataset: Any,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    seed: int = 0,
    idle_seconds: float = IDLE_SECONDS,
) -> ImageData:
    """`load_data`, but once for all workers of a Ray job on the same node.

    An actor of the job loads the data into the node's shared memory, from where every worker
    reads them without a copy; it ends by itself when it was not used for a while. Outside a Ray
    worker, and for data given as an object, this is `load_data`.

    Args:
        dataset: as in `load_data`; a relative path counts from where the job was started.
        root: directory with the data, as in `load_data`.
        download: let torchvision download a data set that is not there.
        seed: seed of the validation split.
        idle_seconds: how long the data are kept for the next trial.

    Raises:
        DataError: for data that is missing, unreadable or inconsistent.
        UnknownNameError: for an unknown name, with the nearest ones.

    >>> len(shared_data("digits").train)
    1221
    """
    if not isinstance(dataset, str | os.PathLike):
        return _loaded({"dataset": dataset, "root": root, "download": download, "seed": seed})
    folder = root or os.environ.get("LRBENCH_DATA")
    arguments = {
        "dataset": path_of(os.fspath(dataset)),
        "root": str(_from_job(folder)) if folder else None,
        "download": download,
        "seed": seed,
    }
    if not _in_worker():
        return _loaded(arguments)
    for attempt in range(_ATTEMPTS):
        try:
            return _image_data(_ask_keeper(arguments, idle_seconds))
        except RayTaskError as error:
            if isinstance(error.cause, LRBenchError):
                raise error.cause from None
            break
        except RayError:  # the keeper has just ended, or its process died
            time.sleep(0.1 * attempt)
    return _loaded(arguments)


def _loaded(arguments: Mapping[str, Any]) -> ImageData:
    from lrbench_hpo.training import load_data

    return load_data(**arguments)


def _in_worker() -> bool:
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return (context.get_actor_id() or context.get_task_id()) is not None


def _from_job(path: str | os.PathLike[str]) -> Path:
    """A path of the user's: Ray Tune changes each worker's directory to its trial's."""
    return Path(os.environ.get("TUNE_ORIG_WORKING_DIR", "."), Path(path).expanduser())


def path_of(dataset: str) -> str:
    """The absolute path of a file or folder, or the name as it is."""
    if canonical_name(dataset) in _NAMES:
        return dataset
    path = _from_job(dataset)
    return str(path.absolute()) if path.exists() else dataset


def _ask_keeper(arguments: Mapping[str, Any], idle_seconds: float) -> dict[str, Any]:
    context = ray.get_runtime_context()
    text = json.dumps(arguments, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    node = context.get_node_id()
    keeper = Keeper.options(  # type: ignore[attr-defined]
        name=f"data-{context.get_job_id()}-{node}-{digest}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",  # one trial's end must not take the others' data away
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote(dict(arguments), idle_seconds)
    answer = keeper.data.remote()
    # While the keeper reads the files, this process may as well load torch.
    import lrbench_hpo.training.trainer  # noqa: F401

    (reference,) = ray.get(answer)
    shared: dict[str, Any] = ray.get(reference)
    return shared


def _image_data(shared: Mapping[str, Any]) -> ImageData:
    """Tensors on the node's own memory, which is read-only."""
    import torch

    from lrbench_hpo.training import ImageData, Samples

    splits = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for split in _SPLITS:
            images, labels = shared[split]
            splits[split] = Samples(torch.from_numpy(images), torch.from_numpy(labels))
    return ImageData(shared["name"], shared["classes"], **splits)


@ray.remote(num_cpus=0, max_restarts=0)
class Keeper:
    """Holds one data set in the shared memory of its node, until it has been idle for a while."""

    def __init__(self, arguments: dict[str, Any], idle_seconds: float) -> None:
        self._arguments = arguments
        self._idle_seconds = idle_seconds
        self._used = time.monotonic()
        self._reference: ray.ObjectRef[Any] | None = None
        self._loads = 0
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, daemon=True).start()

    def data(self) -> list[ray.ObjectRef[Any]]:
        """Where the arrays are; a list, because Ray would fetch a bare reference."""
        if self._reference is None:
            self._reference = ray.put(_arrays(_loaded(self._arguments)))
            self._loads += 1
        self._used = time.monotonic()
        return [self._reference]

    def loads(self) -> int:
        """How often the data were read."""
        return self._loads

    def leave_if_idle(self) -> None:
        """End this actor, unless it was used in the meantime."""
        if time.monotonic() - self._used >= self._idle_seconds:
            ray.actor.exit_actor()

    def _watch(self) -> None:
        # Through the actor's own queue, so that it never ends while it answers.
        with contextlib.suppress(RayError):  # of the last call: the actor has ended
            while True:
                time.sleep(max(self._used + self._idle_seconds - time.monotonic(), 0.1))
                ray.get(self._me.leave_if_idle.remote())


def _arrays(data: ImageData) -> dict[str, Any]:
    splits = {name: getattr(data, name) for name in _SPLITS}
    arrays = {name: (part.images.numpy(), part.labels.numpy()) for name, part in splits.items()}
    return {"name": data.name, "classes": data.classes, **arrays}
