"""Files that are wrong in every way: each is told by line, and no good row is lost over it."""

from __future__ import annotations

import bz2
import contextlib
import copy
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import random
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrbench_hpo.database import Database, Origin
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.exchange import files
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.quarantine import MAX_KEPT
from lrbench_hpo.exchange.rows import MAX_TEXT, ExchangeError
from lrbench_hpo.records.run import Run

PAPER_ROWS = len(paper_runs())
GONE = object()


def changed(run: Run, where: str, value: Any) -> dict[str, Any]:
    """A run's dict with one value of another kind, or without it."""
    data = copy.deepcopy(run.to_dict())
    *path, last = where.split(".")
    inner = data
    for name in path:
        inner = inner[name]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return data


def levels(number: int) -> Any:
    value: Any = 1
    for _ in range(number):
        value = {"a": value}
    return value


HERE = Origin("ann@lab", "2026-01-01T00:00:00Z", "0.1.0").to_dict()
STEPS = HERE
for _ in range(20):
    STEPS = {**HERE, "before": STEPS}
POINT = {"iteration": 1, "lr": 0.1}
COMPOSED = {"function": "COMPOSED", "parts": []}

# What is put where, and a part of the reason that is told.
VALUES: list[tuple[str, Any, str]] = [
    ("task", GONE, "task is missing"),
    ("task", None, "task is missing"),
    ("task", "digits", "expected a mapping"),
    ("task.dataset", GONE, "task.dataset is missing"),
    ("task.dataset", 5, "expected text"),
    ("task.dataset", ["digits"], "expected text"),
    ("task.dataset", "", "got nothing"),
    ("task.dataset", "-_-", "expected letters or digits"),
    ("task.dataset", "x" * 201, "at most 200 characters"),
    ("task.dataset", "a\0b", "control character"),
    ("task.dataset", "a\nb", "control character"),
    ("task.dataset", "\x1b[2J\x1b]0;owned\x07", "control character"),
    ("task.dataset", "digits\u202egnp.exe", "control character"),
    ("task.dataset", "dig\u200bits", "control character"),
    ("task.model", "\ud800", "control character"),
    ("task.num_classes", 0, "at least 1"),
    ("task.num_classes", 2.5, "whole number"),
    ("task.num_train", 10**30, "at most"),
    ("task.image_shape", [1, 8], "three whole numbers"),
    ("task.image_shape", "1x8x8", "three whole numbers"),
    ("task.batch_size", -5, "at least 1"),
    ("task.momentum", 1.0, "momentum in [0, 1)"),
    ("task.reference_lr", 0, "above 0"),
    ("task.datasett", "digits", "did you mean dataset"),
    ("policy", GONE, "policy is missing"),
    ("policy", [], "expected a mapping"),
    ("policy.function", GONE, "function"),
    ("policy.function", "TRIANGLE", "unknown LR function"),
    ("policy.function", "'; DROP TABLE lrbench_runs; --", "unknown LR function"),
    ("policy.function", 7, "LR function's name"),
    ("policy.k0", -1, "learning rate"),
    ("policy.k0", "0.1", "learning rate"),
    ("policy.k0", 1e300, "learning rate"),
    ("policy.k1", GONE, "needs k1"),
    ("policy.gamma", 0.5, "takes no gamma"),
    ("policy.l", [1, 2], "l="),
    ("policy.parts", [[None, COMPOSED]], "parts"),
    ("policy.x", 1, "policy key"),
    ("max_iterations", GONE, "max_iterations is missing"),
    ("max_iterations", 0, "at least 1"),
    ("max_iterations", -(10**9), "at least 1"),
    ("max_iterations", 1000.5, "whole number"),
    ("max_iterations", True, "whole number"),
    ("max_iterations", "1000", "whole number"),
    ("seed", 2**64, "at most"),
    ("seed", "0", "whole number"),
    ("split", "dev", "expected one of"),
    ("status", "done", "expected one of"),
    ("status", {}, "expected one of"),
    ("metrics", [0.9], "expected a mapping"),
    ("metrics.top1", 93.1, "not per cent"),
    ("metrics.top1", -0.1, "not per cent"),
    ("metrics.top1", "0.9", "expected a number"),
    ("metrics.top1", True, "expected a number"),
    ("metrics.iterations_to_best", 1001, "more than max_iterations"),
    ("metrics", {f"m{i}": 1 for i in range(1001)}, "at most 1000 values"),
    ("metrics", {"": 1}, "expected a name"),
    ("cost.seconds", -1, "at least 0"),
    ("cost.seconds", [1], "expected a number"),
    ("curve", {"iteration": [1]}, "list of curve points"),
    ("curve", [1], "mapping"),
    ("curve", [{"lr": 0.1}], "iteration is missing"),
    ("curve", [POINT, POINT], "iterations that increase"),
    ("curve", [{"iteration": 1001}], "up to max_iterations"),
    ("curve", [{"iteration": -1}], "at least 0"),
    ("curve", [{**POINT, "top5": 1}], "unknown"),
    ("curve", [{"iteration": i} for i in range(100_002)], "more than 100000 points"),
    ("environment", "cpu", "expected a mapping"),
    ("notes", levels(12), "8 levels"),
    ("notes", levels(200), "at most 64 levels"),
    ("notes.text", "x" * 2001, "at most 2000 characters"),
    ("notes", {"a": list(range(1001))}, "at most 1000 values"),
    ("source", "", "got nothing"),
    ("source", 5, "expected text"),
    ("source", "x" * 201, "at most 200 characters"),
    ("source", "lrbench-paper", "none of the paper's rows"),
    ("source", "LRBench_Paper", "none of the paper's rows"),
    ("created_at", GONE, "created_at is missing"),
    ("created_at", None, "created_at is missing"),
    ("created_at", "yesterday", "expected ISO 8601"),
    ("created_at", "2026-01-01T00:00:00", "time zone"),
    ("created_at", 1_767_225_600, "expected ISO 8601"),
    ("created_at", "0001-01-01T00:00:00+23:00", "expected ISO 8601"),
    ("id", 1, "unknown"),
]

