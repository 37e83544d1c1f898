"""After the cut-over: buckets are told, what is provable is healed, and all is frozen until somebody confirms."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.in_use import find_in_use
from blocks.catalog.jobs import commit_arrivals
from blocks.catalog.locations import read_identity
from blocks.catalog.restored import read_freeze, thaw
from blocks.errors import ForeignCatalogError, FrozenCatalogError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import head, put_bytes
from blocks.policies import IngestPolicy, IntegrityPolicy, RetentionPolicy
from tasks.backups.aftermath import Aftermath, claim_buckets, reconcile_restored, restore_metadata
from tasks.backups.cutover import require_settled
from tasks.drift.reconcile import orphans_before
from tasks.intake import taking_in
from tasks.intake.ingest import ingest_videos
from tasks.removal.cleanup import find_due
from tasks.removal.purging import purge_released
from tasks.stores import OpenLocation, open_location, require_own
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, write_video


def test_frozen_nothing_is_removed_until_somebody_confirms(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    execute(catalog, "UPDATE stored_objects SET state = 'purging' WHERE kind = 'audio'")
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'audio'")
    swap(take().manifest)
    with pytest.raises(ForeignCatalogError, match="before this catalog was restored: run confirm-restore"):
        open_location(catalog, store, "main")
    result = Aftermath()
    claim_buckets(catalog, lambda _: store, result)
    claim_buckets(catalog, lambda _: store, result)
    assert (set(result.claimed), result.unclaimed) == ({"main"}, {})
    opened = open_location(catalog, store, "main")
    assert purge_released(catalog, opened, None).objects == 0
    with pytest.raises(FrozenCatalogError, match="nobody has confirmed it yet"):
        require_own(catalog, opened)
    assert head(store, key)
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert not catalog.transaction(lambda connection: thaw(connection, replace(frozen, restored_from="x"), run="y"))
    assert catalog.transaction(lambda connection: thaw(connection, frozen, run="somebody"))
    # What came to light has the whole grace from now on, however old it is.
    assert orphans_before(catalog, opened, timedelta(hours=1)).year == 1
    execute(catalog, "UPDATE catalog_identity SET confirmed_at = now() - interval '2 hours'")
    assert orphans_before(catalog, opened, timedelta(hours=1)).year > 2000
    require_own(catalog, opened)
    assert purge_released(catalog, opened, None).objects == 1
    # Who opened the place before the restore, and slept through it, removes nothing.
    with pytest.raises(ForeignCatalogError, match="restored since"):
        require_own(catalog, OpenLocation(location.place, store, location.capabilities, epoch=1))


def test_another_catalogs_bucket_is_not_taken_over(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    swap(take().manifest)
    put_bytes(store, "transcode-flow.catalog", b"5f0c2e1a-0000-0000-0000-000000000000 1\n", {})
    result = Aftermath()
    claim_buckets(catalog, lambda _: store, result)
    assert "belongs to catalog '5f0c2e1a" in result.unclaimed["main"]
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert frozen.claims_pending
    in_use = find_in_use(catalog, even_if_unreadable=False)
    with pytest.raises(RefusedError, match="is not finished: run confirm-restore"):
        require_settled(in_use, "latest")
    require_settled(in_use, frozen.restored_from)
    require_settled(None, "latest")


def test_an_epoch_is_never_used_twice(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    swap(take().manifest)
    identity = catalog.transaction(read_identity)
    put_bytes(store, "transcode-flow.catalog", f"{identity.catalog_id} {identity.epoch + 5}\n".encode(), {})
    claim_buckets(catalog, lambda _: store, Aftermath())
    assert catalog.transaction(read_identity).epoch == identity.epoch + 6
    open_location(catalog, store, "main")


def test_what_was_under_way_at_the_backup_is_told_and_gets_its_time_anew(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, policy: IngestPolicy, job: UUID, take, swap,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # type: ignore[no-untyped-def]  # fixtures  # fmt: skip
    """A backup that sees an upload half-way: its bytes were whole a second later, and customers have had them since."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    video = write_video(tmp_path / "half.mp4", b"half way")
    made = []

    def back_up_first(*arguments: object, **options: object) -> object:
        # Rows and bytes of a day ago, not committed as live yet.
        execute(catalog, "UPDATE stored_objects SET created_at = now() - interval '25 hours'")
        execute(catalog, "UPDATE reservations SET expires_at = now() - interval '1 hour'")
        execute(
            catalog, "UPDATE jobs SET updated_at = now() - interval '25 hours', status = replace(status, 'completed', "
            "'transcoding')"
        )  # fmt: skip
        made.append(take().manifest)
        return commit_arrivals(*arguments, **options)  # type: ignore[arg-type]  # as it was called

    with monkeypatch.context() as patched:
        patched.setattr(taking_in, "commit_arrivals", back_up_first)
        (newer,) = ingest_videos(catalog, location, policy, api_key="acme", sources=[str(video)]).outcomes
    assert newer.succeeded
    swap(made[0])
    result = Aftermath()
    claim_buckets(catalog, lambda _: store, result)
    sweep = Sweep(catalog, (open_location(catalog, store, "main"),), "a restore")
    reconcile_restored(sweep, IntegrityPolicy(), result)
    (arrived,) = [key for _, key, _ in result.newer if str(newer.job_id) in key]
    assert result.unfinished == 2
    assert "2 jobs were under way at the backup" in result.summary()
    # What came after the restore is at work now, and nobody's to start again.
    execute(catalog, "UPDATE jobs SET updated_at = now()")
    execute(catalog, "UPDATE stored_objects SET created_at = now()")
    later = Aftermath()
    reconcile_restored(sweep, IntegrityPolicy(), later, look_only=True)
    assert (later.unfinished, [key for _, key, _ in later.newer if str(newer.job_id) in key]) == (0, [])
    execute(catalog, "UPDATE jobs SET updated_at = now() - interval '25 hours'")
    execute(catalog, "UPDATE stored_objects SET created_at = now() - interval '25 hours'")
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert catalog.transaction(lambda connection: thaw(connection, frozen, run="somebody"))
    facts = find_due(sweep, RetentionPolicy())
    assert (facts.stuck, facts.abandoned) == ((), ())
    execute(catalog, "UPDATE jobs SET updated_at = now() - interval '25 hours'")
    facts = find_due(sweep, RetentionPolicy())
    assert len(facts.stuck) == 2, "it would have been the first thing that the next cleanup does"
    assert head(store, arrived)


