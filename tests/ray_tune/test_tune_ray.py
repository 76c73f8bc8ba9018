"""``lrbench-hpo tune --ray``: the same job with its trials on Ray.

Only what is about the program's own process runs as one. All else runs in this process, with its
trials on the Ray that the tests share: a process with torch and a Ray take ten seconds to start.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from lrbench_hpo import LRPolicy, connect
from lrbench_hpo.cli import main

pytestmark = pytest.mark.slow

MLP = ("tune", "digits", "mlp")
AT_ONCE = 2  # trials that a search on a Ray of its own runs at the same time here, a CPU each

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("LRBENCH_DATABASE_URL", "LRBENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def run(home, monkeypatch) -> Run:
    """Run the command line in this process: its exit status, and all that it prints."""
    ray.shutdown()
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the command line changes
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run_here(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lrbench-hpo", *map(str, arguments)])
        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            pytest.raises(SystemExit) as end,
        ):
            main()
        assert "Traceback" not in out.getvalue()
        return end.value.code, out.getvalue()

    return run_here


@pytest.fixture
def search(run, ray_address) -> Run:
    """Run a search in this process, one trial at a time, on the Ray that the tests share."""

    def on_ray(*arguments: object) -> tuple[int, str]:
        options = ["--ray", ray_address, "--max-concurrent", 1]
        if "--storage" not in arguments:
            options += ["--storage", "ray"]
        return run(*arguments, *options)

    return on_ray


def started(home: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "lrbench_hpo", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env=dict(os.environ),
    )


def run_alone(home: Path, *arguments: object) -> tuple[int, str]:
    """Run the command line as a process of its own."""
    process = started(home, *arguments)
    out, _ = process.communicate(timeout=300)
    assert "Traceback" not in out
    return process.returncode, out


def local_runs(home: Path) -> list:
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        return db.find(source="local")


def until_a_trial_has_ended(process: subprocess.Popen[str], ended: int = 1) -> list[str]:
    lines = []
    for line in process.stdout:
        lines.append(line)
        ended -= line.startswith("trial ")
        if not ended:
            return lines
    raise AssertionError("".join(lines))


def test_a_search_ends_with_the_same_table_and_the_next_repeats_no_training(home, search):
    code, out = run_alone(home, *MLP, "--ray", "-T", 30, "--trials", 6, "--json", "out.json")
    assert code == 0, out
    assert "on a Ray of your own on this machine" in out
    assert "starting from 5 published results" in out
    assert "Trials by score" in out
    assert "measured once: Top-1" in out
    stored = local_runs(home)
    assert len(stored) == 6
    results = json.loads((home / "out.json").read_text())
    assert len(results["trials"]) == 6
    assert results["test"]["trial"] == results["trials"][0]["number"]
    assert {trial["trial_id"] for trial in results["trials"]} == {
        entry.notes["ray_trial"] for entry in stored
    }

    code, out = search(*MLP, "-T", 30, "--trials", 2)
    assert code == 0, out
    assert "not done again" in out
    assert len(local_runs(home)) == 8
    trainings = [(run.policy, run.seed) for run in local_runs(home)]
    assert len(set(trainings)) == len(trainings)


def test_populations_are_rows_of_the_same_table(home, search):
    command = (*MLP, "-T", 40, "--trials", 5, "--population", 3, "--executor", "stream")
    code, out = search(*command, "--json", "out.json")
    assert code == 0, out
    assert "2 populations of 3, " in out
    assert "measured once: Top-1" in out
    stored = local_runs(home)
    assert len(stored) == len({entry.policy for entry in stored}) == 6
    assert {entry.notes["ray_member"] for entry in stored} == {0, 1, 2}
    results = json.loads((home / "out.json").read_text())
    assert len(results["trials"]) == 6
    assert all(f"trial {trial['number']}: score" in out for trial in results["trials"])


def test_what_a_scheduler_cuts_is_printed_and_stored_as_pruned(home, search):
    code, out = search(*MLP, "-T", 200, "--trials", 8, "--scheduler", "asha", "--seed", 1)
    assert code == 0, out
    statuses = [entry.status for entry in local_runs(home)]
    assert len(statuses) == 8
    assert "pruned" in statuses
    assert ", pruned, " in out


def test_a_file_of_ones_own_is_found_by_workers_in_other_folders(home, search):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (300, 8, 8), dtype=np.uint8)
    labels = generator.integers(0, 3, 300)
    np.savez(home / "mine.npz", train_images=images, train_labels=labels)
    (home / "linear_net.py").write_text(
        "import torch\n"
        "def make(num_classes, image_shape):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    arguments = ("tune", "mine.npz", "linear_net:make", "-T", 10, "--trials", 2)
    code, out = search(*arguments, "--batch-size", 20)
    assert code == 0, out
    assert len(local_runs(home)) == 2


def test_ctrl_c_keeps_what_was_done(home, ray_address):
    on_ray = ("--ray", ray_address, "--max-concurrent", 1)
    process = started(home, *MLP, "-T", 400, "--trials", 200, *on_ray)
    lines = until_a_trial_has_ended(process)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    out = "".join(lines) + rest
    assert process.returncode == 130, out
    assert "Trials by score" in rest
    assert "Run the same command again" in rest
    assert "Traceback" not in out
    assert local_runs(home)


def until_trials_train(process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many workers of the Ray that the tests share train."""
    while True:
        assert process.poll() is None, process.stdout.read()
        titles = []
        for worker in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                titles += worker.cmdline()[:1]
        if sum(title.startswith("ray::Train.train") for title in titles) >= count:
            return
        time.sleep(0.1)


