import os

import pytest
import torch

import lrbench_hpo.training.population.layout as layout
from lrbench_hpo.training import Trainer, load_data
from lrbench_hpo.training.population.layout import processes_for, usable_cores


@pytest.fixture
def threads(monkeypatch):
    """Two cores and two threads, whatever machine this is."""
    before = torch.get_num_threads()
    monkeypatch.setattr(layout, "usable_cores", lambda: 2)
    monkeypatch.setattr(layout.psutil, "cpu_count", lambda logical: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(load_data("digits"), "mlp", device="cpu")


def test_a_limit_on_threads_means_a_process_a_core(trainer, threads):
    torch.set_num_threads(1)
    assert processes_for(trainer) == (2, "one process a core")


def test_a_single_core_is_one_process(trainer, threads, monkeypatch):
    monkeypatch.setattr(layout, "usable_cores", lambda: 1)
    assert processes_for(trainer) == (1, "one process a core")


def test_hyper_threads_are_no_cores(trainer, threads, monkeypatch):
    monkeypatch.setattr(layout, "usable_cores", lambda: 4)
    monkeypatch.setattr(layout, "_speed_up", lambda trainer, threads: 1.9)
    assert processes_for(trainer)[0] == 1


def test_nothing_is_tried_before_a_fork_beside_a_gpu(trainer, threads, monkeypatch):
    monkeypatch.setattr(layout, "_speed_up", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes_for(trainer) == (2, "one process a core")


@pytest.mark.parametrize(("gain", "processes"), [(1.45, 1), (1.35, 2)])
def test_one_network_has_all_cores_where_that_is_nearly_as_fast(
    trainer, threads, monkeypatch, gain, processes
):
    monkeypatch.setattr(layout, "_speed_up", lambda trainer, threads: gain)
    found, note = processes_for(trainer)
    assert found == processes
    assert "2 threads train one network 1.4 times as fast as one thread" in note


def test_timing_leaves_threads_and_later_trainings_alone(trainer, threads):
    before = {name: value.clone() for name, value in trainer.network(0).state_dict().items()}
    processes, note = processes_for(trainer)
    assert torch.get_num_threads() == 2
    assert processes in (1, 2)
    assert "times as fast as one thread" in note
    assert all(torch.equal(before[k], v) for k, v in trainer.network(0).state_dict().items())


def test_this_process_has_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
