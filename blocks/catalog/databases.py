"""Whole databases of a server: made beside, compared, dropped, and put in each other's place.

Everything runs on a connection to the maintenance database, since nobody can rename or drop the one they are in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from blocks.catalog.block import CatalogDatabase, is_interrupted
from blocks.errors import CatalogUnavailableError, RefusedError, StorageError, first_line

LONGEST_NAME = 63
"""PostgreSQL cuts longer names, silently."""
SESSIONS_END_SECONDS = 20.0


@contextmanager
def maintenance(catalog: CatalogDatabase) -> Iterator[Connection]:
    """A session in the server's maintenance database, where each statement commits itself.

    Raises:
        CatalogUnavailableError: the server does not answer.
        RefusedError: it does not let this role in, or do that.
    """
    engine = catalog.direct_engine(maintenance=True)
    try:
        with (
            catalog_errors(catalog),
            engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            yield connection
    finally:
        engine.dispose()


@contextmanager
def catalog_errors(catalog: CatalogDatabase) -> Iterator[None]:
    """What SQLAlchemy raises, told in the project's own errors."""
    try:
        yield
    except DBAPIError as error:
        raise _told(catalog, error) from error
    except SQLAlchemyError as error:
        raise CatalogUnavailableError(f"the session at {catalog.host} was lost: {first_line(error)}") from error


def _told(catalog: CatalogDatabase, error: DBAPIError) -> StorageError:
    reason = first_line(error)
    code = getattr(error.orig, "pgcode", None)
    if code is None or is_interrupted(error):
        return CatalogUnavailableError(f"PostgreSQL at {catalog.host} did not answer: {reason}")
    way_out = "; let it with ALTER ROLE … CREATEDB" if code == "42501" else ""
    return RefusedError(f"PostgreSQL at {catalog.host} refuses the role {catalog.username}: {reason}{way_out}")


def server_version(connection: Connection) -> int:
    """The server's version as a number: 180006 is 18.6."""
    version: int = connection.execute(text("SELECT current_setting('server_version_num')::int")).scalar_one()
    return version


def database_names(connection: Connection, prefix: str = "") -> list[str]:
    """Databases whose name begins so, in the order of their names."""
    rows = connection.execute(
        text("SELECT datname FROM pg_database WHERE NOT datistemplate AND starts_with(datname, :prefix) ORDER BY 1"),
        {"prefix": prefix},
    )
    return list(rows.scalars())


def missing_roles(connection: Connection, names: list[str]) -> list[str]:
    """Which of these roles the server does not have."""
    have = set(
        connection.execute(
            text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:names)"), {"names": names}
        ).scalars()
    )
    return [name for name in names if name not in have]


def create_database(connection: Connection, name: str, *, note: dict[str, Any]) -> None:
    """An empty database with a note on what it is for; UTF-8, as every catalog is."""
    connection.exec_driver_sql(f"CREATE DATABASE {_quoted(connection, name)} TEMPLATE template0 ENCODING 'UTF8'")
    write_note(connection, name, note)


def database_owner(connection: Connection, name: str) -> tuple[str, str]:
    """Whose a database is, empty where there is none; and who asks."""
    row = connection.execute(
        text(
            "SELECT coalesce((SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :name), ''), current_user"
        ),
        {"name": name},
    ).one()
    return row[0], row[1]


def write_note(connection: Connection, name: str, note: dict[str, Any]) -> None:
    """Say on a database what it is, as its comment: whoever finds it later can tell."""
    # COMMENT takes no parameters.
    literal = connection.execute(text("SELECT quote_literal(:note)"), {"note": json.dumps(note)}).scalar_one()
    connection.exec_driver_sql(f"COMMENT ON DATABASE {_quoted(connection, name)} IS {literal}".replace("%", "%%"))


def read_note(connection: Connection, name: str) -> dict[str, Any]:
    """What `write_note` said of a database; empty where it said nothing."""
    said = connection.execute(
        text("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :name"), {"name": name}
    ).scalar()
    try:
        note = json.loads(said or "{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def count_tables(database: CatalogDatabase) -> int:
    """How many tables there are in a database, a catalog's or not."""
    try:
        found: int = database.transaction(
            lambda connection: connection.exec_driver_sql(
                "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                " WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
            ).scalar_one()
        )
    finally:
        database.disconnect()
    return found


def drop_database(connection: Connection, name: str) -> None:
    """Remove a database with all sessions in it, if it is there."""
    connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_quoted(connection, name)} WITH (FORCE)")


def is_open(connection: Connection, name: str) -> bool | None:
    """Whether a database lets anybody in; None where there is none of this name."""
    found: bool | None = connection.execute(
        text("SELECT datallowconn FROM pg_database WHERE datname = :name"), {"name": name}
    ).scalar()
    return found


def set_open(connection: Connection, name: str, *, is_open: bool) -> None:
    """Let sessions into a database, or no new ones."""
    connection.exec_driver_sql(
        f"ALTER DATABASE {_quoted(connection, name)} ALLOW_CONNECTIONS {'true' if is_open else 'false'}"
    )


def end_sessions(connection: Connection, name: str, *, but: int = 0) -> None:
    """End every session in a database, but that of one process if asked for, and wait until they are gone.

    Raises:
        RefusedError: some stay, or belong to roles that this one must not end; the message names them.
    """
    deadline = time.monotonic() + SESSIONS_END_SECONDS
    refused = ""
    while True:
        left = connection.execute(
            text(f"SELECT pid, usename, application_name FROM pg_stat_activity WHERE {_CLIENTS}"),
            {"name": name, "but": but},
        ).all()
        if not left:
            return
        if time.monotonic() >= deadline:
            who = ", ".join(f"{row.usename} {row.application_name} (pid {row.pid})".strip() for row in left[:5])
            raise RefusedError(f"sessions in {name} do not end: {who}{f'; {refused}' if refused else ''}")
        for one in left:
            # Each by itself: that one may not be ended keeps none of the others.
            try:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": one.pid})
            except DBAPIError as error:
                refused = first_line(error)
        time.sleep(0.05)


# An autovacuum worker, which is nobody's, may be ended by a superuser only; renaming a database sends it away.
# Of sessions of other roles a role that is no superuser is not told what they are.
_CLIENTS = (
    "datname = :name AND pid <> :but AND usesysid IS NOT NULL "
    "AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')"
)


def swap_names(connection: Connection, name: str, *, beside: str, kept_as: str) -> None:
    """The database of this name becomes `kept_as`, where there is one, and the one beside takes its name."""
    pairs = [(name, kept_as)] if is_open(connection, name) is not None else []
    # In one message they are one transaction, also in a session where each statement commits itself: both or neither.
    connection.exec_driver_sql(
        "; ".join(
            f"ALTER DATABASE {_quoted(connection, old)} RENAME TO {_quoted(connection, new)}"
            for old, new in [*pairs, (beside, name)]
        )
    )


def make_read_only(connection: Connection, name: str) -> None:
    """New sessions in this database only read, unless they ask otherwise: nobody goes on writing to it by accident."""
    connection.exec_driver_sql(f"ALTER DATABASE {_quoted(connection, name)} SET default_transaction_read_only = on")


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name).replace("%", "%%")
