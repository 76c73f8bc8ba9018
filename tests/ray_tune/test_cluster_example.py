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
    given = [
        *OPTIONS,
        *map(str, options),
        "--trials",
        str(trials),
        "--storage",
        tmp_path / "results",
    ]
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM, *given],
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
def test_one_machine(tmp_path):
    first, runs = search(tmp_path, trials=2)
    assert "Connecting to existing" not in first.stderr
    assert len(runs) == 2
    assert search(tmp_path, trials=2)[1] == runs  # nothing was left to do


@pytest.mark.slow
def test_populations_on_one_machine(tmp_path):
    done, runs = search(tmp_path, "--population", 2, trials=3, says="2 of 2 populations ended, 0")
    assert "4 policies, " in done.stdout
    assert len(runs) == 4
    with lrbench_hpo.connect(tmp_path / "lr.db") as db:
        assert {run.notes["ray_member"] for run in db.find(source="local")} == {0, 1}
    assert sum(" score " in line for line in done.stdout.splitlines()) == 4 + 1  # and the best
    assert "None" not in done.stdout


@pytest.mark.slow
def test_the_cluster_of_the_environment(cluster, tmp_path):
    done, runs = search(tmp_path, trials=3, RAY_ADDRESS=cluster.address)
    assert f"Connecting to existing Ray cluster at address: {cluster.address}" in done.stderr
    assert len(runs) == 3
