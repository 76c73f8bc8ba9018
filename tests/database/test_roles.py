"""The roles on a real server: each may do what it is for, and nothing more."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg2
import pytest
import sqlalchemy as sa

import lrbench_hpo
from lrbench_hpo.database import connect, tables
from lrbench_hpo.database.roles import role_statements
from lrbench_hpo.errors import DatabaseError, LRBenchError
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.run import Run

# Every one of them would end a statement that quotes names carelessly.
SCHEMAS = ["public", "team", "Te\"a'm $do$ {x} :y \\"]


@dataclass
class Team:
    """A database with its roles: their names, and the URLs that they connect with."""

    admin: str
    schema: str
    names: dict[str, str]
    urls: dict[str, str]

    def apply(self, admin: str | None = None) -> None:
        database = sa.make_url(self.admin).database or ""
        statements = role_statements(database=database, schema=self.schema, **self.names)
        execute(admin or self.admin, *statements)


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements as one transaction; what the last one gives."""
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
        return cursor.fetchall() if cursor.description else []


def plain(url: str) -> str:
    """The URL without what psycopg2 does not know."""
    made = sa.make_url(url)
    return made.set(query={k: v for k, v in made.query.items() if k != "schema"}).render_as_string(
        hide_password=False
    )


def as_role(url: str, name: str, password: str, schema: str | None = None) -> str:
    made = sa.make_url(url).set(username=name, password=password)
    if schema is not None:
        made = made.update_query_dict({"schema": schema})
    return made.render_as_string(hide_password=False)


