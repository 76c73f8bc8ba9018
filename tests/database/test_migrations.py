from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.location import database_url as url_of
from lrbench_hpo.database.migrations import MIGRATIONS, Migration, migrate
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.database.tables import metadata
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.records.score import score_run

NEWEST = MIGRATIONS[-1].version


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


FOLLOWING = Migration(NEWEST + 1, "more", more)


def opened(url: str, steps: Sequence[Migration]) -> Database:
    return Database(open_engine(url_of(url)), steps)


def contents(url: str) -> dict[str, Any]:
    """All tables of a database, column by column, row by row."""
    engine = open_engine(url_of(url))
    tables = sa.MetaData()
    with engine.begin() as connection:
        tables.reflect(connection)
        found = {
            table.name: (
                [(column.name, str(column.type)) for column in table.columns],
                sorted(map(repr, connection.execute(sa.select(table)))),
                sorted(str(index.name) for index in table.indexes),
            )
            for table in tables.sorted_tables
        }
    engine.dispose()
    return found


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_steps_are_numbered_from_one() -> None:
    assert [step.version for step in MIGRATIONS] == list(range(1, NEWEST + 1))


def test_a_new_database_has_the_whole_schema(database_url) -> None:
    engine = open_engine(url_of(database_url))
    assert migrate(engine) == NEWEST
    inspector = sa.inspect(engine)
    for table in metadata.sorted_tables:
        assert [c["name"] for c in inspector.get_columns(table.name)] == list(table.columns.keys())
        assert {i["name"] for i in inspector.get_indexes(table.name)} >= {
            index.name for index in table.indexes
        }
    engine.dispose()


def test_a_new_sqlite_file_leaves_no_backup(tmp_path) -> None:
    connect(tmp_path / "lr.db").close()
    assert [file.name for file in tmp_path.iterdir()] == ["lr.db"]


def test_a_step_is_done_once_and_keeps_the_data(make_run, database_url) -> None:
    with connect(database_url) as db:
        db.add(make_run())
    for _ in range(2):
        with opened(database_url, [*MIGRATIONS, FOLLOWING]) as db:
            assert db.stats().schema_version == NEWEST + 1
            assert db.find("digits", curves=True) == [make_run()]


@pytest.mark.parametrize(("step", "error"), [(breaks, DatabaseError), (crashes, RuntimeError)])
def test_a_step_that_fails_leaves_the_old_version(make_run, database_url, step, error) -> None:
    with connect(database_url) as db:
        db.add(make_run())
    before = contents(database_url)
    with pytest.raises(error) as caught:
        opened(database_url, [*MIGRATIONS, Migration(NEWEST + 1, "bad", step)])
    assert "\n" not in str(caught.value)
    assert contents(database_url) == before
    with connect(database_url) as db:
        assert db.stats().schema_version == NEWEST
        assert len(db.find()) == 62


def test_a_step_that_fails_keeps_the_steps_before_it(database_url) -> None:
    steps = [*MIGRATIONS, FOLLOWING, Migration(NEWEST + 2, "bad", crashes)]
    with pytest.raises(RuntimeError):
        opened(database_url, steps)
    with opened(database_url, steps[:-1]) as db:
        assert db.stats().schema_version == NEWEST + 1


def test_a_newer_database_is_refused_and_left_alone(database_url) -> None:
    with opened(database_url, [*MIGRATIONS, FOLLOWING]) as db:
        where = repr(db).split()[1].rstrip(">")
    before = contents(database_url)
    with pytest.raises(DatabaseError) as caught:
        connect(database_url)
    assert str(caught.value) == (
        f"{where}: made by a newer lrbench-hpo (schema {NEWEST + 1}, known here: {NEWEST}): "
        "pip install --upgrade lrbench-hpo"
    )
    assert contents(database_url) == before


def test_other_tables_are_left_alone(database_url, sql) -> None:
    sql(database_url, "CREATE TABLE studies (id INTEGER)")
    sql(database_url, "INSERT INTO studies VALUES (7)")
    with connect(database_url) as db:
        assert db.stats().runs == 61
    assert sql(database_url, "SELECT id FROM studies") == [(7,)]
    assert all(name.startswith("lrbench_") for name in contents(database_url) if name != "studies")


def test_schema_1_becomes_the_newest_with_every_run_and_curve(
    database_url, make_schema_1, sql, make_run
) -> None:
    runs = make_schema_1(database_url)
    assert sum(len(run.curve) for run in runs) == 113
    with connect(database_url) as db:
        found = {run.uid: run for run in db.find(curves=True)}
        # Curves are compared as they are kept from now on: with six digits, as CurvePoint has it.
        assert found == {run.uid: run for run in [*paper_runs(), *runs]}
        assert db.stats().schema_version == NEWEST
        assert len(db.tasks()) == 6
        assert db.best("cifar10", "resnet32", 3) == db.best("CIFAR-10", "ResNet-32", 3)
        assert {origin for _, origin in db.stored()} == {None}
        assert db.origins() == []
        assert db.add(*runs, *paper_runs()) == 0
        assert db.add(make_run()) == 1  # and ids go on
    versions = sql(database_url, "SELECT version FROM lrbench_schema ORDER BY version")
    assert versions == [(step.version,) for step in MIGRATIONS]


