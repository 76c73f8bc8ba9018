"""The SQL that gives a team's PostgreSQL database its three roles: owner, writer and reader."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from lrbench_hpo import checks
from lrbench_hpo.database import tables
from lrbench_hpo.errors import DatabaseError

OWNER, WRITER, READER = "lrbench_owner", "lrbench_writer", "lrbench_reader"
_MAX_BYTES = 63  # PostgreSQL cuts longer names, and two names could become one

# Of the tables that are there, and the sequences that number their rows.
_RIGHTS = """\
    FOR found IN
        SELECT c.oid::regclass::text AS name, c.relname, c.relkind,
            pg_catalog.pg_get_userbyid(c.relowner) AS owner
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = {schema} AND c.relkind IN ('r', 'S')
            AND pg_catalog.left(c.relname, 8) = 'lrbench_'
        ORDER BY c.relkind DESC
    LOOP
        IF found.relkind = 'S' THEN
            EXECUTE 'REVOKE ALL ON SEQUENCE ' || found.name || {from_both};
            EXECUTE 'GRANT USAGE ON SEQUENCE ' || found.name || {to_writer};
        ELSE
            IF found.owner <> {owner} THEN
                EXECUTE 'ALTER TABLE ' || found.name || {to_owner};
            END IF;
            EXECUTE 'REVOKE ALL ON ' || found.name || {from_both};
            EXECUTE 'GRANT SELECT ON ' || found.name || {to_both};
            IF found.relname <> {versions} THEN
                EXECUTE 'GRANT INSERT ON ' || found.name || {to_writer};
            END IF;
        END IF;
    END LOOP;
"""


def role_statements(
    *,
    database: str = "lrbench",
    schema: str = "public",
    owner: str = OWNER,
    writer: str = WRITER,
    reader: str = READER,
) -> list[str]:
    """SQL statements that make the three roles and say what each may do.

    The owner makes and migrates the tables, and may remove rows. The writer adds runs and reads
    them; it cannot change or remove a row. The reader reads. The statements may be run again at any
    time, before there are tables and after: tables of other roles are handed to the owner, and
    rights of writer and reader beyond these are taken back. Nobody gets a password: until it has
    one, a role cannot log in where the server asks for one.

    Args:
        database: name of the database that they are run in.
        schema: where its tables are; made if it is missing.
        owner: name of the role that migrates.
        writer: name of the role that adds runs.
        reader: name of the role that reads.

    Raises:
        RecordError: for text that is no name.
        DatabaseError: for a name that PostgreSQL does not allow, or that two roles share.

    >>> print(role_statements(schema="team", reader="Ann's")[-2])
    ALTER DEFAULT PRIVILEGES FOR ROLE "lrbench_owner" IN SCHEMA "team"
        GRANT SELECT ON TABLES TO "lrbench_writer", "Ann's";
    """
    roles = {"owner": owner, "writer": writer, "reader": reader}
    for what, name in {"database": database, "schema": schema, **roles}.items():
        _check(what, name, is_role=what in roles)
    if len(set(roles.values())) < len(roles):
        names = ", ".join(f"{what}={name!r}" for what, name in roles.items())
        raise DatabaseError(f"{names}: expected three different roles")
    if "%" in schema:  # which no URL may ask for either
        raise DatabaseError(f"schema={schema!r}: expected a name without %")
    o, w, r, s = (_quoted(name) for name in (owner, writer, reader, schema))
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {o} IN SCHEMA {s}\n    GRANT"
    return [
        *(_role(name) for name in roles.values()),
        _membership(owner),
        f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {o}, {w}, {r};",
        f"CREATE SCHEMA IF NOT EXISTS {s} AUTHORIZATION {o};",
        f"GRANT USAGE, CREATE ON SCHEMA {s} TO {o};",
        f"GRANT USAGE ON SCHEMA {s} TO {w}, {r};",
        _version_table(schema),
        _rights(schema, owner, writer, reader),
        f"{later} INSERT ON TABLES TO {w};",
        f"{later} SELECT ON TABLES TO {w}, {r};",
        f"{later} USAGE ON SEQUENCES TO {w};",
    ]


def _check(what: str, name: str, *, is_role: bool) -> None:
    checks.name(what, name)
    if len(name.encode()) > _MAX_BYTES:
        raise DatabaseError(f"{what}={name!r}: expected a name of at most {_MAX_BYTES} bytes")
    if name.startswith("pg_") or (is_role and name in ("public", "none")):
        raise DatabaseError(f"{what}={name!r}: PostgreSQL keeps this name for itself: take another")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    # With E it does not depend on a server's setting what a backslash means.
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _block(body: str, declare: str = "") -> str:
    """An anonymous block, between quotes that no name in it can end."""
    quote = "$do$"
    while quote in body:
        quote = quote.replace("d", "dd", 1)
    return f"DO {quote}\n{declare}BEGIN\n{body}END\n{quote};"


def _role(name: str) -> str:
    return _block(
        "    IF NOT EXISTS (\n"
        f"        SELECT FROM pg_catalog.pg_roles WHERE rolname = {_literal(name)}\n"
        "    ) THEN\n"
        f"        CREATE ROLE {_quoted(name)} LOGIN;\n"
        "    END IF;\n"
    )


def _membership(owner: str) -> str:
    # Who is no superuser can hand tables over only to a role that it is a member of.
    return _block(
        f"    IF NOT pg_catalog.pg_has_role(current_user, {_literal(owner)}, 'USAGE') THEN\n"
        f"        GRANT {_quoted(owner)} TO CURRENT_USER;\n"
        "    END IF;\n"
    )


def _version_table(schema: str) -> str:
    """The table of versions, empty: made here so that the writer never gets hold of it.

    The tables that migrations make are for the writer to add to, as are those of the future.
    """
    table = tables.schema.to_metadata(sa.MetaData(), schema=schema)
    # For a person to read, not for psycopg2, for which SQLAlchemy doubles every %.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    create = CreateTable(table, if_not_exists=True).compile(dialect=dialect)
    lines = str(create).strip().expandtabs(4).splitlines()
    return "\n".join(line.rstrip() for line in lines) + ";"


def _rights(schema: str, owner: str, writer: str, reader: str) -> str:
    w, r = _quoted(writer), _quoted(reader)
    clauses = {
        "schema": schema,
        "owner": owner,
        "versions": tables.schema.name,
        "to_owner": f" OWNER TO {_quoted(owner)}",
        "to_writer": f" TO {w}",
        "to_both": f" TO {w}, {r}",
        "from_both": f" FROM {w}, {r}",
    }
    body = _RIGHTS.format(**{name: _literal(clause) for name, clause in clauses.items()})
    return _block(body, declare="DECLARE\n    found record;\n")