# Lines that are no row at all.
LINES: list[tuple[bytes, str]] = [
    (b'{"run": ', "not JSON"),
    (b"{}", "created_at is missing"),
    (b"{'run': 1}", "not JSON"),
    (b"[]", "expected a run as a JSON object"),
    (b"7", "expected a run as a JSON object"),
    (b"null", "expected a run as a JSON object"),
    (b"true", "expected a run as a JSON object"),
    (b'"run"', "expected a run as a JSON object"),
    (b"NaN", "NaN is not JSON"),
    (b'{"run": NaN}', "NaN is not JSON"),
    (b'{"run": [Infinity]}', "Infinity is not JSON"),
    (b'{"run": {"seed": -Infinity}}', "-Infinity is not JSON"),
    (b'{"run": 1e999}', "larger than any number"),
    (b'{"run": ' + b"9" * 5_000 + b"}", "5000 digits"),
    (b'{"run": ' + b"9" * 400 + b"}", "400 digits"),
    (b'{"run": -' + b"9" * 60 + b"}", "61 digits"),
    (b"[" * 1_000_000, "at most 64 levels"),
    (b'{"a":' * 500_000, "at most 64 levels"),
    (b'{"run":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "at most 64 levels"),
    (b'{"a":"' + b'\\"' * 2_000_000, "not JSON"),
    (b'{"run": 1, "run": 2}', "'run' is there twice"),
    (b'{"run": {"task": {"model": "a", "model": "b"}}}', "'model' is there twice"),
    (b'{"run": 5}', "expected a mapping"),
    (b'{"run": null}', "expected a mapping"),
    (b'{"run": []}', "expected a mapping"),
    (b'{"run": {}, "x": 1}', "row key"),
    (b'{"a": undefined}', "not JSON"),
    (b'{"a": 0x10}', "not JSON"),
    (b'{"a": True}', "not JSON"),
    (b'{"a": 1,}', "not JSON"),
    (b'{"a": 1} {"a": 1}', "not JSON"),
    (b'{"a": 1} // fine', "not JSON"),
    (b'{"a": "\t"}', "not JSON"),
    (b'{"a": "\x1b[31m"}', "not JSON"),
    (b'{"a": "\\x41"}', "not JSON"),
    (b'{"a": "b\0c"}', "NUL byte"),
    (b"\0" * 1000, "NUL byte"),
    (b'{"a": "\xff"}', "not UTF-8"),
    (b'{"a": "\xc0\x80"}', "not UTF-8"),
    (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b"a,b,c", "not JSON"),
    (b"<html>", "not JSON"),
    (b"\x80\x04\x95pickle", "not UTF-8"),
    (b'{"format": "parquet"}', "its header says 'parquet'"),
    (b'{"format": ["a"], "version": {}}', "its header says"),
    (b'"' + b"x" * (files.MAX_LINE + 1) + b'"', "longer than 8 MiB"),
]


def name_of(value: object) -> str:
    return repr(value)[:40] if isinstance(value, (str, bytes)) else type(value).__name__


def neighbours_are_stored(database: Database, take_in: Callable, path: Path, part: str) -> None:
    """One bad row, on line 3, between good ones."""
    report = take_in(path)
    assert (report.new, report.known, report.rejected) == (2, 0, 1)
    [row] = report.reasons
    assert (row.file, row.place) == (str(path), "line 3")
    assert part in row.reason
    assert row.reason.isprintable()
    assert len(row.reason) < 400
    assert len(row.text) <= MAX_TEXT
    assert {run.seed for run in database.find("digits")} == {1, 2}
    assert database.stats().runs == PAPER_ROWS + 2
    [kept] = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert kept == {"file": str(path), "place": "line 3", "reason": row.reason, "text": row.text}


@pytest.mark.parametrize(
    ("where", "value", "part"), VALUES, ids=[f"{w}-{name_of(v)}" for w, v, _ in VALUES]
)
def test_a_wrong_value(where, value, part, make_run, write, as_jsonl, take_in, database) -> None:
    header, first, last = as_jsonl(make_run(1), make_run(2))
    bad = json.dumps({"run": changed(make_run(3), where, value)})
    path = write("runs.jsonl", header, first, bad, last)
    neighbours_are_stored(database, take_in, path, part)


@pytest.mark.parametrize(("line", "part"), LINES, ids=[name_of(line) for line, _ in LINES])
def test_a_line_that_is_no_row(line, part, make_run, write, as_jsonl, take_in, database) -> None:
    header, first, last = as_jsonl(make_run(1), make_run(2))
    if b'"format"' in line:  # another file begins here, of which nobody knows how it goes on
        report = take_in(write("runs.jsonl", header, first, line, last))
        assert (report.new, report.rejected) == (1, 1)
        assert part in report.reasons[0].reason
        assert "the rest is left out" in report.reasons[0].reason
        return
    path = write("runs.jsonl", header, first, line, last)
    neighbours_are_stored(database, take_in, path, part)


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"checksum": "0" * 32}, "checksum is wrong"),
        ({"checksum": 5}, "checksum is wrong"),
        ({"origin": "ann"}, "expected a mapping"),
        ({"origin": {"who": "ann"}}, "at is missing"),
        ({"origin": {**HERE, "file": 5}}, "expected text"),
        ({"origin": {**HERE, "password": "x"}}, "unknown"),
        ({"origin": STEPS}, "origin"),
        ({"origin": levels(50)}, "origin"),
    ],
)
def test_a_wrong_origin_or_checksum(
    extra, part, make_run, write, as_jsonl, take_in, database
) -> None:
    header, first, last = as_jsonl(make_run(1), make_run(2))
    bad = json.dumps({"run": make_run(3).to_dict(), **extra})
    path = write("runs.jsonl", header, first, bad, last)
    neighbours_are_stored(database, take_in, path, part)


