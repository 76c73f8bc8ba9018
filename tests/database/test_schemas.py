"""A schema of one's own choice, whatever its name."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.database.migrations import MIGRATIONS

SCHEMAS = ["team", "Team A", 'we"ird', "O'Neil", "ünï.cödé", "select", "a\\b", ":name"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_of_ones_own(postgres_database, make_run, sql, schema: str, with_query) -> None:
    url = with_query(postgres_database, schema=schema)
    with connect(url) as db:
        assert db.add(make_run()) == 1
        assert db.find("digits", curves=True) == [make_run()]
        assert (db.stats().runs, db.stats().schema_version) == (62, MIGRATIONS[-1].version)
        assert db.stats().size_bytes > 0
        assert len(list(db.stored())) == 62
        assert len(db.best("digits", "mlp")) == len(db.evidence(make_run().task, 5)) == 1
        db.check_writable()
        assert db.forget(source="local") == 1
    with connect(url) as db:
        assert db.stats().runs == 61
    where = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'lrbench_%'"
    assert sql(postgres_database, where) == [(schema,)]


def test_two_schemas_and_none_are_apart(postgres_database, make_run, with_query) -> None:
    with (
        connect(with_query(postgres_database, schema="one")) as one,
        connect(with_query(postgres_database, schema="One")) as other,
        connect(postgres_database) as plain,
    ):
        assert (one.add(make_run(1)), other.add(make_run(1), make_run(2))) == (1, 2)
        assert plain.add(make_run(3)) == 1
        assert one.forget(source="local") == 1
        assert [len(db.find("digits")) for db in (one, other, plain)] == [0, 2, 1]
        assert [db.stats().runs for db in (one, other, plain)] == [61, 63, 62]


def test_a_schema_of_version_1_is_migrated_where_it_is(
    postgres_database, make_schema_1, sql, with_query
) -> None:
    sql(postgres_database, 'CREATE SCHEMA "Team A"')
    path = with_query(postgres_database, options='-csearch_path="Team\\ A"')
    runs = make_schema_1(path)
    with connect(with_query(postgres_database, schema="Team A")) as db:
        assert db.stats().runs == 61 + len(runs)
        assert db.add(*runs) == 0
    where = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'lrbench_%'"
    assert sql(postgres_database, where) == [("Team A",)]


def test_many_who_make_one_schema_at_once(postgres_database, with_query) -> None:
    url = with_query(postgres_database, schema="new")

    def runs(_: int) -> int:
        with connect(url) as db:
            return db.stats().runs

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(runs, range(16))) == [61] * 16


@pytest.mark.parametrize("schema", [" ", "100%", "x" * 64, "ü" * 32, "pg_mine", "a\nb"])
def test_what_cannot_be_a_schema(schema: str, message_of, with_query) -> None:
    told = message_of(
        lambda: connect(with_query("postgresql://me:s3cret@127.0.0.1/lr", schema=schema))
    )
    assert "schema=" in told
    assert "s3cret" not in told


def test_a_pickle_connects_again_to_the_same_schema(
    postgres_database, make_run, with_query, monkeypatch
) -> None:
    url = with_query(postgres_database, schema="Team A")
    monkeypatch.setenv("LRBENCH_DATABASE_URL", url)  # where a password comes from, if there is one
    with connect(url) as db:
        db.add(make_run())
        with pickle.loads(pickle.dumps(db)) as other:  # noqa: S301
            assert repr(other) == repr(db)
            assert other.find("digits", curves=True) == [make_run()]
