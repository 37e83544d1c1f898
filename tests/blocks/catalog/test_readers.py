"""Analysts as a catalog's owner makes them who is no superuser; each catalog has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2
import pytest
from sqlalchemy import event

from blocks.catalog import CatalogDatabase, databases
from blocks.catalog.databases import end_sessions, maintenance
from blocks.catalog.migrating import upgrade
from blocks.catalog.readers import create_reader
from blocks.embedded import Endpoints
from blocks.errors import InvalidInputError, RefusedError


@pytest.fixture
def catalogs(endpoints: Endpoints, sql: Callable[[str], None]) -> Iterator[list[CatalogDatabase]]:
    """Two catalogs on one server, owned by a role that may make others."""
    sql("CREATE ROLE librarian LOGIN CREATEROLE")
    names = ["library_one", "library_two"]
    found = []
    for name in names:
        sql(f"CREATE DATABASE {name} OWNER librarian")
        found.append(CatalogDatabase(host=str(endpoints.postgres_folder), username="librarian", database=name))
        upgrade(found[-1])
    yield found
    roles = [f"transcode_flow_analysts_{group_id(one)}" for one in found]
    for name, catalog in zip(names, found, strict=True):
        catalog.disconnect()
        sql(f"DROP DATABASE {name} WITH (FORCE)")
    for role in ("ada", *roles, "librarian"):
        sql(f"DROP ROLE IF EXISTS {role}")


def group_id(catalog: CatalogDatabase) -> str:
    with catalog.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT left(replace(catalog_id::text, '-', ''), 12) FROM catalog_identity")
        return str(found.scalar_one())


def read(catalog: CatalogDatabase, table: str) -> int:
    connection = psycopg2.connect(host=catalog.host, user="ada", dbname=catalog.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            return int(cursor.fetchall()[0][0])
    finally:
        connection.close()


def test_an_owner_who_is_no_superuser(catalogs: list[CatalogDatabase]) -> None:
    first, second = catalogs
    password = create_reader(first, "ada")
    assert create_reader(first, "ada") != password, "a new one for an analyst who lost it"
    assert read(first, "analytics.latest_usage") == 0
    with pytest.raises(psycopg2.Error, match="permission denied"):
        read(first, "api_keys")
    with pytest.raises(psycopg2.Error, match="permission denied"):
        read(second, "analytics.latest_usage")
    with pytest.raises(RefusedError, match="it is no analyst"):
        create_reader(second, "ada")


def test_the_server_is_never_told_a_password(catalogs: list[CatalogDatabase], sql: Callable[[str], None]) -> None:
    """A statement that fails is written into its log."""
    first, _ = catalogs
    said: list[str] = []
    event.listen(
        first.engine, "before_cursor_execute", lambda _, __, text, values, *___: said.append(f"{text} {values}")
    )
    password = create_reader(first, "ada")
    assert "SCRAM-SHA-256$4096:" in str(said)
    assert password not in str(said)
    sql("SELECT 1 / (SELECT count(*) FROM pg_authid WHERE rolname = 'ada' AND rolpassword LIKE 'SCRAM-SHA-256$%:%')")


def test_new_tables_are_readable_after_an_upgrade(catalogs: list[CatalogDatabase]) -> None:
    first, _ = catalogs
    create_reader(first, "ada")
    with first.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE analytics.newer (x int)")
    upgrade(first)
    assert read(first, "analytics.newer") == 0


def test_who_may_make_no_roles_is_told_what_to_do(catalogs: list[CatalogDatabase], sql: Callable[[str], None]) -> None:
    sql("ALTER ROLE librarian NOCREATEROLE")
    with pytest.raises(RefusedError, match="have a superuser run CREATE ROLE transcode_flow_analysts_"):
        create_reader(catalogs[0], "ada")
    with pytest.raises(InvalidInputError, match="is the catalog's own role"):
        create_reader(catalogs[0], "librarian")


def test_where_everybody_may_create_nobody_is_let_in(catalogs: list[CatalogDatabase]) -> None:
    """As in a database that came from PostgreSQL 14: a function of theirs would be called with the owner's rights."""
    first, _ = catalogs
    run_as_superuser(first, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    with pytest.raises(RefusedError, match="REVOKE CREATE ON SCHEMA public FROM PUBLIC and GRANT .* in library_one"):
        create_reader(first, "ada")
    run_as_superuser(first, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert create_reader(first, "ada")


def test_sessions_of_analysts_end_where_a_catalog_is_replaced(
    catalogs: list[CatalogDatabase], sql: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role that restores is no superuser; it sees less of others' sessions."""
    first, _ = catalogs
    create_reader(first, "ada")
    sql("CREATE ROLE stranger LOGIN")
    open_there = [psycopg2.connect(host=first.host, user=user, dbname="library_one") for user in ("ada", "stranger")]
    first.disconnect()
    monkeypatch.setattr(databases, "SESSIONS_END_SECONDS", 1)
    try:
        with maintenance(first) as connection:
            with pytest.raises(RefusedError, match=r"sessions in library_one do not end: stranger +\(pid \d+\); "):
                end_sessions(connection, "library_one")
            open_there.pop().close()
            end_sessions(connection, "library_one")
        with pytest.raises(psycopg2.OperationalError):
            open_there[0].cursor().execute("SELECT 1")
    finally:
        for one in open_there:
            one.close()
        sql("DROP ROLE stranger")


def run_as_superuser(catalog: CatalogDatabase, statement: str) -> None:
    connection = psycopg2.connect(host=catalog.host, user="postgres", dbname=catalog.database)
    try:
        connection.autocommit = True
        connection.cursor().execute(statement)
    finally:
        connection.close()
