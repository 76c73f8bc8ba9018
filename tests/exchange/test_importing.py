"""What becomes of rows: once each, under the right source, with their origin, bad ones kept."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lrbench_hpo.database import Origin, connect
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.errors import DatabaseError, RecordError
from lrbench_hpo.exchange import importing, quarantine
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.quarantine import Quarantine
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.records.run import utc_timestamp

ANN = Origin("ann@lab", "2026-01-01T00:00:00Z", "0.1.0", file="old.jsonl")


def add(database, *rows, **options):
    return import_rows(database, rows, file="runs.jsonl", checksum="ab", **options)


def batches_of(database, monkeypatch) -> list[int]:
    """The sizes of the transactions that rows are stored in from now on."""
    sizes: list[int] = []
    add_from = database.add_from
    monkeypatch.setattr(
        database, "add_from", lambda rows: (sizes.append(len(rows)), add_from(rows))[1]
    )
    return sizes


def test_a_run_is_stored_once(database, make_run) -> None:
    rows = [Found(make_run(n % 4)) for n in range(12)]
    first, again = add(database, *rows), add(database, *rows)
    assert (first.new, first.known, first.rejected, first.quarantine) == (4, 8, 0, None)
    assert (again.new, again.known) == (0, 12)


def test_rows_keep_their_origin_behind_the_new_one(database, make_run) -> None:
    rows = [Found(make_run(n), ANN if n % 2 else None) for n in range(700)]
    assert add(database, *rows).new == 700
    found = {run.seed: origin for run, origin in database.stored() if run.task.dataset == "digits"}
    assert all((o.file, o.checksum) == ("runs.jsonl", "ab") for o in found.values())
    assert all(found[n].before == (ANN if n % 2 else None) for n in range(700))
    assert sorted(count for _, count in database.origins()) == [350, 350]  # one moment, two ways


def test_rows_with_an_origin_each_share_transactions(database, make_run, monkeypatch) -> None:
    sizes = batches_of(database, monkeypatch)
    ways = [dataclasses.replace(ANN, file=f"{n}.jsonl") for n in range(700)]
    report = add(database, *(Found(make_run(n), way) for n, way in enumerate(ways)))
    assert (report.new, report.known) == (700, 0)
    assert sizes == [importing.BATCH, importing.BATCH, 700 - 2 * importing.BATCH]
    found = {run.seed: origin for run, origin in database.stored() if run.task.dataset == "digits"}
    assert [found[n].before for n in range(700)] == ways
    assert len({origin.at for origin in found.values()}) == 1


def test_an_over_long_way_loses_its_oldest_steps(database, make_run) -> None:
    way = ANN
    for _ in range(20):
        add(database, Found(make_run(1), way))
        way = Origin.here("next.jsonl", before=way)
    [origin] = {o for run, o in database.stored() if run.task.dataset == "digits"}
    assert origin.before == ANN
    assert len(way.steps) <= 8
    assert add(database, Found(make_run(2), way)).new == 1


def test_a_source_is_given_to_all_rows_but_the_published(database, make_run) -> None:
    rows = [Found(run) for run in paper_runs()] + [Found(make_run(1)), Found(make_run(2))]
    report = add(database, *rows, source="ann")
    assert (report.new, report.known, report.rejected, report.own) == (2, 61, 0, 0)
    assert database.stats().by_source == {"lrbench-paper": 61, "ann": 2}


@pytest.mark.parametrize("source", ["lrbench-paper", "LRBench-Paper", "lrbench_paper"])
def test_the_published_source_is_the_published_rows_alone(database, make_run, source) -> None:
    with pytest.raises(ExchangeError, match="published"):
        add(database, Found(make_run(1)), source=source)
    bad = Found(make_run(1, source=source), None, "line 7")
    for options in ({}, {"source": "ann"}):
        report = add(database, bad, Found(make_run(2)), **options)
        assert (report.good, report.rejected) == (1, 1)
        assert report.reasons[0].place == "line 7"
        assert jsonl.parsed(report.reasons[0].text)["run"]["seed"] == 1
    assert database.stats().by_source["lrbench-paper"] == 61


@pytest.mark.parametrize("source", ["", " ", "a\x1bb", "x" * 201, 5, "ann,ben", ","])
def test_a_source_that_is_no_name_is_refused(database, make_run, source) -> None:
    with pytest.raises(RecordError, match="source"):
        add(database, Found(make_run(1)), source=source)


def test_a_run_of_the_future_is_rejected(database, make_run) -> None:
    now = datetime.now(UTC)
    late, soon = (utc_timestamp(now + timedelta(hours=hours)) for hours in (25, 23))
    rows = [make_run(1, created_at="2999-01-01T00:00:00Z"), make_run(2, created_at=late)]
    found = [Found(run, ANN, f"line {run.seed}") for run in rows]
    report = add(database, *found, Found(make_run(3, created_at=soon)))
    assert (report.new, report.rejected) == (1, 2)
    assert [row.place for row in report.reasons] == ["line 1", "line 2"]
    assert "2999" in report.reasons[0].reason
    assert "a day ahead" in report.reasons[0].reason
    assert jsonl.parsed(report.reasons[0].text)["origin"]["who"] == ANN.who
    assert [run.seed for run in database.find("digits")] == [3]


def test_one_own_runs_are_counted(database, make_run, monkeypatch) -> None:
    rows = [Found(make_run(1)), Found(make_run(2, source="ann"))]
    assert add(database, *rows).own == 1
    monkeypatch.setenv("LRBENCH_SOURCE", "ann")
    assert add(database, *rows, Found(make_run(3, source="ann"))).own == 2


def test_bad_rows_are_kept_and_the_same_rows_make_the_same_file(database, make_run, home) -> None:
    rows = [Rejected("a\nb.jsonl", f"line {n}", "no\ngood", "x" * 20_000) for n in range(3)]
    report = add(database, rows[0], Found(make_run(1)), *rows[1:])
    assert report.quarantine.parent == home / "share" / "lrbench_hpo" / "rejected"
    lines = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert [line["place"] for line in lines] == ["line 0", "line 1", "line 2"]
    assert {(line["file"], line["reason"], len(line["text"])) for line in lines} == {
        ("a\nb.jsonl", "no good", 10_000)
    }
    before = report.quarantine.read_bytes()
    again = add(database, *rows)
    assert again.quarantine == report.quarantine
    assert again.quarantine.read_bytes() == before
    assert os.listdir(report.quarantine.parent) == [report.quarantine.name]


def test_other_content_is_another_file(database, home) -> None:
    row = Rejected("runs.jsonl", "line 1", "bad")
    paths = {
        import_rows(database, [row], file=file, checksum=checksum).quarantine
        for file in ("runs.jsonl", "more/runs.jsonl", "../../etc/passwd", "\ud800", ".", "x" * 500)
        for checksum in ("a", "b", None)
    }
    assert len(paths) == 18
    assert {path.parent for path in paths} == {home / "share" / "lrbench_hpo" / "rejected"}


def test_bad_rows_of_one_pipe_do_not_replace_those_of_another(database) -> None:
    def rejected(*texts: str) -> Path:
        rows = [Rejected("stdin", f"line {n}", "bad", text) for n, text in enumerate(texts)]
        return import_rows(database, rows, file="stdin", checksum=None).quarantine

    first, second, shorter = rejected("a", "b"), rejected("c", "d"), rejected("a")
    assert rejected("a", "b") == first
    assert len({first, second, shorter}) == 3
    kept = [[json.loads(line)["text"] for line in path.open()] for path in (first, second, shorter)]
    assert kept == [["a", "b"], ["c", "d"], ["a"]]
    assert sorted(first.parent.iterdir()) == sorted([first, second, shorter])


def test_a_chosen_quarantine_takes_the_place_of_a_quarantine_alone(tmp_path) -> None:
    path = tmp_path / "bad" / "rows.jsonl"
    for _ in range(2):
        with Quarantine.chosen(path) as kept:
            kept.add(Rejected("runs.jsonl", "line 1", "bad"))
        assert path.read_text().count("\n") == 1
    for precious in ('{"run": 1}\n', "text", "[]", '"a"', "5", "\x80"):
        path.write_text(precious)
        with pytest.raises(ExchangeError, match="something else"):
            Quarantine.chosen(path)
        assert path.read_text() == precious
    with pytest.raises(ExchangeError, match="something else"):
        Quarantine.chosen(tmp_path)


def test_bad_rows_that_cannot_be_kept_cost_no_good_one(database, make_run, home) -> None:
    (home / "share").write_text("a file where a folder should be")
    bad = Rejected("runs.jsonl", "line 1", "bad")
    report = add(database, bad, Found(make_run(1)), bad)
    assert (report.new, report.rejected, report.quarantine) == (1, 2, None)
    assert str(home) in report.unkept


def test_a_full_disk_at_the_end_of_the_quarantine_is_told(database, make_run, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrbench_hpo.exchange.writing.os.fsync", full)
    report = add(database, Rejected("runs.jsonl", "line 1", "bad"), Found(make_run(1)))
    assert (report.new, report.rejected, report.quarantine) == (1, 1, None)
    assert "No space left" in report.unkept


def test_ctrl_c_keeps_what_is_done(database, make_run) -> None:
    def rows(stop: int):
        for number in range(1_000):
            if number == stop:
                raise KeyboardInterrupt
            yield Found(make_run(number)) if number else Rejected("f", "line 1", "bad")

    report = import_rows(database, rows(750), file="f", checksum=None)
    assert report.interrupted
    assert report.new == 2 * importing.BATCH
    assert report.quarantine.exists()
    assert database.stats().by_source["local"] == report.new
    report = import_rows(database, rows(1_000), file="f", checksum=None)
    assert (report.new, report.known) == (999 - 600, 600)


def test_a_database_that_fails_says_how_far_it_came(make_run, tmp_path, monkeypatch) -> None:
    with connect(tmp_path / "lr.db") as database:
        calls = []

        def fails(rows):
            calls.append(len(rows))
            if len(calls) == 2:
                raise DatabaseError("the disk is full")
            return len(rows)

        monkeypatch.setattr(database, "add_from", fails)
        with pytest.raises(DatabaseError, match=r"the disk is full.*300 runs of runs.jsonl"):
            add(database, *(Found(make_run(n)) for n in range(900)))
    assert calls == [300, 300]


def test_long_curves_wait_in_small_batches(database, make_run, monkeypatch) -> None:
    monkeypatch.setattr(importing, "_MOST_POINTS", 10)  # each of these runs has two
    sizes = batches_of(database, monkeypatch)
    add(database, *(Found(make_run(n)) for n in range(12)))
    assert sizes == [5, 5, 2]


def test_no_database_checks_only(make_run) -> None:
    report = add(
        None, Found(make_run(1)), Rejected("f", "line 1", "bad"), quarantine=Quarantine(None)
    )
    assert (report.good, report.rejected, report.quarantine) == (1, 1, None)


def test_reasons_are_told_once_each_and_not_without_end(database) -> None:
    rows = [Rejected("f", f"line {n}", f"reason {n % 15}") for n in range(150)]
    report = add(database, *rows)
    assert [row.reason for row in report.reasons] == [f"reason {n}" for n in range(10)]
    assert [row.place for row in report.reasons] == [f"line {n}" for n in range(10)]
    assert report.alike == {f"reason {n}": 10 for n in range(10)}
    assert report.rejected == 150


def test_progress_is_told(database, make_run) -> None:
    seen: list[int] = []
    add(database, *(Found(make_run(n)) for n in range(120)), progress=seen.append)
    assert seen == [50, 100]


def test_kept_rows_are_limited(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_KEPT", 3)
    with Quarantine(tmp_path / "rows.jsonl") as kept:
        for number in range(10):
            kept.add(Rejected("f", f"line {number}", "bad"))
    assert (tmp_path / "rows.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.rstrip(b"\n"),
        lambda raw: raw.replace(b"\n", b"\n\n \n"),
        lambda raw: gzip.compress(raw),
        lambda raw: gzip.compress(raw) + bytes(512),
        lambda raw: b"".join(gzip.compress(line + b"\n") for line in raw.splitlines()),
        lambda raw: (
            b"".join(gzip.compress(raw[n : n + 7]) + bytes(3) for n in range(0, 4000, 7))
            + gzip.compress(raw[4004:])
        ),
    ],
)
def test_the_same_file_as_other_programs_write_it(
    form, change, make_run, as_jsonl, as_csv, take_in, tmp_path
) -> None:
    lines = (as_csv if form == "csv" else as_jsonl)(*(make_run(n) for n in range(9)))
    path = tmp_path / "results"  # the name says nothing
    path.write_bytes(change("".join(f"{line}\n" for line in lines).encode()))
    report = take_in(path)
    assert (report.new, report.rejected) == (9, 0), report.reasons


def test_json_lines_without_a_header_and_of_two_files(make_run, take_in, write, as_jsonl) -> None:
    bare = [json.dumps(make_run(n).to_dict()) for n in range(3)]
    assert take_in(write("bare.jsonl", *bare)).new == 3
    both = as_jsonl(make_run(4)) + as_jsonl(make_run(5))
    assert take_in(write("both.jsonl", *both)).new == 2


def test_a_first_line_that_is_bad_costs_no_other_row(make_run, take_in, write, as_jsonl) -> None:
    rows = as_jsonl(make_run(1), make_run(2))[1:]
    for number, first in enumerate([b"\xff\xfe", b"# my results", b"{", b"[1]", b"x" * 9_000_000]):
        path = write(f"{number}.jsonl", b" " + first, *rows)
        report = take_in(path)
        assert (report.good, report.rejected) == (2, 1), first[:20]
        assert report.reasons[0].place == "line 1"


def test_some_columns_of_csv_are_enough(make_run, take_in, write, database) -> None:
    columns = "created_at,max_iterations, policy.function ,policy.k0,task.model,task.dataset"
    row = "2026-01-01T00:00:00Z,100,FIX,1E-1,mlp,digits"
    report = take_in(
        write("mine.csv", f"{columns},metrics.speed", f"{row},+3.5", f"{row},", ",,,,,,")
    )
    assert (report.new, report.rejected) == (2, 0)
    assert {run.metrics.get("speed") for run in database.find("digits")} == {3.5, None}


def test_names_that_are_sql_or_markup_are_names(make_run, take_in, write, as_csv, database) -> None:
    names = ["'; DROP TABLE lrbench_runs; --", "[red]x[/red]", "=HYPERLINK(1)", "%s", '"', "\\"]
    rows = [make_run(n, source=name) for n, name in enumerate(names)]
    assert take_in(write("runs.csv", *as_csv(*rows))).new == len(names)
    assert set(names) < set(database.stats().by_source)
    assert [run.seed for run in database.find(source=names[0])] == [0]
    assert database.stats().runs == 61 + len(names)


def test_the_origin_names_the_file_and_its_content(make_run, take_in, write, as_jsonl, database):
    import hashlib

    path = write("runs.jsonl.gz", *as_jsonl(make_run(1)))
    take_in(path)
    [origin] = {o for run, o in database.stored() if run.task.dataset == "digits"}
    assert origin.file == str(path)
    assert origin.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    assert database.forget(file=str(path)) == 1


def test_a_file_name_of_any_characters(make_run, take_in, as_jsonl, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb\u202e.jsonl"
    path.write_text("\n".join(as_jsonl(make_run(1))))
    assert take_in(path).new == 1


def test_a_file_name_longer_than_an_origin_keeps(database, make_run) -> None:
    name = "folder/" * 400 + "runs.jsonl"
    report = import_rows(database, [Found(make_run(1))], file=name, checksum=None)
    assert report.new == 1
    [origin] = {o for run, o in database.stored() if run.task.dataset == "digits"}
    assert origin.file == name[:2000]
