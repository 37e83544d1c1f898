"""The schema: migrations and models agree, and a schema this code does not know is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from blocks.catalog import CatalogDatabase, block, migrating
from blocks.catalog.housekeeping import LOG_MONTHS_AHEAD
from blocks.catalog.migrating import TABLES
from blocks.embedded import Endpoints
from blocks.errors import CatalogUnavailableError, RefusedError, SchemaError
from tests.helpers import execute, one, rows


@pytest.fixture(autouse=True)
def _forget_what_was_checked() -> None:
    migrating._checked.clear()


def test_models_and_migrations_agree(catalog: CatalogDatabase) -> None:
    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, SQLModel.metadata)
    # Indexes, constraints and partitions live in the migrations alone; columns must be the same.
    about_columns = [
        change
        for change in (one for group in differences for one in (group if isinstance(group, list) else [group]))
        if change[0] in ("add_table", "add_column", "remove_column", "modify_type", "modify_nullable")
    ]
    assert about_columns == []


def test_the_tables_of_a_whole_catalog(catalog: CatalogDatabase) -> None:
    there = rows(
        catalog,
        "SELECT CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END AS name "
        "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname IN ('public', 'analytics')",
    )
    assert {row.name for row in there} == {*TABLES, "alembic_version"}


def test_upgrading_again_changes_nothing(catalog: CatalogDatabase) -> None:
    before = one(catalog, "SELECT catalog_id FROM catalog_identity")
    assert migrating.upgrade(catalog) == migrating.head_revision()
    assert one(catalog, "SELECT catalog_id FROM catalog_identity") == before


def test_two_deployments_at_once(endpoints: Endpoints, sql: Callable[[str], None]) -> None:
    sql("CREATE DATABASE two_deployments")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="two_deployments")
    errors: list[BaseException] = []

    def deploy() -> None:
        try:
            migrating.upgrade(catalog)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=deploy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    migrating.require_current_schema(catalog)
    catalog.disconnect()
    sql("DROP DATABASE two_deployments WITH (FORCE)")


def test_a_database_that_cannot_hold_a_catalog(endpoints: Endpoints, sql: Callable[[str], None]) -> None:
    sql("CREATE ROLE tenant LOGIN")
    sql("CREATE DATABASE ascii OWNER tenant TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    sql("CREATE DATABASE another_s")
    try:
        for name, why in (("ascii", "ENCODING 'UTF8'"), ("another_s", "ALTER DATABASE another_s OWNER TO tenant")):
            catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="tenant", database=name)
            with pytest.raises(RefusedError, match=why):
                migrating.upgrade(catalog)
            assert migrating.current_revision(catalog) is None
            catalog.disconnect()
    finally:
        for thing in ("DATABASE ascii", "DATABASE another_s", "ROLE tenant"):
            sql(f"DROP {thing}")


@pytest.mark.parametrize("found", ["ALTER SCHEMA public OWNER TO postgres", "DROP SCHEMA public"])
def test_an_owner_who_may_create_no_tables(endpoints: Endpoints, sql: Callable[[str], None], found: str) -> None:
    """As in a database that came from PostgreSQL 14, once not everybody may; what is told to do is enough."""
    sql("CREATE ROLE tenant LOGIN")
    sql("CREATE DATABASE another_s OWNER tenant")
    try:
        catalog, ours = (
            CatalogDatabase(host=str(endpoints.postgres_folder), username=name, database="another_s")
            for name in ("tenant", "postgres")
        )
        execute(ours, found)
        with pytest.raises(RefusedError, match="schema public of the database another_s") as told:
            migrating.upgrade(catalog)
        execute(ours, str(told.value).partition(" run ")[2].removesuffix(" in it"))
        migrating.upgrade(catalog)
        migrating.require_current_schema(catalog)
        for one_of_both in (catalog, ours):
            one_of_both.disconnect()
    finally:
        sql("DROP DATABASE another_s WITH (FORCE)")
        sql("DROP ROLE tenant")


def test_a_table_that_is_in_use_is_not_waited_for_for_ever(
    catalog: CatalogDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_SECONDS", 1)
    month = one(
        catalog,
        "SELECT max(CAST(CAST(inhrelid AS regclass) AS text)) FROM pg_inherits "
        " WHERE inhparent = 'operation_log'::regclass AND CAST(CAST(inhrelid AS regclass) AS text) ~ '[0-9]'",
    )
    execute(catalog, f"DROP TABLE {month}")  # so that there is something to do
    with catalog.engine.begin() as busy:
        busy.exec_driver_sql("LOCK TABLE operation_log IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RefusedError, match="in use for 1 s, by a backup or a long query"):
            migrating.upgrade(catalog)
    assert migrating.upgrade(catalog) == migrating.head_revision()


def test_empty_old_and_newer_schemas_are_refused(
    endpoints: Endpoints, sql: Callable[[str], None], catalog: CatalogDatabase
) -> None:
    empty = catalog.model_copy(update={"database": "postgres"})
    with pytest.raises(SchemaError, match="holds no catalog; run `python -m flows upgrade`"):
        migrating.require_current_schema(empty)
    empty.disconnect()
    execute(catalog, "UPDATE alembic_version SET version_num = '9999'")
    for refused in (migrating.require_current_schema, migrating.upgrade):
        with pytest.raises(SchemaError, match="9999, which this code does not know"):
            refused(catalog)


def test_the_logs_months_are_there(catalog: CatalogDatabase) -> None:
    months = one(catalog, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'operation_log'::regclass")
    assert months == LOG_MONTHS_AHEAD + 1, "and one for what no month was made for"
    migrating.upgrade(catalog)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "LONGEST_PAUSE_SECONDS", 0.01)
    nowhere = CatalogDatabase(host="127.0.0.1", port=9, username="x", password="hunter2")
    with pytest.raises(CatalogUnavailableError, match="did not answer") as caught:
        nowhere.transaction(lambda connection: None)
    assert "hunter2" not in str(caught.value)
