"""A store of backups, and a catalog with a job to save."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.embedded import Endpoints
from blocks.encryption import BackupKey, new_key
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.listing import list_prefix
from blocks.policies import BackupPolicy
from tasks.backups.cutover import cut_over, drop_leftovers
from tasks.backups.listing import Backups, list_backups
from tasks.backups.manifest import Manifest
from tasks.backups.restoring import Restored, Restoring, restore_beside
from tasks.backups.taking import Making, Taken, take_backup
from tasks.stores import OpenLocation
from tests.conftest import make_store

FAST = BackupPolicy(compression_level=1, restore_jobs=1)
NO_WAIT = timedelta(0)


def contents(vault: ObjectStore, catalog_id: UUID, folder: str = "metadata") -> list[str]:
    """Names below one of the catalog's folders in the store of backups."""
    return [listed.key.rpartition("/")[2] for listed in list_prefix(vault, f"{catalog_id}/{folder}")]


@pytest.fixture
def vault(endpoints: Endpoints, bucket: str) -> ObjectStore:
    """Where backups go; the bucket is shared, the prefix is not."""
    return make_store(endpoints, prefix=f"b/{uuid4()}", multipart_upload_part_bytes=5 * MIB)


@pytest.fixture
def take(catalog: CatalogDatabase, location: OpenLocation, vault: ObjectStore) -> Callable[..., Taken]:
    def run(**options: object) -> Taken:
        given = {"catalog": catalog, "target": vault, "policy": FAST, "stores": lambda _: location.store} | options
        return take_backup(Making(**given))  # type: ignore[arg-type]  # a test's own words

    return run


@pytest.fixture
def catalog_id(catalog: CatalogDatabase) -> UUID:
    return catalog.transaction(read_identity).catalog_id


@pytest.fixture
def listed(vault: ObjectStore, catalog_id: UUID) -> Callable[[], Backups]:
    return lambda: list_backups(vault, catalog_id)


@pytest.fixture
def beside(catalog: CatalogDatabase, vault: ObjectStore, sql: Callable[[str], None]):  # type: ignore[no-untyped-def]
    """Restores a backup beside the catalog; what it made is dropped at the end."""
    made: list[str] = []

    def run(manifest: Manifest, **options: object) -> Restored:
        name = f"{catalog.database}_beside_{len(made)}"
        made.append(name)
        given = {"source": vault, "manifest": manifest, "target": catalog, "policy": FAST} | options
        return restore_beside(Restoring(**given), name, note={"run": "test"})  # type: ignore[arg-type]

    yield run
    for name in made:
        sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def swap(catalog: CatalogDatabase, beside, sql: Callable[[str], None]):  # type: ignore[no-untyped-def]
    """Restores a backup and cuts over to it; the databases that were kept are dropped at the end."""

    def run(manifest, **options):  # type: ignore[no-untyped-def]
        restored = beside(manifest)
        given = {"run": "a restore", "wait": NO_WAIT} | options
        return cut_over(catalog, restored.database, manifest, **given)

    yield run
    catalog.disconnect()
    drop_leftovers(catalog, "before", keep=lambda note: False)


@pytest.fixture(scope="session")
def secret() -> BackupKey:
    return new_key()
