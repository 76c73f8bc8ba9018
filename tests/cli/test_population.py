"""``lrbench-hpo tune --population`` from the shell: trials trained together."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lrbench_hpo import connect

SMALL = ("digits", "mlp", "--max-iterations", 30)


def local_runs(home):
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        return db.find(source="local")


def test_a_search_tells_its_trials_what_was_spared_and_the_winner(run, home):
    code, out, err = run(
        *("tune", *SMALL, "--trials", 7, "--population", 4, "--processes", 2, "--json", "out.json")
    )
    assert (code, err) == (0, "")
    assert "executor st" in out
    assert out.count("\ntrial ") == 7
    assert "iterations trained of" in out
    assert "measured once: Top-1" in out
    assert len(local_runs(home)) == 7
    trials = json.loads((home / "out.json").read_text())["trials"]
    assert {trial["run"] for trial in trials} == {entry.uid for entry in local_runs(home)}

    # As many as pay; what is stored is recalled, where it would be trained in the same way.
    code, out, err = run(
        *("tune", *SMALL, "--trials", 2, "--population", "auto", "--no-early-stopping")
    )
    assert (code, err) == (0, "")
    assert len(local_runs(home)) == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--population", "0"), "--population 0: expected a whole number of at least 1, or auto"),
        (("--population", "many"), "--population many: expected a whole number"),
        (("--population", "2", "--executor", "steam"), "did you mean stream"),
        (("--population", "2", "--processes", "0"), "--processes"),
        (("--executor", "stream"), "add --population"),
        (("--processes", "2"), "add --population"),
        (("--ray", "--population", "2", "--processes", "2"), "leave it out with --ray"),
        (("--ray", "--early-stopping"), "give --scheduler asha"),
    ],
)
def test_what_cannot_work_is_one_line(run, arguments, says):
    code, out, err = run("tune", *SMALL, "--trials", 2, *arguments)
    assert code == 2
    assert says in out + err


COMMAND = [sys.executable, "-m", "lrbench_hpo", "tune", "digits", "mlp", "-T", "300"]
TOGETHER = ["--population", "4", "--processes", "2", "--executor", "stream"]


def started(home, trials: int, told: int):
    """A search of which so many trials have ended, and the lines so far."""
    process = subprocess.Popen(
        [*COMMAND, *TOGETHER, "--trials", str(trials)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    )
    lines: list[str] = []
    while sum(line.startswith("trial ") for line in lines) < told:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return process, lines


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(home):
    process, lines = started(home, 1000, told=3)
    with process:
        workers = psutil.Process(process.pid).children()
        for each in (*workers, psutil.Process(process.pid)):  # as a terminal does
            each.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "Trials by score" in out
    assert "Run the same command again to go on" in out
    assert len(local_runs(home)) >= sum(line.startswith("trial ") for line in lines)
    assert not any(worker.is_running() for worker in workers)


def test_a_killed_search_keeps_what_is_done_and_leaves_no_process(home):
    process, lines = started(home, 1000, told=3)
    with process:
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 60
    while any(map(lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, workers))
    assert len(local_runs(home)) >= sum(line.startswith("trial ") for line in lines)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
