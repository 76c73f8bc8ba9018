"""``lrbench-hpo db``: what is stored, by whom, and what waits, from the shell."""

import fcntl
import json
import sqlite3

import pytest

from lrbench_hpo import LRPolicy, Run, connect
from lrbench_hpo.cli.filters import moment
from lrbench_hpo.cli.one_run import bars
from lrbench_hpo.database import Origin
from lrbench_hpo.database.run_store import RunStore
from lrbench_hpo.errors import RecordError
from lrbench_hpo.records.run import CurvePoint, Task

TASK = Task("flowers", "vgg16", num_classes=102, optimizer="sgd", momentum=0.9, batch_size=64)


def make_run(number=0, **changes):
    fields = {
        "task": TASK,
        "policy": LRPolicy("FIX", k0=0.01 * (number + 1)),
        "max_iterations": 1_000,
        "seed": number,
        "metrics": {"top1": 0.5 + number / 100, "iterations_to_best": 900, "loss_difference": 0.1},
        "cost": {"seconds": 12.5},
        "created_at": f"2026-03-{number + 1:02d}T10:00:00Z",
        "source": "ann",
        "notes": {"name": "naïve", "list": [1, None, True]},
    }
    return Run(**{**fields, **changes})


@pytest.fixture
def lr(home):
    """A database with four runs of two sources, beside the published ones."""
    file = home / "lr.db"
    before = Origin("carl@far", "2026-01-05T00:00:00Z", "0.1.0")
    with connect(file) as db:
        db.add(make_run(0), make_run(1), origin=Origin("ann@lab", "2026-03-01T00:00:00Z", "0.1.0"))
        db.add(
            make_run(2, source="bob", status="pruned"),
            make_run(3, source="bob"),
            origin=Origin("dora@lab", "2026-03-04T09:00:00Z", "0.1.0", "b.csv", "ab" * 32, before),
        )
    return file


