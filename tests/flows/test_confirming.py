"""After a restore nothing is removed until somebody confirms it, and what was not looked at is not confirmed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.restored import read_freeze
from blocks.catalog.sweeps import backup_lock
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import IngestPolicy
from tasks.backups.listing import list_backups
from tasks.intake.outputs import register_outputs
from tasks.stores import OpenLocation
from tests.helpers import execute, one, write_outputs

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture
def restored_from(
    catalog: CatalogDatabase, location: OpenLocation, vault: ObjectStore, new_jobs: Callable[[int], list[UUID]],
    tmp_path: Path,
) -> str:  # fmt: skip
    """A catalog with one whole job that comes from its own backup, as after a cut-over: frozen, its buckets its own."""
    from flows.backup import backup

    (job,) = new_jobs(1)
    folder = write_outputs(tmp_path / "made", segments=1)
    register_outputs(catalog, location, IngestPolicy(source_roots=str(tmp_path)), job_id=job, outputs=str(folder))
    state = backup(return_state=True)
    assert state.name == "Completed", state.message
    (made,) = list_backups(vault, one(catalog, "SELECT catalog_id FROM catalog_identity")).all
    execute(catalog, "UPDATE catalog_identity SET frozen_since = now(), restored_from = :made", made=made.id)
    return str(made.id)


def test_not_while_a_store_is_away(catalog: CatalogDatabase, restored_from: str, cold: str) -> None:
    from flows.confirm_restore import confirm_restore

    state = confirm_restore(dry_run=False, return_state=True)
    assert state.is_failed()
    assert "not confirmed, because not everything could be looked at: NOT LOOKED INTO: cold" in str(state.message)
    assert catalog.transaction(read_freeze) is not None
    execute(catalog, "UPDATE locations SET retired_at = now() WHERE name = 'cold'")
    assert confirm_restore(dry_run=False, return_state=True).name == "Completed"
    assert catalog.transaction(read_freeze) is None


def test_not_while_metadata_objects_are_lost_unless_they_are_given_up(
    catalog: CatalogDatabase, store: ObjectStore, vault: ObjectStore, restored_from: str
) -> None:
    from flows.confirm_restore import confirm_restore

    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'")
    content = read_bytes(store, key, at_most=1000)
    delete_keys(store, [key])
    (saved,) = (listed.key for listed in list_prefix(vault, "") if "/metadata/" in listed.key)
    frame = read_bytes(vault, saved, at_most=1000)
    put_bytes(vault, saved, b"rotten", {})
    state = confirm_restore(dry_run=False, metadata_objects="missing", return_state=True)
    assert state.is_failed()
    assert "not confirmed, because metadata objects did not come back" in str(state.message)
    assert "give them up with metadata_objects none" in str(state.message)
    assert catalog.transaction(read_freeze) is not None
    # Whole again in the store of backups, it comes back; only then is anything confirmed.
    put_bytes(vault, saved, frame, {})
    assert confirm_restore(dry_run=False, metadata_objects="missing", return_state=True).name == "Completed"
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata' AND state = 'live'")
    assert read_bytes(store, key, at_most=1000) == content


def test_a_backup_that_runs_is_not_run_beside(catalog: CatalogDatabase, vault: ObjectStore) -> None:
    from flows.backup import backup

    catalog_id = one(catalog, "SELECT catalog_id FROM catalog_identity")
    with backup_lock(catalog, catalog_id, holder="the nightly backup", wait=timedelta(0)):
        state = backup(return_state=True)
    assert state.name == "Skipped"
    assert "the nightly backup" in str(state.message)
    assert list_backups(vault, catalog_id).all == ()
