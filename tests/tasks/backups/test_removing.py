"""Retention removes a backup and what it alone is made of, whole, late, or cut off in between; and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import backups_made
from blocks.catalog.clock import catalog_now
from blocks.errors import (
    InvalidInputError,
    StoreUnavailableError,
)
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import put_bytes
from blocks.policies import BackupPolicy
from tasks.backups import listing, metadata
from tasks.backups.health import judge
from tasks.backups.manifest import MANIFEST, METADATA_LIST, STARTED, folder_of
from tasks.backups.metadata import list_of
from tasks.backups.retention import apply_retention, plan_retention, remove_backup
from tasks.backups.taking import Taken
from tasks.backups.verifying import hold_backup, release_backup, verify_backup
from tasks.stores import OpenLocation
from tests.helpers import execute, one, sha256
from tests.tasks.backups.conftest import FAST, contents
from tests.wires import Clock, wired


def test_retention_removes_backups_and_what_only_they_needed(
    catalog, location, job, take, vault, catalog_id, listed
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    old = take().manifest
    replace_metadata(catalog, location, b'{"newer": 1}')
    new = [take().manifest for _ in range(2)]
    assert len(contents(vault, catalog_id)) == 2
    later = old.snapshot_at + timedelta(days=40)
    policy = BackupPolicy(keep_verified=2)
    hold_backup(vault, listed().all[-1], catalog_id, "an audit")
    assert plan_retention(listed(), policy, later).items == ()
    release_backup(vault, listed().all[-1], catalog_id)
    plan = plan_retention(listed(), policy, later)
    assert [item.subject for item in plan.items] == [old.id]
    report = apply_retention(vault, listed(), plan)
    assert report.notes == ("1 metadata objects that no backup needs any more were removed",)
    assert {backup.id for backup in listed().all} == {made.id for made in new}
    assert contents(vault, catalog_id) == [entry.name for entry in list_of(vault, new[0])]
    with pytest.raises(InvalidInputError):
        hold_backup(vault, listed().all[0], catalog_id, " ")


def test_a_restore_that_begins_after_the_plan_keeps_its_backup(take, vault: ObjectStore, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    old, *_ = [take().manifest for _ in range(3)]
    plan = plan_retention(listed(), BackupPolicy(keep_verified=2), old.snapshot_at + timedelta(days=40))
    found = listed()
    listing.mark_restoring(vault, old, "a restore")
    (outcome,) = apply_retention(vault, found, plan).outcomes
    assert (outcome.result, outcome.error) == ("failed", "a restore of it began meanwhile")
    assert old.id in {one.id for one in listed().all}


def test_a_restore_that_cannot_be_noted_goes_on(take, vault: ObjectStore) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """As from a store of backups that can only be read."""
    made = take().manifest
    credentials = vault.credentials.model_copy(update={"minio_root_user": "nobody"})
    told = listing.mark_restoring(vault.model_copy(update={"credentials": credentials}), made, "a restore")
    assert told.startswith(f"retention may let backup {made.id} go meanwhile: ")
    assert listing.restoring_since(vault, made.catalog_id, made.id) is None
    assert listing.mark_restoring(vault, made, "a restore") == ""
    assert listing.restoring_since(vault, made.catalog_id, made.id) is not None


def test_a_folder_that_only_looks_like_a_backup_stops_nothing(
    take, vault: ObjectStore, catalog, catalog_id, listed
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """It is told by the state of the backups, since it keeps metadata objects from being let go."""
    stray = "20261329T000000Z-00000000"
    put_bytes(vault, f"{catalog_id}/backups/{stray}/{MANIFEST}", b"{}", {})
    made = take().manifest
    put_bytes(vault, f"{folder_of(catalog_id, made.id)}/drill.json", b'{"ok": true, "seconds": null}', {})
    assert {one.id for one in listed().all} == {made.id, stray}
    alarms = judge(listed(), [], FAST, catalog.transaction(catalog_now)).alarms
    assert [alarm.partition(" (")[0] for alarm in alarms] == [
        f"cannot be read, and keeps all metadata objects from being let go: {stray}"
    ]


def test_a_restore_is_marked_by_the_stores_clock(take, vault: ObjectStore, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """A machine that lives weeks ago, and is told the time by the store, holds the backup that it restores."""
    old, *_ = [take().manifest for _ in range(3)]
    later, policy = old.snapshot_at + timedelta(days=40), BackupPolicy(keep_verified=2)
    assert [item.subject for item in plan_retention(listed(), policy, later).items] == [old.id]
    with wired(vault, Clock(timedelta(days=40))) as store:
        listing.mark_restoring(store, old, "a restore")
    plan = plan_retention(listed(), policy, later)
    assert (plan.items, [item.rule for item in plan.skipped if item.subject == old.id]) == ((), ["restoring"])


def replace_metadata(catalog: CatalogDatabase, location: OpenLocation, content: bytes) -> None:
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'")
    put_bytes(location.store, key, content, {})
    execute(
        catalog,
        "UPDATE stored_objects SET sha256 = :sha256, size_bytes = :size, stored_bytes = :size, etag = NULL "
        " WHERE kind = 'metadata'",
        sha256=sha256(content), size=len(content),
    )  # fmt: skip


def test_a_removal_that_comes_late_takes_nothing_that_a_newer_backup_is_made_of(
    catalog, location, job, take, vault, catalog_id, listed, monkeypatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Found unused, a content comes back into the catalog and the next backup, and only then its removal arrives."""
    old = take().manifest
    replace_metadata(catalog, location, b'{"newer": 1}')
    for _ in range(2):
        take()
    plan = plan_retention(listed(), BackupPolicy(keep_verified=2), old.snapshot_at + timedelta(days=40))
    later: list[Taken] = []
    real = metadata.delete_keys

    def asleep(store: ObjectStore, keys: list[str]) -> dict[str, str]:
        replace_metadata(catalog, location, b"{}")
        later.append(take())
        return real(store, keys)

    monkeypatch.setattr(metadata, "delete_keys", asleep)
    report = apply_retention(vault, listed(), plan)
    assert report.notes == ("1 metadata objects that no backup needs any more were removed",)
    assert later[0].copied == 1, "what nobody was made of is not taken over"
    for backup in listed().all:
        assert verify_backup(catalog, vault, backup, FAST, contents=True).ok


