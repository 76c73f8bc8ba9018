"""Populations in several processes: the same runs, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import torch

from lrbench_hpo import LRPolicy
from lrbench_hpo.errors import TrainingError
from lrbench_hpo.records.tasks import Recipe
from lrbench_hpo.training import Trainer
from lrbench_hpo.training.population import memory
from lrbench_hpo.training.population.worker import Event, Worker
from lrbench_hpo.training.population.workers import WorkerPool

POLICIES = [
    LRPolicy("FIX", k0=0.1),
    LRPolicy("STEP", k0=0.1, gamma=0.1, l=20),
    LRPolicy("SIN", k0=1e-3, k1=0.2, l=8),
    LRPolicy("FIX", k0=1000.0),
]


def score(run):
    return run.metrics["top1"]


def all_events(pool, policies=POLICIES, budget=40) -> list[Event]:
    for key, policy in enumerate(policies):
        pool.add(key, policy, budget)
    return until_the_end(pool, len(policies))


def until_the_end(pool, count: int) -> list[Event]:
    events: list[Event] = []
    while sum(event.ended for event in events) < count:
        events += pool.events()
    return events


def runs_of(events) -> dict:
    ended = {event.key: event.run for event in events if event.ended}
    return {key: (run.status, run.curve, run.metrics) for key, run in sorted(ended.items())}


@pytest.fixture(scope="module")
def alone(digits_trainer):
    """The run of each policy by itself, long enough for its process to be killed before the end."""
    return [digits_trainer.train(policy, 400).run for policy in POLICIES]


@pytest.fixture
def pool(digits_trainer):
    made = WorkerPool(digits_trainer, 4, "stream", score, 2)
    yield made
    made.close()


def test_the_runs_are_those_of_the_trainer_alone(pool, digits_trainer):
    events = all_events(pool)
    for key, policy in enumerate(POLICIES):
        run = digits_trainer.train(policy, 40).run
        assert runs_of(events)[key] == (run.status, run.curve, run.metrics)
    assert pool.environment == {"threads": 1}
    pool.close()
    assert pool.trained_iterations + pool.saved_iterations >= 3 * 40


def test_the_weights_of_the_best_arrive(pool, digits_trainer):
    events = [event for event in all_events(pool) if event.ended]
    best = max(
        (event for event in events if event.run.status == "complete"),
        key=lambda event: event.run.metrics["top1"],
    )
    alone = digits_trainer.train(POLICIES[best.key], 40)
    assert best.state is not None
    assert all(torch.equal(best.state[name], alone.state[name]) for name in alone.state)


def test_one_process_does_the_same(digits_trainer, pool):
    here = Worker(digits_trainer, 4, "stream", score)
    assert runs_of(all_events(here)) == runs_of(all_events(pool))


@pytest.mark.parametrize("made", [Worker, WorkerPool])
def test_a_member_that_is_dropped_ends_as_it_is(digits_trainer, made):
    more = (2,) if made is WorkerPool else ()
    pool = made(digits_trainer, 4, "stream", score, *more)
    try:
        pool.add(0, POLICIES[0], 100_000)
        pool.add(1, POLICIES[2], 40)
        pool.events()
        end = pool.stop(0)
        events = ([end] if end else []) + until_the_end(pool, 1 if end else 2)
        ended = {event.key: event.run.status for event in events if event.ended}
        assert ended == {0: "pruned", 1: "complete"}
        assert pool.stop(0) is None
    finally:
        pool.close()


def kill_one(pool) -> None:
    children = psutil.Process().children()
    victim = next(child for child in children if child.pid == pool._processes[0].process.pid)
    victim.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_the_members_of_a_killed_process_begin_anew(pool, alone):
    for key, policy in enumerate(POLICIES):
        pool.add(key, policy, 400)
    events = pool.events()
    kill_one(pool)
    events += until_the_end(pool, len(POLICIES) - sum(event.ended for event in events))
    for key, run in enumerate(alone):
        assert runs_of(events)[key] == (run.status, run.curve, run.metrics)


@pytest.mark.slow
def test_members_wait_where_a_fresh_process_has_less_memory(digits_trainer, alone, monkeypatch):
    pool = WorkerPool(digits_trainer, 4, "stream", score, 1)
    try:
        for key, policy in enumerate(POLICIES):
            pool.add(key, policy, 400)
        monkeypatch.setattr(memory, "_USED_SHARE", 0.0)  # what is forked now has it, too
        kill_one(pool)
        events = until_the_end(pool, len(POLICIES))
        assert pool.capacity == 1
        for key, run in enumerate(alone):
            assert runs_of(events)[key] == (run.status, run.curve, run.metrics)
    finally:
        pool.close()


def test_a_member_that_waits_can_be_dropped(digits_trainer):
    pool = WorkerPool(digits_trainer, 1, "stream", score, 1)
    try:
        pool.add(0, POLICIES[0], 40)
        pool.add(1, POLICIES[1], 40)
        assert pool.stop(1) is None
        assert pool.stop(2) is None
        statuses = {key: status for key, (status, *_) in runs_of(until_the_end(pool, 2)).items()}
        assert statuses == {0: "complete", 1: "pruned"}
    finally:
        pool.close()


def test_a_member_whose_process_is_killed_twice_has_failed(digits_trainer):
    pool = WorkerPool(digits_trainer, 1, "stream", score, 1)
    try:
        pool.add(0, POLICIES[0], 10**6)
        kill_one(pool)
        time.sleep(0.1)
        while not pool._restarted:
            pool._replace(pool._processes[0])
        kill_one(pool)
        (event,) = pool.events()
        assert event.ended
        assert "killed twice" in event.failure
    finally:
        pool.close()


class Breaking(torch.nn.Module):
    """A network whose own code breaks at its third training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(256, 10)
        self.seen = 0

    def forward(self, images):
        self.seen += self.training
        if self.seen > 3:
            raise KeyError("nothing here")
        return self.layer(images.flatten(1))


def test_what_breaks_in_a_process_is_told_in_one_line(digits):
    trainer = Trainer(digits, Breaking, Recipe(pixels="unit"), device="cpu")
    pool = WorkerPool(trainer, 2, "stream", score, 2)
    try:
        pool.add(0, POLICIES[0], 40)
        with pytest.raises(TrainingError, match="KeyError: 'nothing here'") as caught:
            pool.events()
        assert "\n" not in str(caught.value)
    finally:
        pool.close()


PROGRAM = """
    import sys
    from lrbench_hpo import LRPolicy
    from lrbench_hpo.training import Trainer, load_data
    from lrbench_hpo.training.population.workers import WorkerPool

    trainer = Trainer(load_data("digits"), "mlp", device="cpu")
    pool = WorkerPool(trainer, 2, "stream", len, 2)
    for key in range(2):
        pool.add(key, LRPolicy("FIX", k0=0.1), 10**6)
    print(*[worker.process.pid for worker in pool._processes], flush=True)
    while True:
        pool.events()
"""


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_made_them():
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    parent = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(lives(pid) for pid in pids)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
