"""``db export``, ``db import`` and ``db merge`` from the shell."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task


def make_run(number: int = 0, **changes) -> Run:
    fields = {
        "task": Task("digits", "mlp"),
        "policy": LRPolicy("FIX", k0=0.1),
        "max_iterations": 100,
        "seed": number,
        "metrics": {"top1": 0.9},
        "curve": (CurvePoint(50, top1=0.8), CurvePoint(100, top1=0.9)),
        "created_at": f"2026-01-01T00:00:{number % 60:02d}Z",
    }
    return Run(**{**fields, **changes})


@pytest.fixture
def here(home):
    """A database with two runs of one's own."""
    with connect(home / "here.db") as database:
        database.add(make_run(1), make_run(2, source="ann"))
    return home / "here.db"


def lines_of(*runs: Run) -> str:
    return "".join(
        f"{line}\n" for line in [jsonl.header(), *(jsonl.line_of(r, None) for r in runs)]
    )


def stored(path) -> set[str]:
    with connect(path) as database:
        return {run.uid for run, _ in database.stored()}


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "csv.gz"])
def test_a_file_goes_from_one_database_to_another(run, here, home, form) -> None:
    code, out, err = run("db", "export", f"runs.{form}", "--database", here)
    assert (code, out, err) == (0, f"runs.{form}: 63 runs\n", "")
    code, out, err = run("db", "import", f"runs.{form}", "--database", "there.db")
    assert (code, err) == (0, "")
    assert f"runs.{form}: 2 new, 61 known already, 0 rejected\n" in out
    code, out, err = run("db", "import", f"runs.{form}", "--database", "there.db")
    assert (code, err) == (0, "")
    assert "0 new, 63 known already" in out
    assert stored(home / "there.db") == stored(here)
    with connect(home / "there.db") as database:
        assert len(database.find("digits", curves=True)[0].curve) == 2


def test_own_rows_are_told_of_once(run, here) -> None:
    run("db", "export", "runs.jsonl", "--database", here)
    _, out, _ = run("db", "import", "runs.jsonl", "runs.jsonl", "--database", "there.db")
    hints = [line for line in out.splitlines() if "--source" in line]
    assert hints == [
        "1 of these rows are from 'local', and count as your own: --source NAME files the rows of "
        "others under their name"
    ]
    _, out, _ = run("db", "import", "runs.jsonl", "--database", "there.db")
    assert "--source" not in out  # nothing of it was new
    code, out, _ = run("db", "import", "runs.jsonl", "--database", "x.db", "--source", "bob")
    assert code == 0
    assert "--source" not in out
    with connect("sqlite:///" + str(here.parent / "x.db")) as database:
        assert database.stats().by_source == {"lrbench-paper": 61, "bob": 2}


def test_filters(run, here, home) -> None:
    code, out, _ = run(
        "db", "export", "a.jsonl", "--database", here, "--source", "ann", "--no-curves"
    )
    assert (code, out) == (0, "a.jsonl: 1 runs\n")
    row = json.loads((home / "a.jsonl").read_text().splitlines()[1])
    assert (row["run"]["seed"], row["run"]["curve"]) == (2, [])
    code, out, _ = run("db", "export", "b.csv", "--database", here, "--dataset", "Digits")
    assert out == "b.csv: 2 runs\n"
    code, out, _ = run("db", "export", "c.csv", "--database", here, "--since", "2026-01-01")
    assert out == "c.csv: 2 runs\n"
    code, out, err = run("db", "export", "d.csv", "--database", here, "--function", "TRIX")
    assert (code, out) == (2, "")
    assert "did you mean TRI" in err
    assert not (home / "d.csv").exists()


def test_a_file_that_is_there_needs_force(run, here, home) -> None:
    (home / "runs.jsonl").write_text("precious")
    code, out, err = run("db", "export", "runs.jsonl", "--database", here)
    assert (code, out) == (2, "")
    assert "--force replaces it" in err
    assert (home / "runs.jsonl").read_text() == "precious"
    assert run("db", "export", "runs.jsonl", "--database", here, "--force")[0] == 0