def test_a_list_of_an_older_version_knows_a_content_by_its_hash() -> None:
    assert metadata._parsed(f'["{"a" * 64}", 2, true]'.encode()).name == "a" * 64


def test_a_removal_that_is_cut_off_is_finished_by_the_next_backup(
    catalog, job, take, vault, catalog_id, listed, monkeypatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest

    def gone(*_: object) -> dict[str, str]:
        raise StoreUnavailableError("gone")

    real = listing.delete_keys
    for whole, dies in enumerate((1, 2, 3)):
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(listing, "delete_keys", lambda *said: gone() if next(calls) == dies else real(*said))  # noqa: B023 -- called here
            with pytest.raises(StoreUnavailableError):
                remove_backup(vault, listed(), made.id)
        assert len(listed().all) == int(not whole), "before the manifest went it is a backup, and none after"
        assert (made.id in listed().unfinished) == bool(whole)
    newer = take().manifest
    assert [one.id for one in listed().all] == [newer.id]
    assert listed().unfinished == {}
    assert list(list_prefix(vault, folder_of(catalog_id, made.id))) == []


def test_a_listing_that_leaves_a_backup_out_removes_nothing_of_it(
    catalog, location, job, take, vault, catalog_id, listed, monkeypatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Neither the metadata objects that it alone is made of, nor itself where it is still marked as begun."""
    kept = [take().manifest for _ in range(2)]
    (content,) = contents(vault, catalog_id)
    for made in kept:
        put_bytes(vault, f"{folder_of(catalog_id, made.id)}/{STARTED}", b"{}", {})
    real = listing.list_prefix
    manifests = {f"{folder_of(catalog_id, made.id)}/{MANIFEST}" for made in kept}
    with monkeypatch.context() as patch:
        patch.setattr(listing, "list_prefix", lambda *said: (one for one in real(*said) if one.key not in manifests))
        assert set(listed().unfinished) == {made.id for made in kept}
        gone = take().manifest
        old = plan_retention(listed(), BackupPolicy(keep_verified=2), gone.snapshot_at + timedelta(days=40))
        planned = replace(old, items=(replace(old.skipped[0], subject=gone.id),))
        report = apply_retention(vault, listed(), planned, recorded=catalog.transaction(backups_made))
        assert "were left: the listing of the backups left out" in report.notes[0]
    assert {one.id for one in listed().all} == {made.id for made in kept}
    assert content in contents(vault, catalog_id)
    assert all(verify_backup(catalog, vault, one, FAST, contents=True).ok for one in listed().all)


def test_a_list_that_cannot_be_read_keeps_every_metadata_object(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    kept = [take().manifest for _ in range(3)]
    name = kept[1].file(METADATA_LIST).name
    put_bytes(vault, f"{folder_of(catalog_id, kept[1].id)}/{name}", b"rotten", {})
    plan = plan_retention(listed(), BackupPolicy(keep_verified=2), kept[0].snapshot_at + timedelta(days=40))
    report = apply_retention(vault, listed(), plan)
    assert "were left" in report.notes[0]
    assert len(contents(vault, catalog_id)) == 1