def test_schema_1_becomes_what_a_new_database_is(
    database_url, make_schema_1, tmp_path, new_postgres_database
) -> None:
    make_schema_1(database_url)
    sqlite = database_url.startswith("sqlite")
    other = f"sqlite:///{tmp_path}/new.db" if sqlite else new_postgres_database()
    connect(database_url).close()
    connect(other).close()
    old, new = contents(database_url), contents(other)
    assert old.keys() == new.keys()
    for table in new:
        assert (old[table][0], old[table][2]) == (new[table][0], new[table][2])


def test_schema_1_gets_the_scores_that_new_runs_get(database_url, make_schema_1, sql) -> None:
    make_schema_1(database_url)
    with connect(database_url) as db:
        runs = {run.uid: run for run in db.find()}
    rows = sql(database_url, "SELECT uid, score FROM lrbench_runs")
    assert len(rows) == 65
    for uid, score in rows:
        run = runs[uid]
        ranked = run.status == "complete" and run.split != "train" and "top1" in run.metrics
        assert score == (pytest.approx(score_run(run), abs=1e-12) if ranked else None)


def test_a_sqlite_file_is_copied_before_it_is_changed(tmp_path, make_schema_1) -> None:
    url = f"sqlite:///{tmp_path}/lr.db"
    make_schema_1(url)
    before = contents(url)
    connect(url).close()
    [copy] = set(tmp_path.iterdir()) - {tmp_path / "lr.db"}
    assert copy.name == "lr.db.schema-1.bak"
    assert copy.stat().st_mode == (tmp_path / "lr.db").stat().st_mode
    assert contents(f"sqlite:///{copy}") == before
    connect(url).close()
    assert len(list(tmp_path.iterdir())) == 2
    with connect(copy) as db:  # it can be used again as it is
        assert db.stats().runs == 65


def test_an_earlier_copy_is_kept(tmp_path, make_schema_1) -> None:
    url = f"sqlite:///{tmp_path}/lr.db"
    make_schema_1(url)
    before = contents(url)
    (tmp_path / "lr.db.schema-1.bak").write_text("precious")
    connect(url).close()
    assert (tmp_path / "lr.db.schema-1.bak").read_text() == "precious"
    assert contents(f"sqlite:///{tmp_path}/lr.db.schema-1.bak.2") == before


def test_without_room_for_a_copy_nothing_changes(tmp_path, make_schema_1, monkeypatch) -> None:
    url = f"sqlite:///{tmp_path}/lr.db"
    make_schema_1(url)
    data = file_of(url).read_bytes()
    genuine = sqlite3.connect

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = genuine(*arguments, **options)
        if "part" in str(arguments[0]):
            connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr("lrbench_hpo.database.backup.sqlite3.connect", small)
    with pytest.raises(DatabaseError) as caught:
        connect(url)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/lr.db: not changed, because no copy")
    assert file_of(url).read_bytes() == data
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    with connect(url) as db:
        assert db.stats().runs == 65


def test_a_disk_that_gets_full_while_migrating_changes_nothing(tmp_path, make_schema_1) -> None:
    url = f"sqlite:///{tmp_path}/lr.db"
    make_schema_1(url)
    before = contents(url)
    engine = open_engine(url_of(url))

    @sa.event.listens_for(engine, "connect")
    def _(connection, _) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # no more than the file has already

    with pytest.raises(DatabaseError, match="the disk is full: nothing of this was stored"):
        Database(engine)
    assert contents(url) == before
    with connect(url) as db:
        assert db.stats().runs == 65


def test_a_bad_curve_of_schema_1_is_named_and_stops_the_migration(
    database_url, make_schema_1, sql
) -> None:
    make_schema_1(database_url)
    sql(database_url, "UPDATE lrbench_curves SET points = '{' WHERE run_id = 62")
    before = contents(database_url)
    with pytest.raises(DatabaseError, match="62") as caught:
        connect(database_url)
    assert "\n" not in str(caught.value)
    assert contents(database_url) == before


def test_a_read_only_file_of_schema_1(tmp_path, make_schema_1) -> None:
    url = f"sqlite:///{tmp_path}/lr.db"
    make_schema_1(url)
    with pytest.raises(DatabaseError, match="read-only") as caught:
        connect(f"sqlite:///file:{tmp_path}/lr.db?mode=ro&uri=true")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["lr.db"]
