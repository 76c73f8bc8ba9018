"""A file that is exported is there wholly or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.exchange.export import export
from lrbench_hpo.exchange.rows import ExchangeError
from lrbench_hpo.exchange.writing import new_file


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def write_while_another_is_quicker(path: Path) -> None:
    with new_file(path) as text:
        text.write("mine")
        path.write_text("theirs")


@pytest.mark.parametrize("name", ["runs.txt", "runs", "runs.gz", "runs.json", ".parquet"])
def test_the_name_says_the_format(database, tmp_path, name) -> None:
    with pytest.raises(ExchangeError, match=r"ends with .jsonl, .jsonl.gz, .csv, .csv.gz"):
        export(database, tmp_path / name)
    assert left(tmp_path) == []


def test_a_file_that_is_there_is_refused(database, tmp_path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("precious")
    with pytest.raises(ExchangeError, match="--force replaces it"):
        export(database, path)
    assert path.read_text() == "precious"
    assert export(database, path, force=True).runs == 61
    assert left(tmp_path) == ["runs.jsonl"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path, monkeypatch) -> None:
    path = tmp_path / "runs.jsonl"
    for no_links in (False, True):
        if no_links:
            path.unlink()
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "no")))
        with pytest.raises(ExchangeError, match="there is such a file"):
            write_while_another_is_quicker(path)
        assert path.read_text() == "theirs"
        assert left(tmp_path) == ["runs.jsonl"]


@pytest.mark.parametrize("form", ["jsonl", "csv.gz"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_export_that_ends_early_leaves_nothing(
    database, make_run, tmp_path, monkeypatch, form, error
) -> None:
    def stored(**_: object):
        yield make_run(1), None
        raise error

    monkeypatch.setattr(database, "stored", stored)
    kind = KeyboardInterrupt if error is KeyboardInterrupt else ExchangeError
    with pytest.raises(kind):
        export(database, tmp_path / f"runs.{form}")
    assert left(tmp_path) == []


def test_a_full_disk_is_told_in_one_line(database, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExchangeError, match="nothing was written: free some space"):
        export(database, tmp_path / "runs.jsonl")
    assert left(tmp_path) == []


def test_a_folder_that_is_not_there(database, tmp_path) -> None:
    with pytest.raises(ExchangeError, match=r"there is no folder .*none: make it first") as told:
        export(database, tmp_path / "none" / "runs.jsonl")
    assert "space" not in str(told.value)


def test_only_a_full_disk_is_told_to_be_freed(database, tmp_path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(ExchangeError, match="nothing was written: name another file"):
        export(database, tmp_path / "runs.jsonl")


def test_folders_and_devices_are_never_replaced(database, tmp_path) -> None:
    (tmp_path / "runs.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("runs.jsonl", "pipe.jsonl"):
        with pytest.raises(ExchangeError, match="folder or a device"):
            export(database, tmp_path / name, force=True)
    assert left(tmp_path) == ["pipe.jsonl", "runs.jsonl"]


def test_a_link_stays_a_link(database, tmp_path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.write_text("old")
    link.symlink_to(target)
    with pytest.raises(ExchangeError, match="there is such a file"):
        export(database, link)
    export(database, link, force=True)
    assert link.is_symlink()
    assert target.read_text().startswith('{"format"')


def test_others_may_read_what_the_user_lets_them(database, tmp_path) -> None:
    before = os.umask(0o027)
    try:
        export(database, tmp_path / "runs.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "runs.jsonl").stat().st_mode) == 0o640


def test_the_longest_name_that_a_folder_takes(database, tmp_path) -> None:
    path = tmp_path / ("x" * 249 + ".jsonl")
    assert export(database, path).runs == 61


def test_standard_output(database, capsys) -> None:
    assert export(database, "-").runs == 61
    assert capsys.readouterr().out.count("\n") == 62


@pytest.mark.parametrize("name", ["runs.jsonl", "runs.csv"])
def test_rows_that_break_a_rule_are_left_out_and_counted(
    name, make_run, break_rows, tmp_path, recwarn
) -> None:
    with connect(tmp_path / "lr.db") as database:
        database.add(*(make_run(n) for n in range(20)))
        break_rows(tmp_path / "lr.db", *range(3, 15))
        report = export(database, tmp_path / name)
    assert (report.runs, report.left_out) == (61 + 8, 12)
    assert [row.place for row in report.reasons] == [f"run {n}" for n in range(65, 75)]
    assert all("status='done'" in row.reason for row in report.reasons)
    assert len((tmp_path / name).read_text().splitlines()) == 1 + 61 + 8
    assert not recwarn.list
