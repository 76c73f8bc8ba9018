"""``recommend``, ``rank``, ``functions``, ``plot`` and ``db`` from the shell."""

import json

import pytest

from lrbench_hpo import LRPolicy
from lrbench_hpo.cli.plot import parse_policy
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.policies import ALL_FUNCTIONS

SINEXP = "SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)"


def test_recommend_prints_policies_with_their_evidence(run):
    code, out, err = run("recommend", "cifar10", "resnet32", "-n", 2)
    assert (code, err) == (0, "")
    assert SINEXP in out
    assert "Table IX" in out
    assert "starting from 2 published results" in out


def test_recommend_as_json(run):
    code, out, _ = run("recommend", "digits", "lenet", "--json", "-T", 300)
    found = json.loads(out)
    assert code == 0
    assert len(found) == 5
    policies = [LRPolicy.from_dict(entry["policy"]) for entry in found]
    assert [policy.l for policy in policies] == [300, 300, 60, 60, 60]


def test_recommend_is_honest_about_what_nobody_knows(run):
    code, out, _ = run("recommend", "audio", "transformer", "--optimizer", "adamw")
    assert code == 0
    assert "nothing similar to audio/transformer is known" in out


def test_rank_shares_ranks_within_the_noise(run):
    code, out, err = run("rank", "mnist", "lenet", "--by", "top1", "--json")
    assert (code, err) == (0, "")
    [board] = json.loads(out)
    first = {entry["policy"]["function"] for entry in board["ranked"] if entry["rank"] == 1}
    assert first == {"SIN2", "COS", "SIN"}
    code, out, _ = run("rank", "mnist", "lenet")
    assert code == 0
    assert "lrbench-paper" in out


def test_functions_lists_all_with_their_formulas(run):
    code, out, _ = run("functions")
    assert code == 0
    assert all(f" {name} " in out for name in ALL_FUNCTIONS)


def test_db_stats(run):
    code, out, _ = run("db", "stats")
    assert code == 0
    assert "lrbench.db" in out
    assert "61" in out
    code, out, _ = run("db", "stats", LRBENCH_DATABASE_URL="sqlite:///other.db")
    assert code == 0
    assert "other.db" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_draws_policies(run, home, suffix):
    picture = home / f"curves.{suffix}"
    code, out, err = run("plot", SINEXP, "FIX(k0=0.1)", "-T", 64_000, "-o", picture)
    assert (code, err) == (0, "")
    assert picture.name in out
    assert picture.stat().st_size > 5_000
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert picture.read_bytes().startswith(starts[suffix])


def test_plot_draws_what_is_recommended(run, home):
    code, _, err = run("plot", "--recommended", "mnist", "lenet", "-o", "r.svg")
    assert (code, err) == (0, "")
    assert b"SINEXP" in (home / "r.svg").read_bytes()


@pytest.mark.parametrize("policy", sorted({r.policy for r in paper_runs()}, key=str), ids=str)
def test_policies_are_read_as_they_are_printed(policy):
    assert parse_policy(str(policy)) == policy
    assert parse_policy(json.dumps(policy.to_dict())) == policy


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("recommend", "mnist", "lenet", "-n", 0), "n=0"),
        (("recommend", "mnist"), "MODEL"),
        (("rank", "mnist", "lenett"), "did you mean MNIST LeNet"),
        (("rank", "mnist", "lenet", "--by", "topp"), "did you mean top1"),
        (("plot", "-o", "x.png"), "nothing to draw"),
        (("plot", SINEXP, "-o", "x.png"), "--max-iterations"),
        (("plot", SINEXP, "-T", 10, "-o", "x.gif"), ".gif"),
        (("plot", SINEXP, "-T", -1, "-o", "x.png"), "max_iterations=-1"),
        (("plot", "SINEXP(k0=0)", "-T", 10, "-o", "x.png"), "k0"),
        (("plot", "SINNEXP(k0=1)", "-T", 10, "-o", "x.png"), "did you mean SINEXP"),
        (("plot", "FIX(k0=__import__('os'))", "-T", 10, "-o", "x.png"), "expected a policy"),
        (("plot", "FIX", "-T", 10, "-o", "x.png"), "expected a policy"),
        (("plot", SINEXP, "-T", 10, "-o", "no/where.png"), "no/where.png"),
        (("db", "stats", "--database", "mysql://h/x"), "mysql"),
        (("dp", "stats"), "dp"),
    ],
)
def test_bad_input_is_one_clear_line(run, arguments, says):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    message = [line for line in err.splitlines() if not line.startswith(("Usage", "Try"))]
    assert len([line for line in message if line.strip()]) == 1