def test_ctrl_c_during_the_last_trials_measures_no_winner(home, ray_address):
    """There is nothing left to suggest, but these trials have not ended."""
    arguments = ("--max-iterations", 10**6, "--trials", 2, "--max-concurrent", 2)
    process = started(home, *MLP, *arguments, "--ray", ray_address, "--cpus-per-trial", 0.5)
    until_trials_train(process, 2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "measured once" not in out
    assert "Run the same command again" in out
    assert "Traceback" not in out
    assert "complete" not in {entry.status for entry in local_runs(home)}


def test_a_name_of_another_search_is_refused(home, search):
    (home / "digits" / "train" / "cat").mkdir(parents=True)  # changes nothing
    mine = ("--trials", 1, "--study-name", "mine", "--storage", "here")
    code, out = search(*MLP, "-T", 20, *mine)
    assert code == 0, out
    for command, says in (
        (("tune", "digits", "lenet", "-T", 20), "lenet"),
        ((*MLP, "-T", 30), "20, not 30"),
        ((*MLP, "-T", 20, "--seed", 1), "seed 0, not 1"),
    ):
        code, out = search(*command, *mine)
        assert code == 2, out
        last = out.strip().splitlines()[-1]
        assert "study 'mine' was created with" in last
        assert says in last
        assert "measured once" not in out
    [entry] = local_runs(home)
    assert (entry.task.dataset, entry.task.num_train) == ("digits", 1437)


def test_when_all_trials_fail_the_reason_is_one_line(home, search, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.ray_tune.search._MAX_FAILURES", 0)  # they would fail again
    (home / "failing_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes, image_shape):\n"
        "        super().__init__()\n"
        "        self.last = torch.nn.Linear(256, num_classes)\n"
        "    def forward(self, images):\n"
        "        if len(images) > 10:  # the check before the search gives it fewer\n"
        "            raise RuntimeError('first line\\nsecond line')\n"
        "        return self.last(images.flatten(1))\n"
    )
    code, out = search("tune", "digits", "failing_net:Net", "-T", 10, "--trials", 2)
    assert code == 1, out
    last = out.strip().splitlines()[-1]
    assert last == "lrbench-hpo: all 2 trials failed: RuntimeError: first line second line"


def test_a_killed_search_goes_on_under_its_name(home, search):
    arguments = (*MLP, "-T", 600, "--trials", 6, "--study-name", "mine", "--storage", "here")
    process = started(home, *arguments, "--ray")
    until_a_trial_has_ended(process, 2)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out = search(*arguments, "--json", "out.json")
    assert code == 0, out
    trials = json.loads((home / "out.json").read_text())["trials"]
    assert len(trials) == 6
    policies = [json.dumps(trial["policy"]) for trial in trials]
    assert len(set(policies)) == 6
    # A trial that ended between Ray's last snapshot and the kill is asked for again, and what it
    # gets depends on the results known by then: the run that was stored for it stays as well.
    stored = local_runs(home)
    assert 6 <= len(stored) <= 6 + AT_ONCE
    assert {run.policy for run in stored} >= {LRPolicy.from_dict(t["policy"]) for t in trials}
    assert {entry.status for entry in stored} <= {"complete", "diverged"}

    more = [8 if argument == 6 else argument for argument in arguments]
    code, out = search(*more)
    assert code == 0, out
    assert "'mine' was begun with 6 trials, which stays so" in out
    assert len(local_runs(home)) == len(stored)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ray", "--scheduler", "pbt"), "population based training changes policies"),
        (("--ray", "--scheduler", "hyper"), "unknown scheduler 'hyper'"),
        (("--scheduler", "asha"), "add --ray"),
        (("--cpus-per-trial", 2), "add --ray"),
        (("--ray", "shared", "--cpus-per-trial", 1000), "fits on no node"),
        (("--ray", "--cpus-per-trial", 0), "expected a number above 0"),
        (("--ray", "--gpus-per-trial", -1), "--gpus-per-trial -1"),
        (("--ray", "--gpus-per-trial", 1.5), "above 1, expected a whole number"),
        (("--ray", "--max-concurrent", 0), "--max-concurrent 0"),
        (("--ray", "ray://h:1"), "Ray at 'ray://h:1': through Ray Client"),
        (("--ray", "--storage", "sqlite:///s.db"), "a folder or URL that all nodes can write to"),
        (("--ray", "--storage", "/proc/nope"), "expected a folder that can be written"),
        (("--ray", "--database", "mongodb://h/x"), "mongodb"),
        (("--ray", "--objective", "scor"), "did you mean score"),
        (("--ray", "shared", "--device", "cuda:9"), "device"),
    ],
)
def test_bad_input_is_one_clear_line(run, ray_address, arguments, says):
    given = [ray_address if argument == "shared" else argument for argument in arguments]
    code, out = run(*MLP, "--trials", 2, *given)
    assert code == 2, out
    assert says in out.strip().splitlines()[-1]


def test_bad_input_is_one_clear_line_of_the_whole_program(home):
    code, out = run_alone(home, *MLP, "--trials", 2, "--ray", "127.0.0.1:1")
    assert code == 2, out
    [line] = out.strip().splitlines()
    assert "Ray at '127.0.0.1:1'" in line


def test_a_range_test_comes_first_where_nothing_tells_the_lr_scale(home, search) -> None:
    code, out = search(*MLP, "-T", 60, "--optimizer", "adam", "--trials", 1)
    assert code == 0, out
    assert "range test: reference LR" in out
    assert "(measured by a range test)" in out
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        [run_of_trial] = db.find(source="local")
        [test] = db.range_tests(run_of_trial.task)
    assert 0 < test.iterations <= 30
