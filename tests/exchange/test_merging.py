"""The runs of one database in another, both ways."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Origin, connect
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.exchange.merging import connect_other, merge
from lrbench_hpo.exchange.rows import ExchangeError


@pytest.fixture
def other(tmp_path):
    with connect(tmp_path / "other.db") as db:
        yield db


def contents(database) -> dict:
    return {run.uid: run.to_dict() for run, _ in database.stored()}


def test_runs_come_over_with_curves_and_origins(database, other, make_run, tmp_path) -> None:
    way = Origin("ann@lab", "2026-01-01T00:00:00Z", "0.1.0", file="old.jsonl", checksum="ab")
    other.add(*(make_run(n) for n in range(700)), origin=way)
    database.add(make_run(0), make_run(1000))
    report = merge(database, other)
    assert (report.new, report.known, report.rejected) == (699, 62, 0)
    assert contents(database) == contents(other) | {make_run(1000).uid: make_run(1000).to_dict()}
    found = {run.seed: origin for run, origin in database.stored() if run.task.dataset == "digits"}
    assert found[5].before == way
    assert found[5].file == str(tmp_path / "other.db")
    assert found[0].file is None  # it was there before
    assert (merge(database, other).new, merge(database, other).known) == (0, 761)


def test_back_and_forth_ends(database, other, make_run) -> None:
    other.add(make_run(1))
    for _ in range(12):
        merge(database, other)
        merge(other, database)
    assert contents(database) == contents(other)
    assert database.stats().runs == 62


def test_a_source_for_all_rows(database, other, make_run) -> None:
    other.add(make_run(1), make_run(2, source="bob"))
    report = merge(database, other, source="ann")
    assert (report.new, report.known, report.own) == (2, 61, 0)
    assert database.stats().by_source == {"lrbench-paper": 61, "ann": 2}


def test_rows_that_claim_to_be_published_stay_out(database, other, make_run, tmp_path) -> None:
    other.add(make_run(1), make_run(2))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute("UPDATE lrbench_runs SET source = 'lrbench-paper' WHERE seed = 1")
    report = merge(database, other)
    assert (report.new, report.rejected) == (1, 1)
    assert report.reasons[0].place == "run 62"


def test_a_database_and_itself(database, other, tmp_path) -> None:
    with pytest.raises(ExchangeError, match="the database itself"):
        merge(database, database)
    (tmp_path / "link.db").symlink_to(tmp_path / "other.db")
    with connect(tmp_path / "link.db") as link, pytest.raises(ExchangeError, match="itself"):
        merge(other, link)


def test_a_file_and_itself_by_another_url(other, make_run, tmp_path) -> None:
    other.add(make_run(1))
    for url in (
        f"sqlite:///{tmp_path}/other.db?timeout=5",
        f"sqlite:///file:{tmp_path}/other.db?uri=true",
        f"sqlite:///{tmp_path}/../{tmp_path.name}/other.db",
    ):
        with connect(url) as same, pytest.raises(ExchangeError, match="itself"):
            merge(other, same, source="bob")
    assert other.stats().by_source == {"lrbench-paper": 61, "local": 1}


def test_a_server_and_itself_by_another_url(make_run, postgres_database) -> None:
    url = sa.make_url(postgres_database)
    named = url.update_query_dict({"application_name": "another", "connect_timeout": "5"})
    urls = [named, url.update_query_dict({"schema": "public"})]
    if host := url.query.get("host"):
        urls += [url.update_query_dict({"host": f"{host}/"})]
    with connect(postgres_database) as server:
        server.add(make_run(1))
        for one in urls:
            location = one.render_as_string(hide_password=False)
            with connect(location) as same, pytest.raises(ExchangeError, match="itself"):
                merge(server, same, source="bob")
        assert server.stats().by_source == {"lrbench-paper": 61, "local": 1}


def test_two_schemas_of_a_database_are_two(make_run, postgres_database) -> None:
    url = sa.make_url(postgres_database).update_query_dict({"schema": "team"})
    location = url.render_as_string(hide_password=False)
    with connect(postgres_database) as server, connect(location) as team:
        team.add(make_run(1))
        assert merge(server, team).new == 1


def test_rows_that_break_a_rule_there_are_counted(
    database, other, make_run, break_rows, tmp_path, recwarn
) -> None:
    other.add(*(make_run(n) for n in range(600)))
    break_rows(tmp_path / "other.db", 5, 7, 599)
    report = merge(database, other)
    assert (report.new, report.known, report.rejected) == (597, 61, 3)
    [reason] = report.reasons
    assert (reason.file, reason.place) == (str(tmp_path / "other.db"), "run 67")
    assert reason.reason.startswith("breaks a rule: ")
    assert "status='done'" in reason.reason
    assert report.alike == {reason.reason: 3}
    assert report.quarantine.read_text().count("\n") == 3
    assert not recwarn.list


def test_other_warnings_are_passed_on(database, other, monkeypatch) -> None:
    def stored(**_: object):
        warnings.warn("the server is old", stacklevel=2)
        yield from ()

    monkeypatch.setattr(other, "stored", stored)
    with pytest.warns(UserWarning, match="the server is old"):
        assert merge(database, other).rejected == 0


def test_two_databases_in_memory_are_two(database, make_run) -> None:
    with connect("sqlite://") as second:
        second.add(make_run(1))
        assert merge(database, second).new == 1


def test_a_database_that_is_not_there_is_not_made(tmp_path) -> None:
    for location in (tmp_path / "typo.db", f"sqlite:///{tmp_path}/typo.db"):
        with pytest.raises(ExchangeError, match="no such file"):
            connect_other(str(location))
    assert not (tmp_path / "typo.db").exists()


def test_a_file_that_is_no_database(tmp_path) -> None:
    (tmp_path / "notes.db").write_text("not a database, " * 100)
    with pytest.raises(DatabaseError, match="not an SQLite database"):
        connect_other(str(tmp_path / "notes.db"))


def test_from_sqlite_to_a_server_and_back(other, make_run, postgres_database, database) -> None:
    other.add(*(make_run(n) for n in range(20)))
    with connect(postgres_database) as server:
        assert merge(server, other).new == 20
        assert merge(server, other).new == 0
        server.add(make_run(100))
        assert merge(database, server).new == 21
        assert contents(database) == contents(server)
        with connect(postgres_database) as same, pytest.raises(ExchangeError, match="itself"):
            merge(server, same)
    origins = [o for run, o in database.stored() if run.seed == 7]
    assert origins[0].file.startswith("postgresql://postgres@/lrbench_test")
    assert origins[0].before.file == str(other.url.database)


def test_no_password_in_an_origin(database, guarded_postgres, guarded_database, make_run) -> None:
    with connect(guarded_database) as other:
        other.add(make_run(1))
        report = merge(database, other)
    secret = guarded_postgres.password.split()[0]
    assert secret in guarded_database
    assert report.new == 1
    origins = [origin for _, origin in database.stored()]
    assert sa.make_url(guarded_database).database in repr(origins)
    assert secret not in repr(origins) + repr(report)