@pytest.fixture
def make_team(postgres_database: str) -> Iterator[Callable[..., Team]]:
    teams = []

    def make(schema: str = "team", odd: str = "") -> Team:
        token = secrets.token_hex(4)
        names = {role: f"{role}_{token}{odd}" for role in ("owner", "writer", "reader")}
        team = Team(postgres_database, schema, names, {})
        team.apply()
        teams.append(team)
        for role, name in names.items():
            execute(postgres_database, f"ALTER ROLE {quoted(name)} PASSWORD '{token}'")
            asked = None if schema == "public" else schema
            team.urls[role] = as_role(postgres_database, name, token, asked)
        return team

    yield make
    for team in teams:
        for name in map(quoted, team.names.values()):
            execute(postgres_database, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture(params=SCHEMAS)
def team(request: pytest.FixtureRequest, make_team: Callable[..., Team]) -> Team:
    """Roles of a database whose tables the owner has made."""
    odd = "" if request.param == "public" else " \"o'd\\d$$ %s é"
    made: Team = make_team(request.param, odd)
    connect(made.urls["owner"]).close()
    return made


def test_the_writer_adds_and_reads(team: Team, make_run: Callable[..., Run]) -> None:
    with connect(team.urls["writer"]) as db:
        db.check_writable()
        assert db.add(make_run(1), make_run(2)) == 2
        assert db.add(make_run(2), make_run(3)) == 1
        assert db.find("digits", curves=True, limit=1) == [make_run(3)]
        assert db.best("digits", "mlp", n=1)
        assert len(db.origins()) == 1
        assert db.add_range_test(make_run(1).task, RangeTest(0.05, 2, 0.01, 0.2, iterations=9))
        assert len(db.range_tests(make_run(1).task)) == 1


def test_the_reader_does_everything_but_write(team: Team, make_run: Callable[..., Run]) -> None:
    with connect(team.urls["writer"]) as db:
        db.add(make_run(1))
        db.add_range_test(make_run(1).task, RangeTest(0.05, 2, 0.01, 0.2, iterations=9))
    with connect(team.urls["reader"]) as db:
        assert len(db.range_tests(make_run(1).task)) == db.stats().range_tests == 1
        assert db.find("digits", curves=True) == [make_run(1)]
        assert db.best("cifar10", "resnet32", n=1)
        assert len(list(db.stored())) == db.stats().runs == 62
        assert len(db.tasks()) == len(db.task_counts())
        assert db.origins()
        assert db.lookup(make_run(1).uid)
        assert db.forget(source="local", dry_run=True) == 1
        assert lrbench_hpo.recommend("digits", "mlp", n=2, database=db)
        study = lrbench_hpo.create_study("digits", "mlp", database=db)
        assert lrbench_hpo.suggest_policy(study.ask())


@pytest.mark.parametrize("call", ["add", "add_range_test", "check_writable", "forget"])
def test_the_reader_is_refused_in_one_line(
    make_team: Callable[..., Team], make_run: Callable[..., Run], call: str
) -> None:
    team = make_team()
    with connect(team.urls["owner"]) as db:
        db.add(make_run(2))
    calls = {
        "add": lambda db: db.add(make_run(1)),
        "add_range_test": lambda db: db.add_range_test(
            make_run(1).task, RangeTest(0.05, 2, 0.01, 0.2, iterations=9)
        ),
        "check_writable": lambda db: db.check_writable(),
        "forget": lambda db: db.forget(source="local"),
    }
    with connect(team.urls["reader"]) as db, pytest.raises(DatabaseError) as refused:
        calls[call](db)
    told = str(refused.value)
    assert "\n" not in told
    assert team.names["reader"] in told
    assert "permission denied" in told
    assert "db roles" in told
    password = str(sa.make_url(team.urls["reader"]).password)
    assert password not in told.replace(team.names["reader"], "")


def test_the_writer_may_not_remove(
    make_team: Callable[..., Team], make_run: Callable[..., Run]
) -> None:
    team = make_team()
    connect(team.urls["owner"]).close()
    with connect(team.urls["writer"]) as db:
        db.add(make_run(1))
        with pytest.raises(DatabaseError, match=team.names["writer"]):
            db.forget(source="local")
        assert db.find("digits", curves=True) == [make_run(1)]


@pytest.mark.parametrize("table", [table.name for table in tables.metadata.sorted_tables])
@pytest.mark.parametrize("again", [False, True])
def test_what_the_server_refuses(make_team: Callable[..., Team], table: str, again: bool) -> None:
    team = make_team()
    connect(team.urls["owner"]).close()
    if again:
        team.apply()
    name = f"team.{table}"
    column = tables.metadata.tables[table].columns.keys()[0]
    changes = [
        f"UPDATE {name} SET {column} = {column}",  # noqa: S608
        f"DELETE FROM {name}",  # noqa: S608
        f"TRUNCATE {name} CASCADE",
        f"DROP TABLE {name} CASCADE",
        f"ALTER TABLE {name} ADD COLUMN more text",
        f"CREATE INDEX ON {name} ({column})",
        f"CREATE TRIGGER t BEFORE UPDATE ON {name} FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE team.more (id int)",
    ]
    adds = f"INSERT INTO {name} SELECT * FROM {name} WHERE false"  # noqa: S608
    refused = {"reader": [adds, *changes], "writer": list(changes)}
    if table == "lrbench_schema":  # who may write a version could lock everybody out
        refused["writer"].append(adds)
    else:
        execute(plain(team.urls["writer"]), adds)
    for role, statements in refused.items():
        for statement in statements:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                execute(plain(team.urls[role]), statement)


def test_the_writer_may_not_set_a_sequence_back(make_team: Callable[..., Team]) -> None:
    team = make_team("public")
    connect(team.urls["owner"]).close()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(team.urls["writer"], "SELECT setval('lrbench_runs_id_seq', 1)")


def test_tables_of_a_later_migration_are_covered(make_team: Callable[..., Team]) -> None:
    team = make_team("public")
    connect(team.urls["owner"]).close()
    execute(team.urls["owner"], "CREATE TABLE lrbench_later (id bigserial, t text)")
    execute(team.urls["writer"], "INSERT INTO lrbench_later (t) VALUES ('new')")
    assert execute(team.urls["reader"], "SELECT t FROM lrbench_later") == [("new",)]
    for role in ("reader", "writer"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(team.urls[role], "DELETE FROM lrbench_later")


def test_tables_that_were_there_before_are_handed_over(
    make_team: Callable[..., Team], make_run: Callable[..., Run]
) -> None:
    team = make_team("public")
    with connect(team.admin) as db:  # a superuser was here first
        db.add(make_run(1))
    execute(team.admin, f"GRANT ALL ON lrbench_runs TO {team.names['writer']}")
    with connect(team.urls["reader"]) as db, pytest.raises(DatabaseError, match="denied"):
        db.stats()
    team.apply()
    with connect(team.urls["writer"]) as db:
        assert db.add(make_run(2)) == 1
        with pytest.raises(DatabaseError):
            db.forget(source="local")
    with connect(team.urls["reader"]) as db:
        assert db.stats().runs == 63
    execute(team.urls["owner"], "ALTER TABLE lrbench_runs ADD COLUMN more text")


def test_a_role_that_is_no_superuser_may_give_them(
    make_team: Callable[..., Team], make_run: Callable[..., Run]
) -> None:
    team = make_team("public")  # not these: those that the manager makes below
    token = secrets.token_hex(4)
    manager = f"manager_{token}"
    database = sa.make_url(team.admin).database
    execute(
        team.admin,
        f"CREATE ROLE {manager} LOGIN CREATEROLE PASSWORD '{token}'",
        f"ALTER DATABASE {database} OWNER TO {manager}",
    )
    own = Team(
        as_role(team.admin, manager, token),
        "managed",
        {role: f"{role}_{token}" for role in ("owner", "writer", "reader")},
        {},
    )
    try:
        own.apply()
        for role, name in own.names.items():
            execute(team.admin, f"ALTER ROLE {name} PASSWORD '{token}'")
            own.urls[role] = as_role(team.admin, name, token, "managed")
        connect(own.urls["owner"]).close()
        own.apply()
        with connect(own.urls["writer"]) as db:
            assert db.add(make_run(1)) == 1
        with connect(own.urls["reader"]) as db:
            assert db.stats().runs == 62
    finally:
        execute(team.admin, f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
        for name in (*own.names.values(), manager):
            execute(team.admin, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def test_a_reader_of_an_empty_database_is_told_who_makes_the_tables(
    make_team: Callable[..., Team],
) -> None:
    team = make_team()
    for role in ("reader", "writer"):
        with pytest.raises(DatabaseError) as refused, connect(team.urls[role]):
            pass
        assert "\n" not in str(refused.value)
        assert team.names[role] in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"owner": "a", "writer": "a"}, "three different roles"),
        ({"reader": ""}, "reader="),
        ({"reader": "x" * 64}, "63 bytes"),
        ({"schema": "é" * 32}, "63 bytes"),
        ({"schema": "a\nb"}, "schema="),
        ({"writer": "a\0b"}, "writer="),
        ({"owner": "public"}, "keeps this name"),
        ({"owner": "pg_owner"}, "keeps this name"),
        ({"schema": "50%"}, "without %"),
        ({"database": 5}, "database=5"),
    ],
)
def test_names_that_cannot_be_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(LRBenchError, match=says) as refused:
        role_statements(**given)
    assert "\n" not in str(refused.value)


def test_no_statement_holds_a_password() -> None:
    assert "PASSWORD" not in " ".join(role_statements()).upper()
