"""Locations that are declared, and retired; what was open before that takes nothing new."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.catalog.objects import NewObject, insert_pending
from blocks.catalog.restored import claims_done, freeze
from blocks.errors import (
    ForeignCatalogError,
    FrozenCatalogError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreUnavailableError,
)
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.declaring import probe_store, retire_location
from tasks.intake.ingest import ingest_videos
from tasks.intake.uploads import issue_upload_url
from tasks.layout import IDENTITY_KEY
from tasks.stores import OpenLocation, open_location
from tests.helpers import execute, one, rows, write_video


@pytest.fixture
def spare(catalog: CatalogDatabase, location: OpenLocation, declare, monkeypatch) -> OpenLocation:  # type: ignore[no-untyped-def]
    """A location that could be retired: new files go elsewhere."""
    made: OpenLocation = declare("spare")
    execute(catalog, "UPDATE locations SET moved_to = :main WHERE name = 'spare'", main=location.place.id)
    monkeypatch.setattr("tasks.declaring.open_named", lambda *_: made)  # a block's name, which nobody saved here
    return made


def test_what_was_open_before_it_was_retired_takes_nothing_new(
    catalog: CatalogDatabase, spare: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str, tmp_path: Path
) -> None:
    retire_location(catalog, "spare")
    (outcome,) = ingest_videos(
        catalog, spare, policy, api_key=acme, sources=[str(write_video(tmp_path / "a.mp4"))]
    ).outcomes
    assert outcome.error == "the location was retired since it was opened, and takes no new files: open it anew"
    with pytest.raises(RefusedError, match="retired since it was opened"):
        issue_upload_url(catalog, spare, access, policy, api_key=acme, filename="a.mp4", size_bytes=10)
    assert one(catalog, "SELECT count(*) FROM stored_objects") + one(catalog, "SELECT count(*) FROM uploads") == 0
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_whoever_is_writing_into_it_is_waited_for(
    catalog: CatalogDatabase, spare: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    new = NewObject(uuid4(), job, "upload", "uploads/x/a", spare.place.id, f"uploads/{job}/x", 1, "0" * 64)
    with ThreadPoolExecutor(1) as pool:
        with catalog.engine.begin() as connection:
            insert_pending(connection, one(catalog, "SELECT id FROM api_keys"), [new])
            retiring = pool.submit(retire_location, catalog, "spare")
            time.sleep(0.3)
            assert not retiring.done()
        with pytest.raises(RefusedError, match="still holds 1 objects"):
            retiring.result()


def test_a_location_whose_bucket_is_gone_can_be_retired(
    catalog: CatalogDatabase, location: OpenLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a natural mistake to remove the bucket first; it would keep every erasure from being done, for good."""
    bucket = f"gone-{uuid4()}"
    store = location.store.model_copy(update={"bucket": bucket, "prefix": ""})
    store.s3.create_bucket(Bucket=bucket)
    gone = probe_store(catalog, store, "gone")
    for module in ("declaring", "stores"):  # a block's name, which nobody saved here
        monkeypatch.setattr(f"tasks.{module}.load_block", lambda *_: store)
    execute(catalog, "UPDATE locations SET moved_to = :main WHERE name = 'gone'", main=location.place.id)
    execute(
        catalog,
        "INSERT INTO relocations (id, object_id, job_id, generation, operation, location_id, key, state, "
        "                         old_location_id, old_key) "
        "SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'tier-jobs', * FROM (VALUES "
        "       (:main, 'processed/a', 'swapped', :gone, 'processed/b'), (:gone, 'processed/c', 'open', NULL, NULL)) v",
        main=location.place.id,
        gone=gone.place.id,
    )
    with pytest.raises(RefusedError, match="location gone answers: leave --gone out"):
        retire_location(catalog, "gone", gone=True)
    # Nor is one that carries another id, or whose block points elsewhere, or that does not know us.
    for changed in ({"prefix": "typo"}, {"credentials": stranger(store)}):
        with monkeypatch.context() as patched:
            patched.setattr("tasks.declaring.load_block", lambda *_, changed=changed: store.model_copy(update=changed))
            with pytest.raises(RefusedError):
                retire_location(catalog, "gone", gone=True)
    store.s3.delete_object(Bucket=bucket, Key=IDENTITY_KEY)
    with pytest.raises(RefusedError, match="location gone answers"):
        retire_location(catalog, "gone", gone=True)
    for listed in list_prefix(store, ""):
        store.s3.delete_object(Bucket=bucket, Key=listed.key)
    store.s3.delete_bucket(Bucket=bucket)
    with pytest.raises(NotFoundError, match="does not exist; where it is gone for good"):
        retire_location(catalog, "gone")
    retire_location(catalog, "gone", gone=True)
    assert one(catalog, "SELECT count(*) FROM locations WHERE name = 'gone' AND retired_at IS NOT NULL") == 1
    assert rows(catalog, "SELECT DISTINCT state FROM relocations") == [("done",)]
    told = one(catalog, "SELECT after FROM operation_log WHERE operation = 'retire'")
    assert told == {"location": "gone", "copies": 2}


