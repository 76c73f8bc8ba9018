from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.location import database_url
from lrbench_hpo.database.migrations import MIGRATIONS, Migration, migrate
from lrbench_hpo.database.tables import metadata
from lrbench_hpo.errors import DatabaseError


def more(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE lrbench_runs ADD COLUMN extra TEXT")
    connection.exec_driver_sql("CREATE TABLE lrbench_extra (id INTEGER PRIMARY KEY)")


def breaks(connection: sa.Connection) -> None:
    more(connection)
    connection.exec_driver_sql("DELETE FROM lrbench_curves")
    connection.exec_driver_sql("UPDATE lrbench_runs SET source = 'broken'")
    connection.exec_driver_sql("SELECT nothing FROM nowhere")


def crashes(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE lrbench_half (id INTEGER PRIMARY KEY)")
    raise RuntimeError("power cut")


SECOND = Migration(2, "more", more)


def contents(file: Path) -> list[str]:
    with sqlite3.connect(file) as raw:
        lines = list(raw.iterdump())
    raw.close()
    return lines


def test_steps_are_numbered_from_one() -> None:
    assert [step.version for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_a_new_database_has_the_whole_schema(tmp_path) -> None:
    engine = open_engine(database_url(tmp_path / "lr.db"))
    assert migrate(engine) == MIGRATIONS[-1].version
    inspector = sa.inspect(engine)
    for table in metadata.sorted_tables:
        assert [c["name"] for c in inspector.get_columns(table.name)] == list(table.columns.keys())
        assert {i["name"] for i in inspector.get_indexes(table.name)} >= {
            index.name for index in table.indexes
        }


def test_a_step_is_done_once_and_keeps_the_data(make_run, tmp_path) -> None:
    file = tmp_path / "lr.db"
    with connect(file) as db:
        db.add(make_run())
    for _ in range(2):
        with Database(open_engine(database_url(file)), [*MIGRATIONS, SECOND]) as db:
            assert db.stats().schema_version == 2
            assert db.find("digits", curves=True) == [make_run()]


@pytest.mark.parametrize(("step", "error"), [(breaks, DatabaseError), (crashes, RuntimeError)])
def test_a_step_that_fails_leaves_the_old_version(make_run, tmp_path, step, error) -> None:
    file = tmp_path / "lr.db"
    with connect(file) as db:
        db.add(make_run())
    before = contents(file)
    with pytest.raises(error) as caught:
        Database(open_engine(database_url(file)), [*MIGRATIONS, Migration(2, "bad", step)])
    assert "\n" not in str(caught.value)
    assert contents(file) == before
    with connect(file) as db:
        assert db.stats().schema_version == 1
        assert len(db.find()) == 62


def test_a_step_that_fails_keeps_the_steps_before_it(tmp_path) -> None:
    file = tmp_path / "lr.db"
    steps = [*MIGRATIONS, SECOND, Migration(3, "bad", crashes)]
    with pytest.raises(RuntimeError):
        Database(open_engine(database_url(file)), steps)
    with Database(open_engine(database_url(file)), steps[:2]) as db:
        assert db.stats().schema_version == 2


def test_a_newer_database_is_refused_and_left_alone(tmp_path) -> None:
    file = tmp_path / "lr.db"
    with Database(open_engine(database_url(file)), [*MIGRATIONS, SECOND]):
        before = file.read_bytes()
    with pytest.raises(DatabaseError) as caught:
        connect(file)
    assert str(caught.value) == (
        f"{file}: made by a newer lrbench-hpo (schema 2, known here: 1): "
        "pip install --upgrade lrbench-hpo"
    )
    assert file.read_bytes() == before


def test_other_tables_in_the_file_are_left_alone(tmp_path) -> None:
    with sqlite3.connect(tmp_path / "shared.db") as raw:
        raw.execute("CREATE TABLE studies (id INTEGER)")
        raw.execute("INSERT INTO studies VALUES (7)")
    raw.close()
    with connect(tmp_path / "shared.db") as db:
        assert db.stats().runs == 61
    with sqlite3.connect(tmp_path / "shared.db") as raw:
        assert raw.execute("SELECT id FROM studies").fetchall() == [(7,)]
        names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master")]
    raw.close()
    assert all(name.startswith(("lrbench_", "sqlite_auto")) for name in names if name != "studies")
