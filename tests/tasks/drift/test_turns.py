"""One run takes so much; what comes first each time, and stays, keeps nothing else from its turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from blocks.catalog.locations import declare_place, find_place
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks.drift import reconcile
from tasks.removal.deletion import hold
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import rows, stored_keys
from tests.tasks.drift.drifting import key_of, run, state_of


def test_classes_that_nobody_declared(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, store = sweep.catalog, location.store
    declared = {"store": "main", "bucket": store.bucket, "prefix": store.prefix, "storage_class": "STANDARD_IA"}
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="ia", capabilities=location.capabilities.as_json(), **declared
        )
    )
    both = replace(location, place=catalog.transaction(lambda connection: find_place(connection, "main")))
    for number in range(6):
        key = key_of(catalog, new_job(b"%d" % number))
        found = store.s3.get_object(Bucket=store.bucket, Key=store.path(key))
        store.s3.put_object(
            Bucket=store.bucket, Key=store.path(key), Body=found["Body"].read(), StorageClass="GLACIER_IR",
            Metadata=found["Metadata"],
        )  # fmt: skip
    job = new_job(b"healed")
    (row,) = rows(catalog, "SELECT id, key, sha256 FROM stored_objects WHERE job_id = :id", id=job)
    only_copy = f"processed/{job}/raw/video_original.{uuid4()}.mp4"
    known = {"object-id": str(row.id), "sha256": row.sha256}
    copy(store, row.key, store, only_copy, size_bytes=6, attributes=known)
    delete_keys(store, [row.key])
    monkeypatch.setattr(reconcile, "MOST_FINDINGS", 1)
    plan, _ = run(replace(sweep, locations=(both,)))
    assert state_of(catalog, job) == "live"
    assert {item.rule for item in plan.skipped} == {"transition_days", "too many"}


def test_orphans_that_stay(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = new_job(b"held")
    for number in range(2):
        put_bytes(location.store, f"processed/{held}/720p/segments/{number}.ts", b"x", {})
    hold(sweep.catalog, job_ids=[str(held)], reason="case 7")
    strange = f"processed/{uuid4()}/left"
    put_bytes(location.store, strange, b"x", {})
    monkeypatch.setattr(reconcile, "MOST_FINDINGS", 2)
    run(sweep)
    assert strange not in stored_keys(location)