def stranger(store: ObjectStore) -> Any:
    return store.credentials.model_copy(update={"minio_root_user": "nobody"})


def test_what_still_has_rows_is_not_gone(
    catalog: CatalogDatabase, location: OpenLocation, spare: OpenLocation, new_job: Callable[[bytes], UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    new_job(b"1")
    execute(catalog, "UPDATE stored_objects SET location_id = :spare", spare=spare.place.id)

    def away(*_: object) -> None:
        raise StoreUnavailableError("it does not answer")

    monkeypatch.setattr("tasks.declaring.load_block", away)
    catalog.transaction(lambda connection: freeze(connection, backup="b", epoch=2, run=""))
    with pytest.raises(FrozenCatalogError):
        retire_location(catalog, "spare", gone=True)
    execute(catalog, "UPDATE catalog_identity SET frozen_since = NULL, epoch = 1, claims_pending = false")
    with pytest.raises(RefusedError, match="1 objects of customers are on record in location spare: where they are"):
        retire_location(catalog, "spare", gone=True)
    with pytest.raises(RefusedError, match="still holds 1 objects: migrate-storage moves them"):
        retire_location(catalog, "spare")
    execute(catalog, "UPDATE stored_objects SET location_id = :main", main=location.place.id)


def test_the_usual_class_has_one_name(catalog: CatalogDatabase, location: OpenLocation) -> None:
    with pytest.raises(InvalidInputError, match="would be the same as main, class STANDARD"):
        probe_store(catalog, location.store, "main", location="second", storage_class="STANDARD")


def test_a_place_that_was_declared_after_the_backup_is_declared_again(catalog: CatalogDatabase, declare) -> None:  # type: ignore[no-untyped-def]  # a fixture
    """Its bucket still carries the epoch before; not before the others have been taken over."""
    late = declare("late")
    probe_store(catalog, late.store, "late")
    execute(catalog, "DELETE FROM locations WHERE name = 'late'")
    epoch = catalog.transaction(read_identity).epoch + 1
    catalog.transaction(lambda connection: freeze(connection, backup="b", epoch=epoch, run="restore"))
    with pytest.raises(ForeignCatalogError, match="run confirm-restore"):
        probe_store(catalog, late.store, "late")
    catalog.transaction(claims_done)
    probe_store(catalog, late.store, "late")
    assert open_location(catalog, late.store, "late").epoch == epoch


@pytest.mark.parametrize(
    ("owed", "why"),
    [
        (
            "INSERT INTO relocations (id, object_id, job_id, generation, operation, location_id, key, state, "
            "                         old_location_id, old_key) "
            "SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'tier-jobs', :main, 'processed/a', "
            "       'swapped', :spare, 'processed/b'",
            "still holds 1 old copies: cleanup removes them when the last URL has ended",
        ),
        ("UPDATE locations SET moved_to = NULL WHERE id IN (:main, :spare)", "new files still go to location spare"),
    ],
)
def test_a_location_that_is_still_needed_is_not_retired(
    catalog: CatalogDatabase, location: OpenLocation, spare: OpenLocation, owed: str, why: str
) -> None:
    execute(catalog, owed.replace(":main", str(location.place.id)).replace(":spare", str(spare.place.id)))
    with pytest.raises(RefusedError, match=why):
        retire_location(catalog, "spare")
    assert one(catalog, "SELECT retired_at FROM locations WHERE name = 'spare'") is None


def test_a_location_whose_forms_are_open_is_not_retired(
    catalog: CatalogDatabase, spare: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str
) -> None:
    issue_upload_url(catalog, spare, access, policy, api_key=acme, filename="a.mp4", size_bytes=10)
    with pytest.raises(RefusedError, match="location spare still has 1 open upload forms; cleanup closes them"):
        retire_location(catalog, "spare")
