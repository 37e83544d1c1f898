"""A restore takes the place of a catalog that cannot be read only where somebody said so, and keeps what can be."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase, migrating
from blocks.catalog.databases import is_open, maintenance
from blocks.catalog.in_use import find_in_use
from blocks.catalog.locations import read_identity
from blocks.catalog.migrating import require_current_schema, upgrade
from blocks.catalog.restored import erased_since, read_freeze
from blocks.errors import RefusedError, SchemaError
from blocks.object_store import ObjectStore
from tasks.backups.cutover import require_settled
from tasks.backups.listing import groups_of
from tasks.backups.replacing import plan_replacement
from tests.helpers import execute, one

DAMAGES = {
    "no checks": "DROP TABLE backup_checks CASCADE",
    "dropped": "DROP TABLE jobs CASCADE",
    "emptied": "TRUNCATE catalog_identity",
    "no approvals": "DROP TABLE approvals",
    "no revision": "DROP TABLE alembic_version; DROP TABLE stored_objects CASCADE",
    "no name": "DROP TABLE catalog_identity",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_catalog(catalog: CatalogDatabase, job: UUID, take, swap, damage: str) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, damage)
    with pytest.raises(RefusedError, match="cannot be read .*With even_if_unreadable"):
        find_in_use(catalog, even_if_unreadable=False)
    with pytest.raises(RefusedError, match="cannot be read"):
        swap(made)
    with maintenance(catalog) as connection:
        assert is_open(connection, catalog.database), "refused before anything was touched"
    found = find_in_use(catalog, even_if_unreadable=True)
    assert found is not None
    require_settled(found, "latest")
    (unknown,) = plan_replacement(found, made, "beside").skipped
    assert found.unreadable in unknown.because
    cut = swap(made, even_if_unreadable=True)
    assert one(catalog, "SELECT id FROM jobs") == job
    assert cut.kept_as
    assert cut.epoch > made.epoch
    assert catalog.transaction(read_freeze)


def test_what_can_be_read_is_carried_over(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made, erased = take().manifest, uuid4()
    execute(catalog, "INSERT INTO operation_log (run, operation, job_id) VALUES ('x', 'erase', :job)", job=erased)
    execute(catalog, "UPDATE api_keys SET disabled_at = now()")
    execute(catalog, "DROP TABLE jobs CASCADE")
    found = find_in_use(catalog, even_if_unreadable=True)
    assert [item.rule for item in plan_replacement(found, made, "beside").items] == ["restore", "erased since"]
    assert swap(made, even_if_unreadable=True).owned, "it still says whose its buckets are"
    assert catalog.transaction(lambda connection: erased_since(connection, made.snapshot_at)) == [erased]
    assert one(catalog, "SELECT disabled_at IS NOT NULL FROM api_keys")


def test_damage_that_shows_late(catalog: CatalogDatabase, job: UUID, take) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "ALTER TABLE jobs DROP COLUMN created_at CASCADE")
    with pytest.raises(RefusedError, match=r"created_at.*even_if_unreadable"):
        plan_replacement(find_in_use(catalog, even_if_unreadable=False), made, "beside")
    assert len(plan_replacement(find_in_use(catalog, even_if_unreadable=True), made, "beside").items) == 1


def test_a_broken_catalog_is_not_saved_and_no_backup_of_one_is_restored(
    catalog: CatalogDatabase, job: UUID, take, beside, listed, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """It would be the newest one, and verified."""
    made = take().manifest
    execute(catalog, "DROP TABLE jobs CASCADE")
    with pytest.raises(SchemaError, match=r"is not whole: it lacks jobs\. Restore a backup from before"):
        take()
    assert [one.id for one in listed().all] == [made.id]
    migrating._checked.clear()  # as a new process
    with pytest.raises(SchemaError, match="is not whole"):
        require_current_schema(catalog)
    with pytest.raises(SchemaError, match="is not whole"):
        upgrade(catalog)
    # As an earlier version made them.
    monkeypatch.setattr("tasks.backups.taking.require_all_tables", lambda _: None)
    broken = take().manifest
    with pytest.raises(SchemaError, match="is not whole"):
        beside(broken)


def test_keys_that_would_be_forgotten_are_named(catalog: CatalogDatabase, job: UUID, take) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "INSERT INTO api_keys (label, key_hash) VALUES ('newer', repeat('0', 64))")
    plan = plan_replacement(find_in_use(catalog, even_if_unreadable=False), made, "beside")
    assert [item.subject for item in plan.items] == ["beside", "key newer"]


def test_backups_are_found_without_the_catalogs_name(
    catalog: CatalogDatabase, job: UUID, take, vault: ObjectStore
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made, ours = take().manifest, catalog.transaction(read_identity).catalog_id
    execute(catalog, "DROP TABLE catalog_identity")
    (group,) = groups_of(vault, find_in_use(catalog, even_if_unreadable=True), "")
    assert (group.catalog_id, [backup.id for backup in group.all]) == (ours, [made.id])


def test_a_database_that_holds_something_else_is_not_replaced(catalog: CatalogDatabase, sql) -> None:  # type: ignore[no-untyped-def]  # a fixture
    assert find_in_use(catalog, even_if_unreadable=False)
    other = catalog.named(f"{catalog.database}_other")
    assert find_in_use(other, even_if_unreadable=False) is None
    sql(f"CREATE DATABASE {other.database}")
    assert find_in_use(other, even_if_unreadable=False) is None
    execute(other, "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('theirs')")
    for even in (False, True):
        with pytest.raises(RefusedError, match="1 tables that are no catalog"):
            find_in_use(other, even_if_unreadable=even)
    other.disconnect()
    sql(f"DROP DATABASE {other.database} WITH (FORCE)")
