"""What a whole search asks of a cluster of several nodes, and what it does when one breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from lrbench_hpo import connect
from lrbench_hpo.errors import StudyError, UnknownNameError
from lrbench_hpo.ray_tune.cluster import Share, scheduler_for, share_of


@pytest.mark.slow
def test_a_trial_gets_what_a_node_of_the_cluster_has(cluster):
    """Three nodes with a CPU each: three trials of one CPU, and none of two."""
    assert share_of(trials=10) == Share(1.0, 0.0, 3)
    assert share_of(trials=2) == Share(1.0, 0.0, 2)
    assert share_of(0.5, trials=10) == Share(0.5, 0.0, 6)
    assert share_of(concurrent=2, trials=10) == Share(1.0, 0.0, 2)
    assert share_of(0.5, 0, 4, trials=10).to_dict() == {"cpu": 0.5, "gpu": 0}

    for cpus, gpus in ((2, None), (1, 1), (None, 0.5)):
        with pytest.raises(StudyError, match="fits on no node") as refused:
            share_of(cpus, gpus, trials=10)
        assert "the largest has 1 and 0" in str(refused.value)
        assert "\n" not in str(refused.value)
    # A cluster that grows gets such nodes once a trial waits for them.
    assert share_of(2, concurrent=5, trials=10) == Share(2, 0.0, 5)
    assert share_of(1, 1, 5, trials=3) == Share(1, 1, 3)

    cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=100 * 1024**2)
    cluster.wait_for_nodes()
    assert share_of(trials=10) == Share(1.0, 1.0, 2)
    assert share_of(gpus=0, trials=10) == Share(1.0, 0, 7)
    assert share_of(1, 0.5, trials=10) == Share(1, 0.5, 4)
    assert share_of(2, trials=10) == Share(2, 1.0, 2)


def test_the_scheduler_compares_by_iterations():
    scheduler = scheduler_for("asha", 400)
    assert isinstance(scheduler, ASHAScheduler)
    assert (scheduler._time_attr, scheduler._max_t) == ("iteration", 400)
    [bracket] = scheduler._brackets
    assert sorted(rung for rung, _ in bracket._rungs) == [100, 200, 400]
    assert type(scheduler_for("none", 400)) is FIFOScheduler
    assert scheduler_for("asha", 1)._max_t == 1


def test_a_scheduler_that_cannot_be_is_one_line():
    with pytest.raises(UnknownNameError, match="did you mean asha"):
        scheduler_for("ash", 400)
    for name in ("pbt", "PB2"):
        with pytest.raises(StudyError, match="takes them from no searcher"):
            scheduler_for(name, 400)


def training(cluster):
    """Processes of this cluster's workers that train just now."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    for node in nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for worker in raylet.children(recursive=True):
            try:
                title = worker.cmdline()
            except psutil.Error:  # it has just ended
                continue
            if title and title[0].startswith("ray::Train.train"):
                yield worker


@pytest.mark.slow
def test_a_search_on_a_cluster_survives_a_killed_worker(cluster, tmp_path):
    file, found = tmp_path / "lr.db", tmp_path / "out.json"
    log = tmp_path / "log"
    command = [sys.executable, "-u", "-m", "lrbench_hpo", "tune", "digits", "mlp"]
    command += ["--ray", cluster.address, "-T", "3000", "--trials", "6", "--scheduler", "none"]
    command += ["--storage", tmp_path / "results", "--database", file, "--json", found]
    with log.open("w") as out:
        search = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path
        )
    try:
        while not (victims := list(training(cluster))):
            assert search.poll() is None, log.read_text()
            time.sleep(0.05)
        os.kill(victims[0].pid, signal.SIGKILL)
        search.wait(timeout=300)
    finally:
        search.kill()
        search.wait()
    text = log.read_text()
    assert search.returncode == 0, text
    assert f"on Ray at {cluster.address}: 3 trials at once, 1 CPU each" in text
    [line] = [line for line in text.splitlines() if "it goes on from its last checkpoint" in line]
    assert line.startswith("trial ")
    assert "Traceback" not in text
    assert "measured once: Top-1" in text
    trials = json.loads(found.read_text())["trials"]
    with connect(file) as db:
        runs = db.find(source="local", curves=True)
    assert len(trials) == len(runs) == 6
    assert sorted(run.notes["ray_trial"] for run in runs) == sorted(t["trial_id"] for t in trials)
    assert max(Counter(run.policy for run in runs).values()) == 1
    assert {run.status for run in runs} <= {"complete", "diverged"}
    assert {run.curve[-1].iteration for run in runs if run.status == "complete"} == {3000}
