"""``lrbench-hpo tune --population`` from the shell: trials trained together."""

import json
import signal
import subprocess
import sys
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from lrbench_hpo import connect
from lrbench_hpo.cli.options import take_population_options
from lrbench_hpo.study.optuna_internals import enqueued_params

SMALL = ("digits", "mlp", "--max-iterations", 30)


def local_runs(home):
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        return db.find(source="local")


@pytest.mark.slow
def test_a_search_tells_its_trials_what_was_spared_and_the_winner(run, home):
    options = ("--trials", 7, "--population", 4, "--processes", 2, "--json", "out.json")
    code, out, err = run("tune", *SMALL, *options)
    assert (code, err) == (0, "")
    assert "executor st" in out
    assert out.count("\ntrial ") == 7
    assert "iterations trained of" in out
    assert "measured once: Top-1" in out
    assert len(local_runs(home)) == 7
    trials = json.loads((home / "out.json").read_text())["trials"]
    assert {trial["run"] for trial in trials} == {entry.uid for entry in local_runs(home)}

    # As many as pay; what is stored is recalled, where it would be trained in the same way.
    options = ("--trials", 2, "--population", "auto", "--no-early-stopping")
    code, out, err = run("tune", *SMALL, *options)
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
        (("--objective", "pareto", "--early-stopping"), "leave out --early-stopping, or"),
        (
            ("--objective", "pareto", "--population", "2", "--early-stopping", "--ray"),
            "--objective pareto: a trial with a low score",
        ),
    ],
)
def test_what_cannot_work_is_one_line(run, arguments, says):
    code, out, err = run("tune", *SMALL, "--trials", 2, *arguments)
    assert code == 2
    assert says in out + err


COMMAND = [sys.executable, "-m", "lrbench_hpo", "tune", "digits", "mlp", "-T", "300"]
TOGETHER = ["--population", "4", "--processes", "2", "--executor", "stream"]


STORED = ("--storage", "sqlite:///study.db")


def started(home, trials: int, ended: int, *more: str):
    """A search of which so many trials have ended, and the lines so far."""
    process = subprocess.Popen(
        [*COMMAND, *TOGETHER, "--trials", str(trials), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    )
    lines: list[str] = []
    while sum(line.startswith("trial ") for line in lines) < ended:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return process, lines


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(home):
    process, lines = started(home, 1000, ended=3)
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


@pytest.mark.parametrize("on_ray", [False, True])
@pytest.mark.parametrize(("objective", "stopping"), [("score", True), ("pareto", False)])
def test_a_population_stops_losers_of_a_score_alone(objective, stopping, on_ray):
    given = {"population": 2, "executor": None, "processes": None, "early_stopping": None}
    asked = take_population_options({**given, "objective": objective}, on_ray=on_ray)
    assert asked.early_stopping is stopping


def test_several_objectives_stop_nobody_unasked(run):
    given = (*SMALL, "--trials", 3, "--population", 2, "--processes", 1, "--executor", "stream")
    code, out, err = run("tune", *given, "--objective", "pareto")
    assert (code, err) == (0, "")
    assert ": 0 spared by early stopping" in out


@pytest.mark.slow
def test_a_killed_search_keeps_what_is_done_and_leaves_no_process(run, home):
    process, lines = started(home, 1000, 3, *STORED)
    with process:
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 60
    while any(map(lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, workers))
    assert len(local_runs(home)) >= sum(line.startswith("trial ") for line in lines)

    # What was under way is ended by the next command, and what was known to be good asked again.
    code, _, err = run(*COMMAND[3:], "--trials", 1, *STORED)
    assert (code, err) == (0, "")
    stored = f"sqlite:///{home / 'study.db'}"
    trials = optuna.load_study(study_name="digits-mlp", storage=stored).trials
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert lost
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    known_good = [t.params for t in lost if t.user_attrs["suggestion"]["source"] == "portfolio"]
    asked = [t.params or enqueued_params(t) for t in trials if t not in lost]
    assert all(params in asked for params in known_good)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
