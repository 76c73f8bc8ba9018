"""Rows that were rejected can be mended in the file that keeps them, and imported again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lrbench_hpo.database import Origin
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.importing import ImportReport
from lrbench_hpo.exchange.rows import MAX_TEXT

ANN = Origin("ann@lab", "2026-01-01T00:00:00Z", "0.1.0", file="old.jsonl")
REPO = "dataset,model,optimizer,batch_size,function,k0,epochs,top1"


def mended(report: ImportReport, change: Callable[[str], str], path: Path) -> Path:
    """The rejected rows, each with another text."""
    rows = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    lines = [json.dumps({**row, "text": change(row["text"])}) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def kept(*rows: dict[str, str]) -> list[str]:
    usual = {"file": "runs.csv", "place": "line 7", "reason": "bad", "text": ""}
    return [json.dumps({**usual, **row}) for row in rows]


def test_rows_of_json(make_run, write, as_jsonl, take_in, database, tmp_path) -> None:
    good, *bad = (jsonl.line_of(make_run(n), ANN) for n in range(3))
    bad = [line.replace("complete", "done") for line in bad]
    # Rows whose checksum is of what they say, as of a program that is newer than this one.
    fields = [json.loads(line)["run"] for line in bad]
    bad = [
        json.dumps({"run": f, "origin": ANN.to_dict(), "checksum": jsonl.checks.content_hash(f)})
        for f in fields
    ]
    report = take_in(write("runs.jsonl", jsonl.header(), good, *bad))
    assert (report.new, report.rejected) == (1, 2)
    again = take_in(report.quarantine)
    assert (again.new, again.rejected) == (0, 2)
    assert [row.reason for row in again.reasons] == [row.reason for row in report.reasons]
    # The second file of rejected rows can be mended as the first one.
    for number, each in enumerate((report, again)):
        path = mended(each, lambda text: text.replace('"done"', '"complete"'), tmp_path / "m.jsonl")
        found = take_in(path)
        assert (found.good, found.rejected) == (2, 0), found.reasons
        assert found.new == (0 if number else 2)
    runs = {run.seed: (run, origin) for run, origin in database.stored(dataset="digits")}
    assert {n: run for n, (run, _) in runs.items()} == {n: make_run(n) for n in range(3)}
    assert runs[1][1].file == str(tmp_path / "m.jsonl")
    assert runs[1][1].before == ANN


def test_a_row_that_was_changed_on_its_way_needs_its_checksum_taken_off(
    make_run, write, as_jsonl, take_in, tmp_path
) -> None:
    header, line = as_jsonl(make_run(1))
    report = take_in(write("runs.jsonl", header, line.replace("gpu_percent", "gpu")))
    assert report.reasons[0].reason == jsonl.WRONG_CHECKSUM
    again = take_in(report.quarantine)
    assert (again.new, again.reasons[0].reason) == (0, jsonl.WRONG_CHECKSUM)
    path = mended(report, lambda text: text.replace('"gpu"', '"gpu_percent"'), tmp_path / "m.jsonl")
    assert take_in(path).new == 1  # it fits again


def test_a_run_of_the_future(make_run, write, as_csv, take_in, tmp_path, database) -> None:
    run = make_run(1, created_at="2999-01-01T00:00:00Z")
    report = take_in(write("runs.csv", *as_csv(run)))
    assert (report.new, report.rejected) == (0, 1)
    path = mended(report, lambda text: text.replace("2999-", "2026-"), tmp_path / "m.jsonl")
    assert take_in(path).new == 1
    assert database.find("digits")[0].created_at == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("break_it", "mend"),
    [
        (lambda row: row.replace("complete", "done"), lambda t: t.replace("done", "complete")),
        (lambda row: row.replace("digits", '"digits'), lambda t: t.replace('"digits,', "digits,")),
        (lambda row: row + ",more", lambda t: t.removesuffix(",more")),
        (lambda row: row.replace("digits", "di\0gits"), lambda t: t.replace("\0", "")),
    ],
)
def test_rows_of_csv(break_it, mend, make_run, write, as_csv, take_in, tmp_path, database) -> None:
    header, good, *bad = as_csv(*(make_run(n) for n in range(4)))
    report = take_in(write("runs.csv", header, good, *map(break_it, bad)))
    assert (report.new, report.rejected) == (1, 3)
    again = take_in(report.quarantine)
    assert (again.new, again.rejected) == (0, 3)
    for each in (again, report):
        path = mended(each, mend, tmp_path / "m.jsonl")
        found = take_in(path)
        assert (found.good, found.rejected) == (3, 0), found.reasons
    assert {run.seed: run for run in database.find("digits", curves=True)} == {
        n: make_run(n) for n in range(4)
    }


def test_rows_of_lrbench_csv_that_are_alike_stay_two(write, take_in, tmp_path) -> None:
    bad = "CIFAR-10,m,Adam,32,FIX,0.001,30,x72"
    report = take_in(write("rows.csv", REPO, bad, bad))
    assert (report.new, report.rejected) == (0, 2)
    path = mended(report, lambda text: text.replace("x72", "72"), tmp_path / "m.jsonl")
    assert (found := take_in(path)).new == 2, found.reasons


def test_rows_of_several_kinds_in_one_file(make_run, write, as_jsonl, as_csv, take_in) -> None:
    header, row, other = as_csv(make_run(1), make_run(2))
    _, line = as_jsonl(make_run(3))
    both = kept(
        {"text": f"{header}\r\n{row}\r\n"},
        {"text": line},
        {"text": f"{header}\n{other}"},
        {"text": json.dumps(make_run(4).to_dict(), indent=2)},
        {"text": f"{REPO}\nCIFAR-10,m,Adam,32,FIX,0.001,30,72"},
        {"text": json.dumps({"run": make_run(5).to_dict()}), "place": "trial 3"},
        {"text": kept({"text": line})[0]},  # one that was broken as a line of such a file
    )
    report = take_in(write("bad.jsonl", *both, as_jsonl(make_run(6))[1]))
    assert (report.new, report.known, report.rejected) == (7, 1, 0), report.reasons


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "this is no row that was kept: mend line 7 of runs.csv and import that again"),
        ({"place": "run 62", "file": "lr.db"}, "mend run 62 of lr.db and import that again"),
        ({"place": "trial 3", "text": '{"number": 3}'}, "mend trial 3 of runs.csv"),
        ({"text": '{"run": ' + "[" * (MAX_TEXT - 8)}, "only its first 10,000 characters"),
        ({"text": "task.model,x\n" + "1" * (MAX_TEXT - 13)}, "only its first 10,000 characters"),
        ({"text": "task.model,x\nm,1"}, "unknown column 'x'"),
        ({"text": f"{REPO},x\nm,1,2"}, "unknown column 'x': no table of LRBench's"),
        ({"text": "a,b\n1,2"}, "expected a header of CSV, and its row on the next line"),
        ({"text": '"a\n1,2'}, "a quoted cell does not end"),
        ({"text": "nonsense"}, "not JSON"),
        ({"text": "{"}, "not JSON"),
        ({"text": '{"run": NaN}'}, "NaN is not JSON"),
        ({"text": '{"a": 1, "a": 2}'}, "the key 'a' is there twice"),
        ({"text": '{"run": 5}'}, "run"),
        ({"text": '{"format": "x"}', "reason": "made by a newer one"}, "made by a newer one"),
        ({"text": 5}, "created_at is missing"),
    ],
)
def test_what_cannot_be_read_is_told(row, reason, make_run, write, as_jsonl, take_in) -> None:
    first, last = as_jsonl(make_run(1), make_run(2))[1:]
    report = take_in(write("bad.jsonl", first, *kept(row), last))
    assert (report.new, report.rejected) == (2, 1)
    [bad] = report.reasons
    assert bad.place == "line 2"
    assert reason in bad.reason
    assert bad.reason.isprintable()


def test_half_a_row_of_csv_is_never_taken_for_a_whole_one(make_run, write, as_csv, take_in) -> None:
    header, row = as_csv(make_run(1, notes={f"n{n}": "x" * 1990 for n in range(6)}))
    columns, cells = f"{header},metrics.speed", f"{row},12345"
    line = f"{columns}\n{cells}"
    for cut in (len(line), len(line) - 2):
        text = line[:cut]
        report = take_in(write(f"{cut}.jsonl", *kept({"text": text})))
        assert (report.good, report.rejected) == (1, 0)  # longer than what a quarantine keeps
    report = take_in(write("cut.jsonl", *kept({"text": line[-MAX_TEXT:]})))
    assert (report.new, report.rejected) == (0, 1)
