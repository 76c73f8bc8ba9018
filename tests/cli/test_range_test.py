"""``lrbench-hpo range-test`` on real images, from the shell."""

import json
import signal
import subprocess
import sys
import time

import pytest

from lrbench_hpo import RangeTest, connect

SMALL = ("range-test", "digits", "mlp", "--max-iterations", 100)


def test_it_says_what_was_found_what_it_cost_and_what_to_do_next(run, home):
    code, out, err = run(*SMALL, "--plot", "test.png")
    assert (code, err) == (0, "")
    for part in ("reference LR", "usable LRs", "iterations", "% of one trial of 100", "1 run"):
        assert part in out
    assert (home / "test.png").read_bytes().startswith(b"\x89PNG")
    [line] = [line for line in out.splitlines() if line.startswith("next: ")]
    assert line.startswith("next: lrbench-hpo tune digits mlp --reference-lr 0.")
    command = line.removeprefix("next: lrbench-hpo ").split()
    code, _, err = run(*command, "--trials", 1)
    assert (code, err) == (0, "")

    code, out, _ = run(*SMALL)
    assert code == 0
    assert "0 iterations" in out
    assert "not done again" in out
    assert "LR range tests" in run("db", "stats")[1]


def test_json_is_the_whole_test(run, home):
    code, out, err = run(*SMALL, "--json", "--no-store", "--optimizer", "adam")
    assert (code, err) == (0, "")
    result = RangeTest.from_dict(json.loads(out))
    assert result.iterations == sum(map(len, result.losses)) > 0
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        assert db.stats().range_tests == 0


def test_the_coarse_search(run):
    code, out, err = run(*SMALL, "--method", "coarse", "--plot", "coarse.svg")
    assert (code, err) == (0, "")
    assert "trainings" in out
    assert "Top-1 by LR: " in out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--method", "smit"), "smith"),
        (("--plot", "x.gif"), ".gif"),
        (("--low", "1", "--high", "0.1"), "low=1"),
        (("--runs", "0"), "runs=0"),
        (("--max-iterations", "0"), "max_iterations"),
        (("--database", "mysql://h/x"), "mysql"),
        (("--device", "gpu"), "gpu"),
    ],
)
def test_what_cannot_work_is_one_line(run, options, part):
    code, out, err = run(*SMALL, *options)
    assert code == 2
    assert part in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_word_and_stores_nothing(home):
    command = [sys.executable, "-m", "lrbench_hpo", "range-test", "digits", "resnet20"]
    options = ["--max-iterations", "100000", "--database", "lr.db"]
    process = subprocess.Popen(
        [*command, *options], cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (home / "lr.db").exists():
        time.sleep(0.1)
    time.sleep(1)  # it trains for many seconds
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.split() == ["stopped"]
    with connect(home / "lr.db") as db:
        assert db.stats().range_tests == 0


def test_tune_tests_first_where_the_lr_scale_is_unknown(run, home):
    search = ("tune", "digits", "mlp", "-T", 60, "--optimizer", "adam", "--trials", 1)
    code, out, err = run(*search, "--no-range-test", "--database", "plain.db")
    assert (code, err) == (0, "")
    assert "range test" not in out

    code, out, err = run(*search)
    assert (code, err) == (0, "")
    assert "range test: reference LR" in out
    assert "% of a trial)" in out
    assert "(measured by a range test)" in out
    code, out, err = run(*search)  # it is stored, and not done again
    assert (code, err) == (0, "")
    assert "range test: reference LR" not in out
    assert "(measured by a range test)" in out
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        assert db.stats().range_tests == 1


def test_tune_needs_no_test_where_the_lr_scale_is_known_or_the_lr_is_given(run):
    for options in (("--optimizer", "sgd"), ("--optimizer", "adam", "--reference-lr", 0.003)):
        code, out, err = run("tune", "digits", "mlp", "-T", 30, "--trials", 1, *options)
        assert (code, err) == (0, "")
        assert "range test" not in out