# A cell by the name of its column, and a part of the reason.
CELLS: list[tuple[str, str, str]] = [
    ("max_iterations", "", "max_iterations is missing"),
    ("max_iterations", "many", "expected a number"),
    ("max_iterations", "1,000", "expected a number"),
    ("max_iterations", "1_000", "expected a number"),
    ("max_iterations", "0x10", "expected a number"),
    ("max_iterations", "١٠٠٠", "expected a number"),
    ("max_iterations", "=1000", "expected a number"),
    ("max_iterations", "=CMD|'/C calc'!A0", "expected a number"),
    ("max_iterations", "9" * 5_000, "a number of 5000 characters"),
    ("max_iterations", "1000.5", "whole number"),
    ("max_iterations", "-1", "at least 1"),
    ("metrics.top1", "0,9", "expected a number"),
    ("metrics.top1", "90 %", "expected a number"),
    ("metrics.top1", "90", "not per cent"),
    ("metrics.top1", "NaN", "expected a number"),
    ("metrics.top1", "inf", "expected a number"),
    ("metrics.top1", "1e999", "larger than any number"),
    ("metrics.others", "[1]", "expected a JSON object"),
    ("metrics.others", '{"top1": 0.5}', "there twice"),
    ("metrics.others", '{"x": NaN}', "NaN is not JSON"),
    ("metrics.others", "{", "not JSON"),
    ("policy.k0", "+-1", "expected a number"),
    ("policy.l", "fifty", "not JSON"),
    ("policy.l", "[" * 1000, "at most 64 levels"),
    ("policy.function", "TRIANGLE", "unknown LR function"),
    ("policy.parts", '"x"', "parts"),
    ("task.dataset", "", "dataset is missing"),
    ("task.dataset", "a\x1b[2Jb", "control character"),
    ("task.dataset", "a\u202eb", "control character"),
    ("task.image_shape", "[1, 8]", "three whole numbers"),
    ("status", "done", "expected one of"),
    ("created_at", "", "created_at is missing"),
    ("created_at", "01/02/2026", "expected ISO 8601"),
    ("source", "lrbench-paper", "none of the paper's rows"),
    ("notes", "a note", "not JSON"),
    ("notes", json.dumps(levels(100)), "at most 64 levels"),
    ("notes", '{"a": 1, "a": 2}', "there twice"),
    ("environment", "[]", "expected a mapping"),
    ("curve", '{"iteration": 1}', "list of curve points"),
    ("origin", "null", "origin"),
    ("origin", "5", "expected a mapping"),
]


def csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


@pytest.mark.parametrize(
    ("column", "cell", "part"), CELLS, ids=[f"{c[0]}-{c[1]:.20}" for c in CELLS]
)
def test_a_wrong_cell(column, cell, part, make_run, write, as_csv, take_in, database) -> None:
    header, first, last, bad = as_csv(make_run(1), make_run(2), make_run(3))
    cells = dict(zip(table.cells_of(header), table.cells_of(bad), strict=True)) | {column: cell}
    path = write("runs.csv", header, first, csv_line(list(cells.values())), last)
    if (column, cell) == ("origin", "null"):
        assert take_in(path).new == 3  # which says nothing, as an empty cell does
        return
    neighbours_are_stored(database, take_in, path, part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda line: line + b",more", "cells, got"),
        (lambda line: line.partition(b",")[2], "cells, got"),
        (lambda line: b"digits", "cells, got 1"),
        (lambda line: b'"' + line, "does not end on its line"),
        (lambda line: line + b'"open', "does not end on its line"),
        (lambda line: b'"digits" ' + line, "a quote in the middle"),
        (lambda line: b'"dig"its' + line, "not CSV"),
        (lambda line: b"dig\0its" + line, "NUL byte"),
        (lambda line: b"dig\xffits" + line, "not UTF-8"),
        (lambda line: b"dig\rits" + line, "not CSV"),
        (lambda line: line.replace(b",", b";").replace(b'"', b""), "cells, got 1"),
        (lambda line: b"x" * (files.MAX_LINE + 1), "longer than 8 MiB"),
        (lambda line: b"{" + line, "dataset"),
    ],
)
def test_a_line_that_is_no_row_of_csv(
    change, part, make_run, write, as_csv, take_in, database
) -> None:
    header, first, last, bad = as_csv(make_run(1), make_run(2), make_run(3, source="lrbench-paper"))
    part = "paper" if part == "dataset" else part
    path = write("runs.csv", header, first, change(bad.encode()), last)
    neighbours_are_stored(database, take_in, path, part)