def test_afterwards_what_is_provable_is_healed_and_the_rest_is_told(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, policy: IngestPolicy, job: UUID, take, swap,
    vault: ObjectStore, tmp_path: Path,
) -> None:  # type: ignore[no-untyped-def]  # fixtures  # fmt: skip
    made = take().manifest
    keys = dict(map(tuple, rows(catalog, "SELECT kind, key FROM stored_objects WHERE kind NOT LIKE 'hls%'")))
    # Since the backup: one object was moved to another key, two went, metadata went, and a job came.
    moved = one(catalog, "SELECT id FROM stored_objects WHERE kind = 'audio'")
    sha256 = one(catalog, "SELECT sha256 FROM stored_objects WHERE kind = 'audio'")
    put_bytes(store, f"processed/{job}/audio/audio.moved.mp3", b"sound", {"object-id": str(moved), "sha256": sha256})
    delete_keys(store, [keys["audio"], keys["video_360p"], keys["metadata"]])
    video = write_video(tmp_path / "new.mp4", b"a newer video")
    (newer,) = ingest_videos(catalog, location, policy, api_key="acme", sources=[str(video)]).outcomes
    swap(made)
    result = Aftermath()
    claim_buckets(catalog, lambda _: store, result)
    opened = open_location(catalog, store, "main")
    sweep = Sweep(catalog, (opened,), "a restore")
    restore_metadata(sweep, vault, made, "missing", result, key=None, threads=4)
    reconcile_restored(sweep, IntegrityPolicy(), result)
    assert result.metadata_restored == 1
    assert (result.lost, result.lost_rows) == ([keys["video_360p"]], 1)
    assert len(result.healed) == 1
    newer_keys = [key for _, key, _ in result.newer]
    assert any(str(newer.job_id) in key for key in newer_keys)
    assert all(head(store, key) for key in newer_keys), "nothing of it is removed"
    assert result.failed == []
    states = dict(
        tuple(row) for row in rows(catalog, "SELECT kind, state FROM stored_objects WHERE kind NOT LIKE 'hls%'")
    )
    assert states["audio"] == states["metadata"] == "live"
    assert states["video_360p"] == "missing"
    assert_sound_but_for(catalog, opened, newer_keys + result.healed)
    # Again, all of it: nothing changes.
    again = Aftermath()
    restore_metadata(sweep, vault, made, "all", again, key=None, threads=4)
    reconcile_restored(sweep, IntegrityPolicy(), again)
    assert (again.metadata_restored, again.lost_rows, again.healed) == (1, 1, [])


def assert_sound_but_for(catalog: CatalogDatabase, location: OpenLocation, keys: list[str]) -> None:
    delete_keys(location.store, keys)
    assert_sound(catalog, location)


def test_what_nobody_looked_into_is_told_first() -> None:
    some = Aftermath(unlooked=["cold"], failed=["cold: it is down"], lost_rows=2)
    assert some.summary().startswith("NOT LOOKED INTO: cold; of the others 2 rows have lost their bytes; ")
    none = Aftermath(blind=True, failed=["main: it is down", "cold: it is down"])
    assert none.summary() == "NO STORE COULD BE LOOKED INTO: main: it is down; cold: it is down"
    assert [one.complete for one in (some, none, Aftermath())] == [False, False, True]
