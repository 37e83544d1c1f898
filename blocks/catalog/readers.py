"""Who may read the schema `analytics`, and nothing else: roles of PostgreSQL, in one group."""

from __future__ import annotations

import re
import secrets
from typing import Any

from psycopg2.extensions import encrypt_password
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from blocks.catalog.block import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.errors import InvalidInputError, RefusedError
from blocks.units import shown

STATEMENT_MINUTES = 5
"""A query of an analyst's that takes longer ends: the catalog's server has other work."""


def group_of(connection: Connection) -> str:
    """The group of this catalog's analysts: roles are the whole server's, and catalogs are not each other's."""
    return f"transcode_flow_analysts_{read_identity(connection).catalog_id.hex[:12]}"


def grant_readers(connection: Connection) -> bool:
    """Let the group read all of `analytics` as it is now; whether there is such a group on this server."""
    group = group_of(connection)
    if not _exists(connection, group):
        return False
    connection.execute(text(f"GRANT USAGE ON SCHEMA analytics TO {group}"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO {group}"))
    return True


def create_reader(catalog: CatalogDatabase, name: str) -> str:
    """A role that logs in and reads; returns its password, which is kept nowhere. One that exists gets a new password.

    Raises:
        InvalidInputError: the name is none for a role, or the catalog's own.
        RefusedError: there is a role of this name that is no analyst, or the catalog's role may not make any; or the
            schema `public` is open to everybody.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name, flags=re.ASCII) or name.startswith("pg_"):
        raise InvalidInputError(
            f"{shown(name)} is no name for an analyst: 1 to 63 of a-z, 0-9 and _, not a digit first"
        )
    group = catalog.transaction(group_of)
    if name in (catalog.username, group):
        raise InvalidInputError(f"{name} is the catalog's own role: choose another name for the analyst")
    password = secrets.token_urlsafe(24)

    def work(connection: Connection) -> str:
        if not _exists(connection, group):
            connection.execute(text(f"CREATE ROLE {group} NOLOGIN"))
        grant_readers(connection)
        known = _exists(connection, name)
        if known and not _is_analyst(connection, name, group):
            raise RefusedError(f"there is a role {name} already, and it is no analyst: choose another name")
        verb = "ALTER" if known else "CREATE"
        # What the server keeps, not what it is made of: a statement that fails is written into the server's log.
        driver: Any = connection.connection.dbapi_connection
        verifier = encrypt_password(password, name, driver, "scram-sha-256")
        _run(connection, f"{verb} ROLE %I LOGIN PASSWORD %L", name, verifier)
        if not known:
            _run(connection, f"GRANT {group} TO %I", name)
        # So that a restore can end the analyst's sessions, and see them at all; also one's who is here since before.
        _run(connection, "GRANT %I TO CURRENT_USER", name)
        if connection.execute(text("SELECT has_schema_privilege(:name, 'public', 'CREATE')"), {"name": name}).scalar():
            # A function of theirs in there would be run with the rights of whoever calls one of that name.
            raise RefusedError(
                "everybody may create in the schema public of this database, as before PostgreSQL 15, and so could "
                "read all of it: have a superuser run REVOKE CREATE ON SCHEMA public FROM PUBLIC and GRANT CREATE ON "
                f"SCHEMA public TO {catalog.username} in {catalog.database}"
            )
        # Against mistakes; what keeps the catalog safe are the rights it does not have.
        _run(connection, "ALTER ROLE %I SET default_transaction_read_only = on", name)
        _run(connection, f"ALTER ROLE %I SET statement_timeout = '{STATEMENT_MINUTES}min'", name)
        return password

    try:
        return catalog.transaction(work)
    except ProgrammingError as error:
        code = getattr(error.orig, "pgcode", "")
        if code == "42939":
            raise InvalidInputError(f"{name} means something else to PostgreSQL: choose another name") from None
        if code != "42501":
            raise
        raise RefusedError(
            f"the role {catalog.username} may not make roles: have a superuser run CREATE ROLE {group}; CREATE ROLE "
            f"{name} LOGIN PASSWORD '…' IN ROLE {group}; and then `python -m flows upgrade`, which lets them read"
        ) from error


def _exists(connection: Connection, role: str) -> bool:
    found = connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).scalar()
    return found is not None


def _is_analyst(connection: Connection, role: str, group: str) -> bool:
    return bool(
        connection.execute(text("SELECT pg_has_role(:role, :group, 'member') AND NOT rolsuper FROM pg_roles "
                                " WHERE rolname = :role"), {"role": role, "group": group}).scalar()
    )  # fmt: skip


def _run(connection: Connection, form: str, *values: str) -> None:
    """A statement that takes no parameters: PostgreSQL itself quotes the values into it."""
    names = ", ".join(f":v{number}" for number in range(len(values)))
    given = {f"v{number}": value for number, value in enumerate(values)}
    statement = connection.execute(text(f"SELECT format(:form, {names})"), {"form": form, **given}).scalar_one()
    connection.exec_driver_sql(statement.replace("%", "%%"))