def test_a_quoted_line_break_costs_no_other_row(make_run, write, as_csv, take_in) -> None:
    header, first, last, bad = as_csv(make_run(1), make_run(2), make_run(3))
    broken = '"dig\nits"' + bad.removeprefix("digits")
    report = take_in(write("runs.csv", header, first, broken, last))
    assert (report.new, report.rejected) == (2, 2)
    kept = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert [row["place"] for row in kept] == ["line 3", "line 4"]
    assert all("does not end on its line" in row["reason"] for row in kept)


def whole_files() -> list[tuple[str, bytes, str]]:
    header = table.header()
    newer = json.dumps({"format": jsonl.FORMAT, "version": jsonl.VERSION + 1})
    noise = random.Random(3).randbytes(50_000)
    return [
        ("empty", b"", "nothing in it"),
        ("blank", b"\n \n\r\n\t\n", "nothing in it"),
        ("noise", b"\x01" + noise, "expected"),
        ("noise in lines", b"\xff" + noise.replace(b"\x07", b"\n"), "expected"),
        ("zeros", b"\0" * 100_000, "NUL byte"),
        ("image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + noise[:100], "line 1: byte 1 is not UTF-8"),
        ("zip", b"PK\x03\x04" + noise, "a zip file"),
        ("bzip2", bz2.compress(b"{}"), "a bzip2 file"),
        ("xz", lzma.compress(b"{}"), "an xz file"),
        ("zstd", b"\x28\xb5\x2f\xfd" + noise, "a zstd file"),
        ("parquet", b"PAR1" + noise, "a Parquet file"),
        ("sqlite", b"SQLite format 3\0" + noise, "lrbench-hpo db merge"),
        ("utf-16", "{}".encode("utf-16"), "UTF-16"),
        ("pickle", pickle.dumps({"run": 1}), "not UTF-8"),
        ("list", b'[{"run": 1}, {"run": 2}]', "JSON list"),
        ("html", b"<!doctype html>\n<title>Sign in</title>\n", "neither a run nor a known header"),
        ("text", b"hello", "neither a run nor a known header"),
        ("long", b"x" * (files.MAX_LINE + 1), "longer than 8 MiB"),
        ("newer", newer.encode(), "made by a newer lrbench-hpo (format 2, known here: 1)"),
        ("odd version", b'{"format": "lrbench-hpo-runs", "version": []}', "newer"),
        ("other format", b'{"format": "optuna"}', "its header says 'optuna'"),
        ("semicolons", header.replace(",", ";").encode(), "separated by semicolons"),
        ("tabs", header.replace(",", "\t").encode(), "separated by tabs"),
        ("one column twice", f"{header},seed".encode(), "'seed' is there twice"),
        ("unknown column", f"{header},sede".encode(), "did you mean seed"),
        ("no budget", header.replace("max_iterations,", "").encode(), "no column max_iterations"),
        ("no time", header.replace("created_at,", "").encode(), "no column created_at"),
        ("formula column", f"{header},=1+1".encode(), "unknown column '=1+1'"),
        ("gzip of nothing", gzip.compress(b""), "nothing in it"),
        ("gzip of noise", gzip.compress(b"\x01" + noise), "expected"),
        ("gzip of gzip", gzip.compress(gzip.compress(b"{}")), "not UTF-8"),
        ("gzip's first bytes", b"\x1f\x8b", "cut off"),
        ("gzip's header", gzip.compress(b"{}")[:10], "cut off"),
        ("no gzip after its first bytes", b"\x1f\x8b" + noise, "damaged gzip"),
    ]


@pytest.mark.parametrize(
    ("content", "part"),
    [entry[1:] for entry in whole_files()],
    ids=[entry[0] for entry in whole_files()],
)
def test_a_file_that_holds_no_rows(content, part, tmp_path, take_in, database) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(content)
    with pytest.raises(ExchangeError) as caught:
        take_in(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert part in message
    assert message.isprintable()
    assert len(message) < 600
    assert database.stats().runs == PAPER_ROWS


@pytest.mark.parametrize("name", ["", "missing.jsonl", "a\0b", "x" * 5000, "a\nb\x1b[2J"])
def test_a_file_that_is_not_there(name, tmp_path, take_in) -> None:
    with pytest.raises(ExchangeError) as caught:
        take_in(str(tmp_path / "none" / name))
    assert str(caught.value).isprintable()


def test_a_folder_or_a_device_is_refused(tmp_path, take_in) -> None:
    with pytest.raises(ExchangeError, match="this is a folder"):
        take_in(tmp_path)
    with pytest.raises(ExchangeError, match="this is a device"):
        take_in("/dev/zero")


def test_a_file_of_which_the_user_may_not_know(tmp_path, take_in, monkeypatch) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "stat", refuse)
    with pytest.raises(ExchangeError, match="Permission denied"):
        take_in(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.95, -9, -8, -1])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_truncated_gzip_gives_the_rows_before_the_cut(
    form, part, make_run, write, as_jsonl, as_csv, take_in, tmp_path
) -> None:
    runs = [make_run(n, metrics={"top1": n / 1_000}) for n in range(300)]
    lines = (as_csv if form == "csv" else as_jsonl)(*runs)
    path = write(f"runs.{form}.gz", *lines)
    packed = path.read_bytes()
    cut = packed[: int(part * len(packed)) if part > 0 else part]
    there = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n") - 1
    path.write_bytes(cut)
    report = take_in(path)
    assert (report.new, report.rejected) == (there, 1)
    assert report.reasons[0].place == f"line {there + 2}"
    assert "cut off" in report.reasons[0].reason
    path.write_bytes(packed)
    assert take_in(path).new == 300 - there