def test_through_a_pipe(here, home) -> None:
    program = f"{sys.executable} -m lrbench_hpo db"
    command = f"{program} export - --database {here} | {program} import - --database there.db"
    done = subprocess.run(command, shell=True, cwd=home, capture_output=True, text=True)  # noqa: S602
    assert (done.returncode, done.stderr) == (0, "")
    assert "stdin: 2 new, 61 known already, 0 rejected" in done.stdout
    assert stored(home / "there.db") == stored(here)


def test_a_pipe_that_closes_early_is_no_traceback(here, home) -> None:
    with connect(here) as database:
        database.add(*(make_run(n) for n in range(3000)))
    command = f"{sys.executable} -m lrbench_hpo db export - --database {here} | head -n 1"
    done = subprocess.run(command, shell=True, cwd=home, capture_output=True, text=True)  # noqa: S602
    assert done.stdout.startswith('{"format"')
    assert done.stderr == ""


def test_a_closed_pipe_ends_an_export_as_it_ends_other_commands(here, home) -> None:
    for what in (("show",), ("export", "-")):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "lrbench_hpo", "db", *what, "--database", str(here)]
        try:
            done = subprocess.run(command, cwd=home, stdout=writer, stderr=subprocess.PIPE)
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (1, b""), what


def test_an_export_to_a_folder_that_is_not_there(run, here) -> None:
    code, out, err = run("db", "export", "none/runs.jsonl", "--database", here)
    assert (code, out) == (2, "")
    assert err == "lrbench-hpo: none/runs.jsonl: there is no folder none: make it first\n"


def test_rows_that_were_rejected_are_mended_and_imported_again(run, home) -> None:
    bad = json.dumps(json.loads(lines_of(make_run(2)).splitlines()[1])).replace("complete", "done")
    (home / "runs.jsonl").write_text(lines_of(make_run(1)) + bad + "\n")
    arguments = ("db", "import", "--database", "lr.db")
    code, out, _ = run(*arguments, "runs.jsonl", "--rejected", "bad.jsonl")
    assert code == 1
    mended = (home / "bad.jsonl").read_text().replace('\\"done\\"', '\\"complete\\"')
    (home / "bad.jsonl").write_text(mended)
    code, out, err = run(*arguments, "bad.jsonl")
    assert (code, err) == (0, "")
    assert "bad.jsonl: 1 new, 0 known already, 0 rejected" in out
    assert {make_run(1).uid, make_run(2).uid} < stored(home / "lr.db")