def test_show_lists_runs_newest_first(run, lr):
    code, out, err = run("db", "show", "--database", lr, "-n", 5)
    assert (code, err) == (0, "")
    places = [out.index(make_run(3 - n).uid[:10]) for n in (2, 3)]
    assert places == sorted(places)
    assert "pruned" in out
    assert "53.00 %" in out
    assert "+0.1000" in out
    assert out.count("lrbench-paper") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dataset", "Flowers"), [3, 2, 1, 0]),
        (("--model", "VGG-16", "-n", 2), [3, 2]),
        (("--source", "ann"), [1, 0]),
        (("--status", "pruned"), [2]),
        (("--since", "2026-03-02", "--until", "2026-03-03"), [2, 1]),
        (("--since", "2026-03-02T10:00:00Z", "--until", "2026-03-03T12:00:00+02:00"), [1]),
        (("--function", "fix", "--since", "2026-01-01"), [3, 2, 1, 0]),
        (("--function", "sinexp", "--since", "2026-01-01"), []),
        (("--source", "x'; DROP TABLE lrbench_runs; --"), []),
    ],
)
def test_show_filters(run, lr, options, expected):
    code, out, err = run("db", "show", "--database", lr, "--json", *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    uids = {make_run(0).uid: 0, make_run(1).uid: 1, make_run(3, source="bob").uid: 3}
    uids[make_run(2, source="bob", status="pruned").uid] = 2
    assert [uids[entry["uid"]] for entry in found] == expected
    assert all(Run.from_dict(entry["run"]).uid == entry["uid"] for entry in found)


def test_show_one_run_whole(run, lr, home):
    curve = tuple(
        CurvePoint(10 * n, 0.1 * 0.9**n, 2 / n, 3 / n, 1 - 0.5 / n if n > 9 else None)
        for n in range(1, 101)
    )
    with connect(lr) as db:
        before = Origin("carl@far", "2026-01-05T00:00:00Z", "0.1.0")
        origin = Origin("dora@lab", "2026-03-04T09:00:00Z", "0.2.0", "b.csv", "ab" * 32, before)
        db.add(shown := make_run(9, curve=curve, environment={"device": "cpu"}), origin=origin)
    for prefix in (shown.uid, shown.uid[:10], shown.uid[:10].upper()):
        code, out, err = run("db", "show", prefix, "--database", lr)
        assert (code, err) == (0, "")
    facts = ("FIX(k0=0.1)", "1,000 iterations", "flowers", "0.59", "naïve", "12.5", "cpu")
    history = ("dora@lab", "b.csv", "ab" * 32, "before that", "carl@far", "2026-01-05", "0.2.0")
    curve_shown = ("12 of 100 points", "99.50 %", "█", "2026-03-10T10:00:00")
    assert all(text in out for text in (*facts, *history, *curve_shown))
    code, out, _ = run("db", "show", shown.uid[:12], "--database", lr, "--json")
    entry = json.loads(out)
    assert Run.from_dict(entry["run"]) == shown
    assert Origin.from_dict(entry["origin"]) == origin


def test_best(run, lr):
    code, out, err = run("db", "best", "Flowers", "vgg-16", "--database", lr, "-n", 2)
    assert (code, err) == (0, "")
    assert out.index(make_run(3, source="bob").uid[:10]) < out.index(make_run(1).uid[:10])
    code, out, _ = run("db", "best", "flowers", "vgg16", "--database", lr, "--json")
    scores = [entry["score"] for entry in json.loads(out)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


def test_similar_tasks_with_what_is_known_of_them(run, lr):
    with connect(lr) as db:  # the same task but for its reference LR, which nobody asks for
        again = Task(**{**TASK.to_dict(), "reference_lr": 0.05})
        db.add(make_run(20, task=again, created_at="2026-03-04T10:00:00Z"))
    code, out, err = run("db", "similar", "flowers", "vgg19", "--database", lr, "--json")
    assert (code, err) == (0, "")
    first, *others = json.loads(out)
    assert first["task"]["dataset"] == "flowers"
    assert (first["runs"], first["best_top1"]) == (5, 0.7)
    ratings = [first["similarity"], *(other["similarity"] for other in others)]
    assert ratings == sorted(ratings, reverse=True)
    assert {other["task"]["dataset"] for other in others} == {"MNIST", "CIFAR-10"}
    code, out, _ = run("db", "similar", "mnist", "lenet", "--database", lr, "-n", 1)
    assert code == 0
    assert "100 %" in out
    assert "99.33 %" in out
    code, slow, _ = run("db", "similar", "mnist", "lenet", "--optimizer", "adam", "--json")
    assert code == 0
    assert json.loads(slow)[0]["similarity"] == 0.3


def test_origins(run, lr):
    code, out, err = run("db", "origins", "--database", lr)
    assert (code, err) == (0, "")
    assert "ann@lab" in out
    assert "b.csv (SHA-256 abababababab…)" in out
    assert "carl@far, 2026-01-05" in out
    code, out, _ = run("db", "origins", "--database", lr, "--json")
    found = {entry["who"]: entry for entry in json.loads(out)}
    assert found["dora@lab"]["runs"] == found["ann@lab"]["runs"] == 2
    assert found["dora@lab"]["before"]["who"] == "carl@far"


@pytest.mark.parametrize("what", [("--source", "bob"), ("--file", "b.csv")])
def test_forget_removes_what_is_not_trusted(run, lr, what):
    code, out, err = run("db", "forget", "--database", lr, *what, "--yes")
    assert (code, err) == (0, "")
    assert "2 of 65 runs" in out
    assert "removed 2 runs" in out
    with connect(lr) as db:
        assert db.stats().by_source == {"lrbench-paper": 61, "ann": 2}
    code, out, err = run("db", "forget", "--database", lr, *what, "--yes")
    assert (code, out) == (2, "")
    assert what[1] in err


def test_forget_only_counts_in_a_dry_run(run, lr):
    code, out, err = run("db", "forget", "--database", lr, "--file", "b.csv", "--dry-run", "--yes")
    assert (code, err) == (0, "")
    assert "2 of 65 runs" in out
    assert "nothing was removed" in out
    with connect(lr) as db:
        assert db.stats().runs == 65


def test_forget_tells_files_of_one_name_apart(run, lr):
    with connect(lr) as db:
        for seed, checksum in ((10, "cd" * 32), (11, None), (12, "abababab" + "0" * 56)):
            origin = Origin("dora@lab", "2026-03-05T00:00:00Z", "0.1.0", "b.csv", checksum)
            db.add(make_run(seed), origin=origin)

    def forget(file):
        return run("db", "forget", "--database", lr, "--yes", "--file", file)

    code, out, err = forget("b.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is 4 different files" in err
    for part in ("abababababababab…", "cdcdcdcdcdcdcdcd…", "abababab00000000…", "none"):
        assert part in err
    code, out, err = forget("abababab")
    assert (code, out) == (2, "")
    assert "is 2 different files" in err
    assert forget("cdcdcdc")[0] == 2  # too short
    for file, count in (("CDcdcdcd", 1), ("ab" * 32, 2), ("abababab00", 1), ("b.csv", 1)):
        code, out, err = forget(file)
        assert (code, err) == (0, ""), file
        assert f"removed {count} runs" in out
    assert forget("ab" * 32)[0] == 2


def test_forget_removes_a_file_of_an_origin_that_breaks_a_rule(run, lr):
    with sqlite3.connect(lr) as connection:
        connection.execute("UPDATE lrbench_origins SET who = ? WHERE file = 'b.csv'", ("x\x1by",))
    code, out, _ = run("db", "forget", "--database", lr, "--file", "b.csv", "--yes")
    assert code == 0
    assert "removed 2 runs" in out


def test_forget_asks_first(run, lr):
    code, out, err = run("db", "forget", "--database", lr, "--source", "bob")  # nobody answers
    assert code == 1
    assert err == "nothing was removed: nobody answered; --yes removes them without asking\n"
    assert "2 of 65 runs" in out
    assert "lrbench-hpo db export copy.jsonl.gz --source bob" in out
    assert "Traceback" not in err
    with connect(lr) as db:
        assert db.stats().runs == 65


@pytest.fixture
def away(home):
    """A database that is away, with two runs that wait for it."""
    file = home / "lr.db"
    connect(file).close()
    with sqlite3.connect(file) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON lrbench_runs "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    store = RunStore(file)
    with pytest.warns(UserWarning, match="wait in"):
        store.add(make_run(0), make_run(1))
    store.close()
    return file


def back(file):
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TRIGGER full")


def test_sync_stores_what_waits(run, away, home):
    [waiting] = (home / "data" / "lrbench_hpo").glob("waiting-*.jsonl")
    code, out, err = run("db", "stats", "--database", away)
    assert (code, err) == (0, "")
    assert f"2 runs wait in {waiting}" in out
    assert "lrbench-hpo db sync" in out

    code, out, err = run("db", "sync", "--database", away)
    assert code == 1
    assert "0 runs stored, 2 still wait" in out
    assert "disk is full" in err
    assert len(err.strip().splitlines()) == 1

    back(away)
    code, out, err = run("db", "sync", "--database", away)
    assert (code, err) == (0, "")
    assert "2 runs stored, 0 still wait" in out
    assert not waiting.exists()
    code, out, _ = run("db", "sync", "--database", away)
    assert (code, out) == (0, "nothing waits for this database\n")
    with connect(away) as db:
        assert len(db.find(source="ann")) == 2


def test_sync_leaves_a_live_search_its_file(run, away, home):
    back(away)
    [waiting] = (home / "data" / "lrbench_hpo").glob("waiting-*.jsonl")
    with waiting.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        code, out, err = run("db", "sync", "--database", away)
    assert (code, err) == (1, "")
    assert "0 runs stored, 2 still wait" in out
    assert "held by a search that runs" in out


def test_sync_tells_of_lines_that_cannot_be_read(run, away, home):
    back(away)
    [waiting] = (home / "data" / "lrbench_hpo").glob("waiting-*.jsonl")
    whole = waiting.read_bytes()
    waiting.write_bytes(b'{"checksum": "0", "run": {}}\n' + whole + whole[:50])
    code, out, err = run("db", "sync", "--database", away)
    assert code == 1  # what could not be read is not stored
    assert "2 runs stored, 0 still wait" in out
    assert "line 1 is left out" in err
    [kept] = (home / "data" / "lrbench_hpo").glob("waiting-*.unreadable")
    assert f"lines that cannot be read are kept in {kept}" in err
    code, out, _ = run("db", "sync", "--database", away)
    assert (code, out) == (0, "nothing waits for this database\n")
    assert "not finished" in err


def test_roles_are_printed_for_the_database_of_a_url(run):
    url = "postgresql://ann@nowhere.invalid/results?schema=team"
    code, out, err = run("db", "roles", "--database", url, "--reader", 'r"x')
    assert (code, err) == (0, "")
    assert 'CREATE SCHEMA IF NOT EXISTS "team"' in out
    assert 'ON DATABASE "results"' in out
    assert 'CREATE ROLE "r""x" LOGIN' in out
    assert out.strip().endswith("COMMIT;")
    code, out, _ = run("db", "roles", "--database", url, "--schema", "other")
    assert 'SCHEMA "other"' in out
    assert 'SCHEMA "team"' not in out


@pytest.mark.parametrize("command", ["show", "best", "origins", "stats", "forget"])
def test_text_of_rows_is_shown_as_text(run, lr, command):
    # Too late for the checks at the door: somebody wrote it past them.
    with sqlite3.connect(lr) as connection:
        connection.execute("UPDATE lrbench_runs SET source = '[red]bob[/red]' WHERE source = 'bob'")
        connection.execute("UPDATE lrbench_origins SET who = '[bold]x[/bold]' WHERE who LIKE 'd%'")
    names = {"best": ("flowers", "vgg16"), "forget": ("--source", "nobody")}.get(command, ())
    code, out, err = run("db", command, *names, "--database", lr)
    assert code == (2 if command == "forget" else 0)
    assert "[red]bob[/red]" in out + err or "[bold]x[/bold]" in out
    with sqlite3.connect(lr) as connection:
        evil = "x\x1b]0;gone\x07\u202ey"
        connection.execute("UPDATE lrbench_runs SET source = ? WHERE source LIKE '%bob%'", (evil,))
        connection.execute("UPDATE lrbench_origins SET who = ? WHERE file = 'b.csv'", (evil,))
    code, out, err = run("db", command, *names, "--database", lr)
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert len(err.splitlines()) <= 2  # each row that breaks a rule is left out, and told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "--status", "done"), "status='done'"),
        (("show", "--since", "yesterday"), "yesterday"),
        (("show", "--since", "2026-02-30"), "2026-02-30"),
        (("show", "--until", "2026-01-01T10:00:00"), "time zone"),
        (("show", "--function", "SINEX"), "did you mean SINEXP"),
        (("show", "-n", 0), "limit=0"),
        (("show", "zebra"), "digits and a to f"),
        (("show", "0123456789abcdef"), "no run's uid starts with"),
        (("show", "a", "--source", "x"), "--source"),
        (("show", "a", "-n", 5), "-n"),
        (("show", ""), "run"),
        (("best", "mnist", "lenett"), "did you mean MNIST LeNet"),
        (("best", "mnist", "lenet", "-n", 0), "n=0"),
        (("similar", "mnist", "lenet", "-n", -1), "n=-1"),
        (("similar", "mnist", "lenet", "--optimizer", "adan"), "did you mean adam"),
        (("forget",), "--source"),
        (("forget", "--source", "a", "--file", "b"), "--source"),
        (("forget", "--source", "lrbench-papr"), "did you mean lrbench-paper"),
        (("forget", "--source", "lrbench-paper"), "published"),
        (("forget", "--file", "b.csv"), "b.csv"),
        (("roles", "--schema", "pg_x"), "pg_x"),
        (("roles", "--owner", "lrbench_reader"), "three different roles"),
        (("stats", "--database", "postgresql://me:secret@host/x"), "password"),
    ],
)
def test_bad_input_is_one_clear_line(run, arguments, says):
    code, out, err = run("db", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "secret" not in err
    message = [line for line in err.splitlines() if not line.startswith(("Usage", "Try"))]
    assert len([line for line in message if line.strip()]) == 1


def test_days_of_the_command_line():
    assert moment("2026-12-31", end_of_day=True) == "2027-01-01T00:00:00.000000Z"
    assert moment("2026-12-31T10:00:00+01:00") == "2026-12-31T09:00:00.000000Z"
    assert moment(None) is None
    for bad in ("2026-13-01", "9999-12-31", "2026-1-1"):
        with pytest.raises(RecordError):
            moment(bad, end_of_day=True)


@pytest.mark.parametrize(
    ("values", "line"),
    [([1.0, 1.0], "▁▁"), ([None, None], "  "), ([-1e308, 0.0, 1e308], "▁▅█"), ([5], "▁")],
)
def test_bars(values, line):
    assert bars(values) == line


def test_bars_of_an_lr_that_reaches_zero():
    assert bars([1.0, 0.1, 0.0], log=True) == "█▁ "