def test_a_row_that_a_cut_leaves_whole_to_the_eye_is_not_taken(
    make_run, as_csv, take_in, tmp_path
) -> None:
    """Cut in the last number of a row, it would read as a smaller one."""
    header, row = as_csv(make_run(1))
    columns = table.cells_of(header)
    keep = columns.index("metrics.top1") + 1
    names = [*columns[: keep - 1], "created_at", "metrics.top1"]
    cells = [*table.cells_of(row)[: keep - 1], "2026-01-01T00:00:00Z", "0.9"]
    pack = zlib.compressobj(wbits=31)
    text = f"{csv_line(names)}\n{csv_line(cells)}".encode()
    path = tmp_path / "runs.csv.gz"
    path.write_bytes(pack.compress(text) + pack.flush(zlib.Z_SYNC_FLUSH))
    report = take_in(path)
    assert (report.good, report.rejected) == (0, 1)
    assert report.reasons[0].text.endswith(",0.9")


def test_a_damaged_gzip_is_told(make_run, write, as_jsonl, take_in) -> None:
    runs = [make_run(n, notes={"text": f"{n}" * 500}) for n in range(900)]
    path = write("runs.jsonl.gz", *as_jsonl(*runs))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF  # of its own checksum
    path.write_bytes(raw)
    report = take_in(path)
    assert report.rejected == 1
    assert "damaged gzip" in report.reasons[0].reason
    assert report.new > 300


