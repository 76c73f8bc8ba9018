"""examples/cluster/search.py runs unchanged on one machine and on a cluster."""

import os
import pathlib
import subprocess
import sys

import pytest

import lrbench_hpo

PROGRAM = pathlib.Path(__file__).parents[2] / "examples" / "cluster" / "search.py"
OPTIONS = ["--model", "mlp", "--max-iterations", "50"]


def search(tmp_path, *options, trials, says=None, **variables):
    database = tmp_path / "lr.db"
    given = [*OPTIONS, *options, "--trials", trials, "--storage", tmp_path / "results"]
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM, *map(str, given)],
        cwd=tmp_path,
        env={**os.environ, "LRBENCH_DATABASE_URL": f"sqlite:///{database}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = says or f"{trials} of {trials} trials ended, 0 of them cut, 0 failed"
    assert said in done.stdout
    assert "best: score" in done.stdout
    with lrbench_hpo.connect(database) as db:
        return done, {run.uid for run in db.find(source="local")}


@pytest.mark.slow
def test_one_machine_and_then_nothing_is_left_to_do(ray_address, tmp_path):
    first, runs = search(tmp_path, trials=2)
    assert "Connecting to existing" not in first.stderr
    assert len(runs) == 2
    assert search(tmp_path, trials=2, RAY_ADDRESS=ray_address)[1] == runs


@pytest.mark.slow
def test_populations_on_the_cluster_of_the_environment(cluster, tmp_path):
    done, runs = search(
        tmp_path,
        "--population",
        2,
        trials=3,
        says="2 of 2 populations ended, 0",
        RAY_ADDRESS=cluster.address,
    )
    assert f"Connecting to existing Ray cluster at address: {cluster.address}" in done.stderr
    assert "4 policies, " in done.stdout
    assert len(runs) == 4
    with lrbench_hpo.connect(tmp_path / "lr.db") as db:
        assert {run.notes["ray_member"] for run in db.find(source="local")} == {0, 1}
    assert sum(" score " in line for line in done.stdout.splitlines()) == 4 + 1  # and the best
    assert "None" not in done.stdout
