from __future__ import annotations

import subprocess
from pathlib import Path

import platformdirs
import pytest
import sqlalchemy as sa

from lrbench_hpo.database import connect
from lrbench_hpo.database.failures import shown
from lrbench_hpo.database.location import (
    database_url,
    in_memory,
    sqlite_file,
    with_password,
    without_password,
)
from lrbench_hpo.errors import DatabaseError


def test_the_users_own_file_is_the_default() -> None:
    expected = platformdirs.user_data_path("lrbench_hpo") / "lrbench.db"
    with connect() as db:
        assert db.stats().location == str(expected)
    assert expected.is_file()


def test_the_variable_names_another(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LRBENCH_DATABASE_URL", f"sqlite:///{tmp_path}/team.db")
    assert sqlite_file(database_url()) == tmp_path / "team.db"
    assert sqlite_file(database_url(tmp_path / "mine.db")) == tmp_path / "mine.db"
    monkeypatch.setenv("LRBENCH_DATABASE_URL", "")
    assert sqlite_file(database_url()).name == "lrbench.db"


def test_paths_and_urls(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Path("~").expanduser()
    for text in ("lr.db", "./lr.db", "sqlite:///lr.db", f"sqlite:///{tmp_path}/lr.db"):
        assert sqlite_file(database_url(text)) == tmp_path / "lr.db"
    assert sqlite_file(database_url("~/lr.db")) == home / "lr.db"
    assert sqlite_file(database_url("sqlite:///~/lr.db")) == home / "lr.db"
    assert sqlite_file(database_url(Path("odd:name.db"))) == tmp_path / "odd:name.db"
    assert sqlite_file(database_url("sqlite:///file:/x/lr.db?mode=ro&uri=true")) == Path("/x/lr.db")
    assert in_memory(database_url("sqlite://"))
    assert in_memory(database_url("sqlite:///:memory:"))
    url = database_url("postgresql://me@host/lr?sslmode=require")
    assert (url.drivername, url.query["sslmode"]) == ("postgresql+psycopg2", "require")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected a file"),
        (" ", "expected a file"),
        ("a\0b", "expected a file"),
        ("mysql://me:secret@host/lr", "unknown database kind 'mysql'"),
        ("postgres://me:secret@host/lr", "write postgresql://"),
        ("postgresql+asyncpg://me:secret@host/lr", "unknown database kind"),
        ("postgresql:/me:secret@host/lr", "starts with postgresql://"),
        ("postgresql://me:secret@host:port/lr", "cannot be read"),
        (5, "database=int"),
    ],
)
def test_what_names_no_database(text, part: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        database_url(text)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    assert "secret" not in message


def test_passwords_are_never_shown() -> None:
    url = sa.make_url("postgresql://me:s3cret@host:5432/lr?password=s3cret&sslpassword=s3cret")
    assert shown(url) == "postgresql://me:***@host:5432/lr"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("postgresql://me:s3cret@host:5432/lr", "postgresql://me@host:5432/lr"),
        ("postgresql://me:s3%2F%40@host/lr", "postgresql://me@host/lr"),
        ("postgresql+psycopg2://me:s3cret@host/lr", "postgresql://me@host/lr"),
        (
            "postgresql://me@host/lr?password=s3cret&sslPassword=s3cret&sslmode=require",
            "postgresql://me@host/lr?sslmode=require",
        ),
        ("postgresql:///lr?host=/run/postgresql", "postgresql:///lr?host=%2Frun%2Fpostgresql"),
        ("postgresql://me@host/lr", "postgresql://me@host/lr"),
    ],
)
def test_without_password_nothing_else_changes(location: str, expected: str) -> None:
    plain = without_password(location)
    assert plain == expected
    there, here = database_url(location), database_url(plain)
    assert (here.host, here.port, here.database, here.username, here.password) == (
        there.host,
        there.port,
        there.database,
        there.username,
        None,
    )
    assert without_password(plain) == plain


@pytest.mark.parametrize(
    "location",
    [None, "lr.db", Path("odd:name.db"), "sqlite://", "sqlite:///lr.db", "sqlite:///~/my@lr.db"],
)
def test_a_file_has_no_password(location) -> None:
    assert without_password(location) == location


def test_the_environment_gives_a_password_back(monkeypatch) -> None:
    url, plain = "postgresql://me:s3cret@host/lr", "postgresql://me@host/lr"
    assert with_password(plain) == plain
    monkeypatch.setenv("LRBENCH_DATABASE_URL", url)
    assert with_password(plain) == url
    for other in ("postgresql://me@host/other", "postgresql://you@host/lr", "lr.db", None):
        assert with_password(other) == other


def test_postgresql_without_its_driver_names_the_pip_command(start_python) -> None:
    code = """
import sys
sys.modules["psycopg2"] = None  # as if it were not installed
import lrbench_hpo.database, lrbench_hpo.errors
try:
    lrbench_hpo.database.connect("postgresql://me:s3cret@localhost/lr")
except lrbench_hpo.errors.MissingExtraError as error:
    print(error)
"""
    out, err = start_python(code).communicate()
    assert out.strip() == "psycopg2 is not installed: pip install 'lrbench-hpo[postgres]'", err


def test_import_loads_no_framework(start_python) -> None:
    code = """
import sys, lrbench_hpo.database
print(sorted({"torch", "ray", "optuna", "pandas", "matplotlib"} & set(sys.modules)))
"""
    process: subprocess.Popen = start_python(code)
    assert process.communicate() == ("[]\n", "")


@pytest.mark.parametrize(
    "text",
    ["host=db user=ann password=s3cret dbname=lr", "dbname = lr", "postgres://ann:s3cret@db/lr"],
)
def test_other_forms_of_a_servers_address_are_no_file_names(text: str) -> None:
    with pytest.raises(DatabaseError, match="postgresql://") as told:
        database_url(text)
    assert "s3cret" not in str(told.value)
    assert database_url("results/password of nothing.db").database.endswith("nothing.db")
