from __future__ import annotations

import time

import numpy as np
import pytest
import ray
import torch
from ray.util import list_named_actors

from lrbench_hpo.errors import DataError, UnknownNameError
from lrbench_hpo.ray_tune.node_data import _NAMES, NAMESPACE, shared_data
from lrbench_hpo.training import SOURCES, load_data

pytestmark = pytest.mark.usefixtures("local_ray")
PATIENCE = 60  # seconds until a wait counts as failed


@ray.remote(num_cpus=0)
class Worker:
    """A trial's process: loads data and keeps them."""

    def load(self, dataset, **options):
        data = shared_data(dataset, **options)
        self.images = data.train.images
        return [(part.images, part.labels) for part in (data.train, data.validation, data.test)]

    def name_from(self, folder, dataset, root):
        """The data set's name, where Ray Tune started the job in a folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNE_ORIG_WORKING_DIR", folder)
            patch.chdir("/")
            return shared_data(dataset, root).name

    def checksum(self):
        return int(self.images.long().sum())

    def is_in_shared_memory(self):
        address = self.images.data_ptr()
        with open("/proc/self/maps") as file:
            for line in file:
                start, _, rest = line.partition("-")
                if int(start, 16) <= address < int(rest.split()[0], 16):
                    return "plasma" in line or "/dev/shm" in line  # noqa: S108 - where Ray's store is
        return False


@pytest.fixture(scope="module")
def workers(local_ray):
    """Two processes, which all tests use in turn: each has to load torch only once."""
    return [Worker.remote(), Worker.remote()]


@pytest.fixture
def no_keepers(local_ray):
    """End the keepers that a test started."""
    yield
    for keeper in keepers():
        ray.kill(keeper)
    until(lambda: not keepers())


@pytest.fixture
def pictures(tmp_path):
    """A file of 60 pictures of three classes."""
    random = np.random.default_rng(0)
    path = tmp_path / "pictures.npz"
    images = random.integers(0, 256, (60, 20, 20, 3), dtype=np.uint8)
    np.savez(path, train_images=images, train_labels=np.arange(60) % 3)
    return path


def keepers():
    """Those of this job: others, of jobs before it, may not have ended yet."""
    mine = f"data-{ray.get_runtime_context().get_job_id()}-"
    found = []
    for entry in list_named_actors(all_namespaces=True):
        if entry["name"].startswith(mine):
            try:
                found.append(ray.get_actor(entry["name"], NAMESPACE))
            except ValueError:
                continue  # it ended in the meantime
    return found


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def assert_same(splits, data):
    for (images, labels), part in zip(
        splits, (data.train, data.validation, data.test), strict=True
    ):
        assert torch.equal(images, part.images)
        assert torch.equal(labels, part.labels)


def test_outside_a_worker_the_data_are_just_loaded():
    data = shared_data("digits", seed=1)
    assert_same(
        [(part.images, part.labels) for part in (data.train, data.validation, data.test)],
        load_data("digits", seed=1),
    )
    assert keepers() == []


def test_names_of_data_sets_come_before_folders_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert shared_data("digits").num_classes == 10
    assert SOURCES.keys() <= _NAMES


@pytest.mark.slow
def test_workers_of_a_node_share_one_copy_of_the_data(workers, no_keepers):
    for splits in ray.get([each.load.remote("digits") for each in workers]):
        assert_same(splits, load_data("digits"))
    (keeper,) = keepers()
    assert ray.get(keeper.loads.remote()) == 1
    assert ray.get([each.is_in_shared_memory.remote() for each in workers]) == [True, True]
    other_split = ray.get(workers[0].load.remote("digits", seed=1))
    assert_same(other_split, load_data("digits", seed=1))
    assert len(keepers()) == 2


@pytest.mark.slow
def test_the_keepers_death_takes_nobodys_data(workers, no_keepers, pictures):
    first, second = workers
    ray.get(first.load.remote(str(pictures)))
    before = ray.get(first.checksum.remote())
    (keeper,) = keepers()
    ray.kill(keeper)
    assert_same(ray.get(second.load.remote(str(pictures))), load_data(pictures))
    assert ray.get(first.checksum.remote()) == ray.get(second.checksum.remote()) == before
    ray.get(first.load.remote(str(pictures)))
    assert len(keepers()) == 1


@pytest.mark.slow
def test_the_data_are_released_when_nobody_asks_any_more(workers, no_keepers, pictures):
    first, _ = workers
    ray.get(first.load.remote(str(pictures), idle_seconds=0.5))
    before = ray.get(first.checksum.remote())
    until(lambda: not keepers())
    assert ray.get(first.checksum.remote()) == before
    splits = ray.get(first.load.remote(str(pictures), idle_seconds=0.5))
    assert_same(splits, load_data(pictures))


@pytest.mark.slow
def test_missing_data_arrive_as_the_error_they_are(workers, no_keepers, tmp_path):
    asked, _ = workers
    for dataset, error, words in (
        (str(tmp_path / "nothing.npz"), DataError, "no such file or directory"),
        ("cifar", UnknownNameError, "did you mean cifar10"),
    ):
        with pytest.raises(error, match=words) as caught:
            ray.get(asked.load.remote(dataset))
        assert "\n" not in str(caught.value.cause)


@pytest.mark.slow
def test_a_relative_path_counts_from_where_the_job_was_started(workers, no_keepers, pictures):
    in_a_trial, _ = workers
    folder = str(pictures.parent)
    assert ray.get(in_a_trial.name_from.remote(folder, "pictures.npz", None)) == "pictures"
    parent, name = str(pictures.parent.parent), pictures.parent.name
    assert ray.get(in_a_trial.name_from.remote(parent, "pictures", name)) == "pictures"


def test_objects_are_taken_as_they_are(workers, no_keepers):
    data = load_data("digits")
    assert_same(ray.get(workers[0].load.remote(data)), data)
    assert keepers() == []
