from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.engine import open_engine
from lrbench_hpo.database.failures import one_line
from lrbench_hpo.database.location import database_url
from lrbench_hpo.errors import DatabaseError


def message_of(call) -> str:
    with pytest.raises(DatabaseError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_a_file_that_is_no_database(tmp_path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"my precious notes, long enough for a header\n" * 50)
    before = file.read_bytes()
    assert message_of(lambda: connect(file)) == (
        f"{file}: not an SQLite database: name another file"
    )
    assert file.read_bytes() == before


def test_a_damaged_database(make_run, tmp_path) -> None:
    file = tmp_path / "lr.db"
    connect(file).close()
    data = bytearray(file.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    file.write_bytes(data)
    assert "damaged: restore a copy" in message_of(lambda: connect(file).find())


def read_only(file: Path) -> str:
    return f"sqlite:///file:{file}?mode=ro&uri=true"


def test_a_read_only_file_can_be_read_but_not_written(make_run, tmp_path) -> None:
    file = tmp_path / "lr.db"
    with connect(file) as db:
        db.add(make_run())
    before = file.read_bytes()
    with connect(read_only(file)) as db:
        assert db.find("digits", curves=True) == [make_run()]
        assert len(db.tasks()) == 4
        assert db.best("cifar10", "resnet32", n=1)
        assert db.stats().size_bytes == len(before)
        assert "read-only: change its permissions" in message_of(lambda: db.add(make_run(1)))
        assert "read-only" in message_of(db.check_writable)
    assert file.read_bytes() == before


def test_a_read_only_file_without_tables(tmp_path) -> None:
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE x (y)").connection.close()
    assert "read-only" in message_of(lambda: connect(read_only(tmp_path / "empty.db")))
    assert "cannot be opened" in message_of(lambda: connect(read_only(tmp_path / "none.db")))


def test_a_locked_file_is_waited_for_and_then_told(make_run, tmp_path, start_python) -> None:
    file = tmp_path / "lr.db"
    connect(file).close()
    code = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""
    holder = start_python(code, file)
    assert holder.stdout.readline() == "locked\n"
    with connect(f"sqlite:///{file}?timeout=0.1") as db:
        told = message_of(lambda: db.add(make_run()))
        assert told.startswith(f"{file}: locked by another process: try again")
        assert len(db.find()) == 61  # a reader does not mind
        holder.communicate("go\n")
        assert db.add(make_run()) == 1


def test_a_full_disk_stores_all_or_nothing(make_run, tmp_path) -> None:
    file = tmp_path / "lr.db"
    with connect(file) as db:
        db.add(make_run(0))
    engine = open_engine(database_url(file))
    room = {"pages": 1}  # SQLite raises it to what the file has already

    @sa.event.listens_for(engine, "connect")
    def _(connection, _) -> None:
        connection.execute(f"PRAGMA max_page_count = {room['pages']}")

    with Database(engine) as db:
        text = {str(i): "x" * 2000 for i in range(20)}
        many = [make_run(i, notes=text) for i in range(1, 30)]
        told = message_of(lambda: db.add(*many))
        assert told == (
            f"{file}: the disk is full: nothing of this was stored; make room and try again"
        )
        assert db.find("digits", curves=True) == [make_run(0)]
        room["pages"] = 2**30
        assert db.add(*many) == 29


def test_a_folder_is_made_or_told(tmp_path) -> None:
    with connect(tmp_path / "new" / "folder" / "lr.db") as db:
        assert db.stats().runs == 61
    (tmp_path / "file").write_text("x")
    told = message_of(lambda: connect(tmp_path / "file" / "lr.db"))
    assert "its folder cannot be made" in told
    assert "this is a folder" in message_of(lambda: connect(tmp_path))


def test_a_setting_that_sqlite_does_not_know(tmp_path) -> None:
    assert "setting after ?" in message_of(lambda: connect(f"sqlite:///{tmp_path}/a?timeout=soon"))


def test_a_password_in_a_drivers_message_is_hidden() -> None:
    url = sa.make_url("postgresql://me:s3cret@host/lr")

    def fail() -> None:
        with one_line(url):
            cause = sqlite3.OperationalError("cannot reach\nme:s3cret@host")
            raise sa.exc.OperationalError("SELECT 1", {}, cause)

    assert message_of(fail) == "postgresql://me:***@host/lr: cannot reach me:***@host"
    assert "s3cret" not in repr(open_engine(database_url("sqlite://")))


def test_a_curve_goes_with_its_run(make_run, tmp_path) -> None:
    with connect(tmp_path / "lr.db") as db:
        db.add(make_run())
    with open_engine(database_url(tmp_path / "lr.db")).begin() as connection:
        connection.exec_driver_sql("DELETE FROM lrbench_runs WHERE source = 'local'")
        assert connection.exec_driver_sql("SELECT count(*) FROM lrbench_curves").scalar() == 0