def test_a_gzip_bomb_fills_neither_memory_nor_disk(tmp_path, take_in, make_run, as_jsonl) -> None:
    pack = zlib.compressobj(wbits=31)
    path = tmp_path / "bomb.jsonl.gz"
    good = "\n".join(as_jsonl(make_run(1))).encode() + b"\n"
    with path.open("wb") as file:
        file.write(pack.compress(good))
        for _ in range(300):
            file.write(pack.compress(b" " * 2**20))
        file.write(pack.flush())
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    report = take_in(path, max_bytes=100 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20
    assert (report.new, report.rejected) == (1, 1)
    assert "more than 104,857,600 bytes unpacked" in report.reasons[0].reason
    assert report.quarantine.stat().st_size < 2**16


def test_a_file_that_is_too_long_is_refused_at_once(tmp_path, take_in) -> None:
    path = tmp_path / "sparse.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ExchangeError, match="--max-bytes allows more"):
        take_in(path)


def test_an_endless_pipe_ends(tmp_path, take_in, make_run, as_jsonl) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with open(path, "wb", buffering=0) as pipe:
            pipe.write(("\n".join(as_jsonl(make_run(1))) + "\n").encode())
            try:
                while True:
                    pipe.write(b"x" * 65_536)
            except BrokenPipeError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    report = take_in(path, max_bytes=20 * 2**20)
    writer.join(10)
    assert not writer.is_alive()
    assert (report.new, report.rejected) == (1, 1)
    assert "unpacked" in report.reasons[0].reason


@pytest.mark.slow
def test_no_more_than_a_limited_number_of_bad_rows_is_kept(
    make_run, write, as_jsonl, take_in
) -> None:
    bad = ['{"x": 1}' * 5_000] * (MAX_KEPT + 500)
    report = take_in(write("runs.jsonl", *as_jsonl(make_run(1)), *bad))
    assert (report.new, report.rejected) == (1, MAX_KEPT + 500)
    assert len(report.reasons) == 1  # one reason, and how often
    assert report.alike.total() == MAX_KEPT + 500
    kept = report.quarantine.read_text().splitlines()
    assert len(kept) == MAX_KEPT
    assert all(len(json.loads(line)["text"]) == MAX_TEXT for line in kept)


def test_random_bytes_never_crash(tmp_path, take_in, make_run, as_jsonl, as_csv) -> None:
    """Good files with a few bytes changed anywhere: a report or one line, always."""
    noise = random.Random(7)
    originals = [
        "\n".join(lines(make_run(1), make_run(2))).encode() for lines in (as_jsonl, as_csv)
    ]
    originals += [gzip.compress(raw) for raw in originals]
    path = tmp_path / "runs"
    for _ in range(400):
        raw = bytearray(noise.choice(originals))
        for _ in range(noise.randint(1, 8)):
            at = noise.randrange(len(raw))
            raw[at : at + noise.randint(0, 3)] = noise.randbytes(noise.randint(0, 3))
        path.write_bytes(raw)
        try:
            report = take_in(path)
            told = [row.reason for row in report.reasons]
        except ExchangeError as error:
            told = [str(error)]
        assert all(line.isprintable() and len(line) < 600 for line in told)


def test_random_csv_is_refused_in_one_way(write, as_csv, take_in) -> None:
    """Whatever the csv module thinks of a line, it is a ValueError, a bad row or one line."""
    noise = random.Random(11)
    [header] = as_csv()
    for _ in range(3_000):
        text = "".join(noise.choices('"",,\r\t;\\\x85\u2028ab1', k=noise.randint(0, 12)))
        with contextlib.suppress(ValueError):
            table.cells_of(text)
    for _ in range(100):
        lines = ["".join(noise.choices('"",,\r\t;ab1', k=noise.randint(1, 30))) for _ in range(3)]
        with contextlib.suppress(ExchangeError):
            take_in(write("noise.csv", *lines))
        assert take_in(write("rows.csv", header, *lines)).good == 0
