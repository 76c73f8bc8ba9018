"""``lrbench-hpo tune`` on real images, from the shell."""

import json
import signal
import sqlite3
import subprocess
import sys

import pytest

from lrbench_hpo import LRPolicy, Run, connect

SMALL = ("digits", "mlp", "--max-iterations", 30)


def local_runs(home):
    with connect(home / "data" / "lrbench_hpo" / "lrbench.db") as db:
        return db.find(source="local")


def test_a_search_ends_with_a_ranked_table_and_the_next_starts_from_it(run, home):
    code, out, err = run("tune", *SMALL, "--trials", 6, "--json", "out.json")
    assert (code, err) == (0, "")
    assert "starting from 5 published results" in out
    assert "Trials by score" in out
    assert "measured once: Top-1" in out
    assert len(local_runs(home)) == 6

    results = json.loads((home / "out.json").read_text())
    scores = [trial["score"] for trial in results["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert results["test"]["trial"] == results["trials"][0]["number"]
    best = LRPolicy.from_dict(results["trials"][0]["policy"])
    assert str(best)[:15] in out

    code, out, _ = run("tune", *SMALL, "--trials", 3)
    assert code == 0
    assert "of your own results" in out
    assert "your own run on digits/mlp" in out
    # The known results are recalled at no cost, and as many new ones as asked for are learnt.
    assert "not done again" in out
    assert len(local_runs(home)) == 9


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_in_any_process(run, run_process, home):
    figures = []
    for command, name in ((run, "a.db"), (run_process, "b.db")):
        options = ("--trials", 6, "--json", "o.json", "--database", name)
        code, _, err = command("tune", *SMALL, *options)
        assert (code, err) == (0, "")
        trials = json.loads((home / "o.json").read_text())["trials"]
        figures.append([(t["policy"], t["top1"], t["train_loss"]) for t in trials])
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_study_in_a_storage_is_gone_on_with(run, home):
    storage = ("--storage", "sqlite:///study.db")
    assert run("tune", *SMALL, "--trials", 2, *storage)[0] == 0
    code, out, _ = run("tune", *SMALL, "--trials", 4, *storage, "--json", "o.json")
    assert code == 0
    assert "going on with study 'digits-mlp' after 2 trials" in out
    assert len(json.loads((home / "o.json").read_text())["trials"]) == 6


def test_a_pareto_search(run):
    code, out, err = run("tune", *SMALL, "--trials", 3, "--objective", "pareto")
    assert (code, err) == (0, "")
    assert "Trials by score" in out


def test_all_trials_diverging_is_one_line(run, home):
    (home / "net.py").write_text(
        "import torch\n"
        "def make(num_classes, image_shape):\n"
        "    layers = [torch.nn.Linear(256, 256) for _ in range(3)]\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(256, 10))\n"
    )
    (home / "hot.yaml").write_text("functions:\n  FIX:\n    peak: {low: 900, high: 1000}\n")
    options = ("--trials", 2, "--search-space", "hot.yaml", "--reference-lr", 1)
    code, out, err = run("tune", "digits", "net:make", "-T", 30, *options)
    assert code == 2
    assert "no trial has finished without diverging" in err
    assert "diverged" in out
    assert {stored.status for stored in local_runs(home)} == {"diverged"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(home):
    command = [sys.executable, "-m", "lrbench_hpo", "tune", "digits", "mlp", "-T", "300"]
    with subprocess.Popen(
        [*command, "--trials", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    ) as process:
        lines = []
        while sum(line.startswith("trial ") for line in lines) < 3:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "Trials by score" in out
    assert "Run the same command again to go on" in out
    # A line whose printing is interrupted may come twice.
    printed = {line.strip() for line in [*lines, *out.splitlines()] if line.startswith("trial ")}
    trained = [line for line in printed if "not done again" not in line]
    assert len(local_runs(home)) >= len(trained) >= 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("digit", "mlp"), "did you mean digits"),
        (("digits", "lenett"), "did you mean lenet"),
        (("digits", "mlp", "--functions", "SINNEXP"), "did you mean SINEXP"),
        (("digits", "mlp", "--optimizer", "sdg"), "did you mean sgd"),
        (("digits", "mlp", "--device", "cuda:9"), "device"),
        (("digits", "mlp", "--max-iterations", 0), "max_iterations=0"),
        (("digits", "mlp", "--batch-size", 5000), "batch"),
        (("digits", "mlp", "--batch-size", -1), "batch_size=-1"),
        (("digits", "mlp", "--trials", 0), "--trials 0"),
        (("digits", "mlp", "--trials", "few"), "few"),
        (("digits", "mlp", "--search-space", "none.yaml"), "none.yaml"),
        (("digits", "mlp", "--database", "mongodb://h/x"), "mongodb"),
        (("digits", "mlp", "--storage", "nonsense"), "storage"),
        (("digits", "mlp", "--study-name", "s"), "--storage"),
        (("digits", "mlp", "--json", "no/such/folder.json"), "--json"),
        (("digits", "mlp", "--reference-lr", 500), "reference_lr=500"),
        (("mnist", "lenet"), "--data"),
        (("digits", "nothing.like:this"), "nothing"),
        (("digits", "torchvision:resnet180"), "resnet18"),
        (("digits",), "MODEL"),
    ],
)
def test_bad_input_is_one_clear_line(run, home, arguments, says):
    code, out, err = run("tune", *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    message = [line for line in err.splitlines() if not line.startswith(("Usage", "Try"))]
    assert len([line for line in message if line.strip()]) == 1


def test_a_model_that_breaks_in_the_middle_loses_no_finished_trial(run, home):
    (home / "late.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    calls = 0\n"
        "    def __init__(self, num_classes, image_shape):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(256, num_classes)\n"
        "    def forward(self, images):\n"
        "        Net.calls += self.training\n"
        "        if Net.calls > 80:\n"
        "            raise ValueError('late failure')\n"
        "        return self.layer(images.flatten(1))\n"
    )
    code, out, err = run("tune", "digits", "late:Net", "-T", 30, "--trials", 5, "--json", "o.json")
    assert code == 1
    assert "late failure" in err
    assert len(err.splitlines()) == 1
    assert "Trials by score" in out
    assert len(local_runs(home)) == 2
    assert len(json.loads((home / "o.json").read_text())["trials"]) == 2


def test_results_that_the_database_does_not_take_are_rescued(run, home):
    assert run("tune", *SMALL, "--trials", 1)[0] == 0
    file = home / "data" / "lrbench_hpo" / "lrbench.db"
    with sqlite3.connect(file) as other:  # no row may be added any more, as on a full disk
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON lrbench_runs "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    code, out, err = run("tune", *SMALL, "--trials", 6, "--seed", 1)
    assert (code, err) == (1, "")
    assert "warning: " in out
    [waiting] = file.parent.glob("waiting-*.jsonl")
    assert f"6 results: they wait in {waiting} and follow" in out
    with sqlite3.connect(file) as other:
        other.execute("DROP TRIGGER full")
    code, out, err = run("tune", *SMALL, "--trials", 1, "--seed", 2)
    assert (code, err) == (0, "")
    assert len(local_runs(home)) == 8
    assert not waiting.exists()


def test_results_that_nothing_takes_are_written_where_one_is(run, home):
    assert run("tune", *SMALL, "--trials", 1, "--database", "lr.db")[0] == 0
    with sqlite3.connect(home / "lr.db") as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON lrbench_runs "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    (home / "taken").write_text("in the place of the data folder")
    options = ("--trials", 3, "--seed", 1, "--database", "lr.db")
    code, out, err = run("tune", *SMALL, *options, XDG_DATA_HOME=str(home / "taken"))
    assert (code, err) == (1, "")
    assert "results wait in memory only" in out
    [rescued] = home.glob("lrbench-unstored-*.json")
    runs = [Run.from_dict(entry) for entry in json.loads(rescued.read_text())]
    assert len(runs) == 3


def test_a_broken_database_is_refused_and_left_alone(run, home):
    (home / "notes.db").write_text("no database at all\n" * 100)
    before = (home / "notes.db").read_bytes()
    code, out, err = run("tune", *SMALL, "--database", "notes.db")
    assert (code, out) == (2, "")
    assert "notes.db" in err
    assert (home / "notes.db").read_bytes() == before


def test_a_missing_data_set_says_where_it_was_looked_for(run, home):
    code, _, err = run("tune", "cifar10", "cnn3", LRBENCH_DATA=str(home / "images"))
    assert code == 2
    assert str(home / "images") in err
    assert "--download" in err