def test_good_files_go_in_beside_bad_ones(run, home) -> None:
    (home / "good.jsonl").write_text(lines_of(make_run(1)))
    (home / "half.jsonl").write_text(
        lines_of(make_run(2)) + '{"run": NaN}\n' + "[red]x[/red]\x1b[2J\n"
    )
    (home / "empty.csv").write_text("")
    (home / "noise").write_bytes(b"\x01\xff\x00" * 1000)
    (home / "folder").mkdir()
    cut = gzip.compress(lines_of(*(make_run(n) for n in range(3, 300))).encode())
    (home / "cut.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    files = ["missing.csv", "folder", "/dev/zero", "empty.csv", "noise", "half.jsonl"]
    code, out, err = run(
        "db", "import", *files, "cut.jsonl.gz", "good.jsonl", "--database", "lr.db"
    )
    assert code == 1
    for line in (
        "missing.csv: No such file or directory",
        "folder: this is a folder",
        "/dev/zero: this is a device",
        "empty.csv: nothing in it",
        "noise: line 1",
        "half.jsonl: line 3: NaN is not JSON: write null",
        "half.jsonl: line 4: not JSON",
        "cut.jsonl.gz: line ",
    ):
        assert line in err
    assert "half.jsonl: 1 new, 0 known already, 2 rejected" in out
    assert "good.jsonl: 1 new, 0 known already, 0 rejected" in out
    assert "\x1b" not in out + err
    kept = [line.split(" in ")[1] for line in out.splitlines() if line.startswith("rejected rows")]
    assert len(kept) == 2
    rows = [json.loads(line) for line in Path(kept[0]).read_text().splitlines()]
    assert [(row["file"], row["place"]) for row in rows] == [
        ("half.jsonl", "line 3"),
        ("half.jsonl", "line 4"),
    ]


def test_reasons_that_repeat_are_told_once(run, home) -> None:
    alike = [f'{{"run": {n % 2}}}' for n in range(100)]
    others = [f'{{"x{n}": 1}}' for n in range(60)]
    bad = "".join(f"{line}\n" for line in alike + others)
    (home / "bad.jsonl").write_text(lines_of(make_run(1)) + bad)
    code, out, err = run("db", "import", "bad.jsonl", "--database", "lr.db")
    assert code == 1
    assert "1 new, 0 known already, 160 rejected" in out
    assert err.count("\n") <= 11
    assert "more like it)" in err


def test_nothing_that_could_be_read_is_status_2(run, home) -> None:
    (home / "bad.jsonl").write_text('{"run": 1}\n')
    code, out, err = run("db", "import", "bad.jsonl", "--database", "lr.db")
    assert code == 2
    assert "bad.jsonl: 0 new, 0 known already, 1 rejected" in out
    assert "bad.jsonl: line 1: " in err
    code, out, err = run("db", "import", "none.jsonl", "--database", "lr.db")
    assert (code, out) == (2, "")
    assert err == "lrbench-hpo: none.jsonl: No such file or directory: expected a file to read\n"
    (home / "header.jsonl").write_text(lines_of())
    assert run("db", "import", "header.jsonl", "--database", "lr.db")[0] == 0


def test_a_newer_format_is_one_line(run, home) -> None:
    (home / "new.jsonl").write_text('{"format": "lrbench-hpo-runs", "version": 9}\n{"run": {}}\n')
    code, _, err = run("db", "import", "new.jsonl", "--database", "lr.db")
    assert code == 2
    assert err.count("\n") == 1
    assert "made by a newer lrbench-hpo (format 9, known here: 1)" in err


def test_a_quarantine_of_ones_choice(run, home) -> None:
    for name in "ab":
        (home / f"{name}.jsonl").write_text(lines_of(make_run(1)) + f'{{"{name}": 1}}\n')
    arguments = ("db", "import", "a.jsonl", "b.jsonl", "--database", "lr.db", "--rejected")
    code, out, _ = run(*arguments, "bad.jsonl")
    assert code == 1
    assert out.count("rejected rows are kept in bad.jsonl") == 1
    content = (home / "bad.jsonl").read_text()
    assert [json.loads(line)["file"] for line in content.splitlines()] == ["a.jsonl", "b.jsonl"]
    assert run(*arguments, "bad.jsonl")[0] == 1
    assert (home / "bad.jsonl").read_text() == content
    for taken in ("a.jsonl", "./b.jsonl"):
        code, _, err = run(*arguments, taken)
        assert code == 2
        assert "is one of the files to import" in err


def test_a_database_that_cannot_be_written_ends_it_in_one_line(run, home) -> None:
    (home / "a.jsonl").write_text(lines_of(make_run(1)))
    (home / "bad.jsonl").write_text("x{\n")
    with connect(home / "lr.db"):
        pass
    readonly = f"sqlite:///file:{home}/lr.db?mode=ro&uri=true"
    code, out, err = run("db", "import", "bad.jsonl", "a.jsonl", "--database", readonly)
    assert (code, out) == (2, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["lrbench-hpo", "lrbench-hpo"]
    assert "read-only" in err
    assert "0 runs of a.jsonl are stored" in err


def test_a_dry_run_stores_nothing(run, home) -> None:
    (home / "a.jsonl").write_text(lines_of(make_run(1)) + "x\n")
    code, out, err = run("db", "import", "a.jsonl", "--dry-run", "--database", "lr.db")
    assert code == 1
    assert "a.jsonl: 1 good rows, 1 rejected; nothing stored" in out
    assert "a.jsonl: line 3: not JSON" in err
    assert sorted(path.name for path in home.iterdir()) == ["a.jsonl"]


def test_limits_and_sources_are_checked_first(run, home) -> None:
    (home / "a.jsonl").write_text(lines_of(make_run(1)))
    code, _, err = run("db", "import", "a.jsonl", "--max-bytes", 100, "--database", "lr.db")
    assert code == 2
    assert "a.jsonl: more than 100 bytes: --max-bytes allows more" in err
    assert run("db", "import", "a.jsonl", "--max-bytes", 0)[0] == 2
    for source in ("", "lrbench-paper", "ann,bob"):
        code, _, err = run("db", "import", "a.jsonl", "--source", source, "--database", "no.db")
        assert code == 2
        assert err.startswith("lrbench-hpo: source=")
    assert not (home / "no.db").exists()


def test_merge(run, here, home) -> None:
    code, out, err = run("db", "merge", here, "--database", "there.db")
    assert (code, err) == (0, "")
    assert f"{here}: 2 new, 61 known already, 0 rejected" in out
    assert stored(home / "there.db") == stored(here)
    assert "0 new, 63 known" in run("db", "merge", here, "--database", "there.db")[1]
    code, _, err = run("db", "merge", here, "--database", here)
    assert code == 2
    assert "this is the database itself" in err
    code, _, err = run("db", "merge", "typo.db", "--database", here)
    assert code == 2
    assert "no such file" in err
    assert not (home / "typo.db").exists()


def test_rows_that_break_a_rule_there_are_told(run, here, home) -> None:
    with contextlib.closing(sqlite3.connect(here)) as connection, connection:
        connection.execute("UPDATE lrbench_runs SET status = 'done' WHERE seed = 1")
    code, out, err = run("db", "merge", here, "--database", "there.db")
    assert code == 1
    assert f"{here}: 1 new, 61 known already, 1 rejected\n" in out
    [told] = err.splitlines()
    assert told.startswith(f"{here}: run 62: breaks a rule: run.status='done'")
    code, out, err = run("db", "export", "runs.csv", "--database", here)
    assert (code, out) == (1, "runs.csv: 62 runs\n")
    assert err.splitlines() == [told, "1 rows break a rule, and are left out"]
    code, out, err = run("db", "export", "-", "--database", here)
    assert (code, out.count("\n")) == (1, 63)
    assert told in err


def test_a_password_on_the_command_line_is_refused_and_not_repeated(run) -> None:
    code, out, err = run("db", "merge", "postgresql://me:tops3cret@localhost/lr")
    assert code == 2
    assert "password" in err
    assert "tops3cret" not in out + err


def test_ctrl_c_keeps_what_is_done(home) -> None:
    pipe = home / "pipe.jsonl"
    os.mkfifo(pipe)
    program = [
        sys.executable,
        "-m",
        "lrbench_hpo",
        "db",
        "import",
        str(pipe),
        "--database",
        "lr.db",
    ]
    importer = subprocess.Popen(
        program, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        with pipe.open("w") as file:
            file.write(lines_of(*(make_run(n) for n in range(1_000))))
            file.flush()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                time.sleep(0.2)
                if (home / "lr.db").exists() and len(stored(home / "lr.db")) >= 61 + 600:
                    break
            importer.send_signal(signal.SIGINT)
            out, err = importer.communicate(timeout=60)
    finally:
        importer.kill()
        importer.communicate()
    assert importer.returncode == 130
    assert "Traceback" not in err
    assert "stopped: what is counted here is done; the same command does the rest" in err
    done = len(stored(home / "lr.db")) - 61
    assert f"{done} new, 0 known already" in out
    assert f"{done} of these rows are from 'local'" in out
    assert done >= 600
