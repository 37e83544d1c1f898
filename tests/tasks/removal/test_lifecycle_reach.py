"""What the bucket's rules would reach at their next turn, and what is overdue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import StoreUnavailableError
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.probing import Capabilities, Finding
from blocks.object_store.transfer import put_bytes
from blocks.policies import RetentionPolicy
from tasks.removal.lifecycle_reach import EXAMPLES, RuleReach, simulate
from tasks.stores import OpenLocation
from tests.helpers import execute

DAY = timedelta(days=1)


def by_name(reaches: tuple[RuleReach, ...]) -> dict[str, RuleReach]:
    return {one.rule.name: one for one in reaches}


def test_what_each_rule_would_reach(open_in: Callable[..., OpenLocation], catalog: CatalogDatabase) -> None:
    location = open_in("a")
    jobs = [uuid4(), uuid4()]
    for key in (
        "probe/1/blob",
        f"failed/{jobs[0]}/one", f"failed/{jobs[0]}/two", f"failed/{jobs[1]}/one",
        f"exports/hls/{jobs[0]}/hls_360p/x.m3u8", "exports/all.zip",
        f"processed/{jobs[0]}/raw/video_original.mp4", "tempest/1", "failed-not/2",
    ):  # fmt: skip
        put_bytes(location.store, key, b"12345", {})
    upload = location.store.s3.create_multipart_upload(Bucket=location.store.bucket, Key="a/processed/1/x")
    location.store.s3.upload_part(
        Bucket=location.store.bucket, Key="a/processed/1/x", UploadId=upload["UploadId"], PartNumber=1, Body=b"123"
    )
    (begun,) = list_multipart_uploads(location.store)
    today = begun.initiated_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    policy = RetentionPolicy()

    def at(store_now: datetime) -> dict[str, RuleReach]:
        return by_name(simulate(catalog, location, policy, store_now=store_now, now=store_now))

    fresh = at(begun.initiated_at - timedelta(hours=1))
    assert all(one.objects == 0 and one.examples == () for one in fresh.values())
    # Due at the second midnight from its writing, which was yesterday if the test ran over one.
    due = at(today + 8 * DAY)
    assert (due["probe_days"].objects, due["probe_days"].jobs, due["probe_days"].size_bytes) == (1, 0, 5)
    assert due["probe_days"].overdue == 1
    assert due["probe_days"].overdue_since in (today + DAY, today + 2 * DAY)
    assert [one.key for one in due["probe_days"].examples] == ["probe/1/blob"]
    assert (due["multipart_days"].objects, due["multipart_days"].size_bytes) == (1, 3)
    assert due["multipart_days"].overdue == 1
    assert due["temp_days"].objects == 0
    assert due["temp_days"].overdue_since is None
    later = at(today + 11 * DAY)
    assert (later["failed_days"].objects, later["failed_days"].jobs, later["failed_days"].size_bytes) == (3, 2, 15)
    assert (later["exports_days"].objects, later["exports_days"].jobs, later["exports_days"].size_bytes) == (2, 1, 10)
    assert "transition_days" not in later


def test_the_next_turn_and_what_is_overdue(open_in: Callable[..., OpenLocation], catalog: CatalogDatabase) -> None:
    location = open_in("a")
    put_bytes(location.store, "probe/1/blob", b"12345", {})
    written_at = location.store.s3.head_object(Bucket=location.store.bucket, Key="a/probe/1/blob")["LastModified"]
    due = (written_at.astimezone(UTC) + 2 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)

    def at(store_now: datetime) -> RuleReach:
        reaches = simulate(catalog, location, RetentionPolicy(), store_now=store_now, now=store_now)
        return by_name(reaches)["probe_days"]

    second = timedelta(seconds=1)
    assert at(due - DAY).objects == 0, "the turn at that midnight comes too early for it"
    assert at(due - DAY + second).objects == 1
    assert at(due - DAY + second).turn_at == due
    assert at(due).overdue == 0
    assert at(due + DAY - second).overdue == 0
    assert at(due + DAY).overdue == 1
    assert at(due + 9 * DAY).overdue_since == due


def test_examples_are_the_oldest_and_few(open_in: Callable[..., OpenLocation], catalog: CatalogDatabase) -> None:
    location = open_in("a")
    for number in range(EXAMPLES + 5):
        put_bytes(location.store, f"probe/{number:03}/blob", b"1", {})
    now = datetime.now(UTC) + 9 * DAY
    reach = by_name(simulate(catalog, location, RetentionPolicy(), store_now=now, now=now))["probe_days"]
    assert reach.objects == reach.overdue == EXAMPLES + 5
    assert len(reach.examples) == EXAMPLES


def test_what_a_transition_would_reach(
    catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    jobs = [new_job(content) for content in (b"one", b"second", b"the third", b"the fourth")]
    now = datetime(2026, 6, 15, 12, tzinfo=UTC)
    # Due at midnight before last, at the next midnight, and one second too late for it.
    for job, written_at in (
        (jobs[0], datetime(2026, 5, 15, tzinfo=UTC)),
        (jobs[1], datetime(2026, 5, 17, tzinfo=UTC)),
        (jobs[2], datetime(2026, 5, 17, 0, 0, 1, tzinfo=UTC)),
        (jobs[3], datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        execute(catalog, "UPDATE stored_objects SET created_at = :at WHERE job_id = :job", at=written_at, job=job)
    # Written anew since: to the server that is a young object.
    execute(catalog, "UPDATE stored_objects SET relocated_at = :at WHERE job_id = :job", at=now, job=jobs[3])
    policy = RetentionPolicy(transition_days=30)
    reach = by_name(simulate(catalog, location, policy, store_now=now, now=now))["transition_days"]
    assert reach.rule.unsupported
    assert reach.turn_at == datetime(2026, 6, 16, tzinfo=UTC)
    assert (reach.objects, reach.jobs, reach.size_bytes) == (2, 2, len(b"one") + len(b"second"))
    assert (reach.overdue, reach.overdue_since) == (1, datetime(2026, 6, 14, tzinfo=UTC))
    assert [one.due_at.day for one in reach.examples] == [14, 16]
    assert reach.examples[0].key.startswith(f"processed/{jobs[0]}/raw/")
    midnight = by_name(simulate(catalog, location, policy, store_now=now, now=datetime(2026, 6, 15, tzinfo=UTC)))
    assert (midnight["transition_days"].objects, midnight["transition_days"].overdue) == (1, 1)
    nothing = by_name(simulate(catalog, location, policy, store_now=now, now=datetime(2025, 1, 1, tzinfo=UTC)))
    assert (nothing["transition_days"].objects, nothing["transition_days"].overdue_since) == (0, None)


def test_what_is_too_small_for_a_transition_is_not_reached(
    catalog: CatalogDatabase, open_in: Callable[..., OpenLocation], new_job: Callable[[bytes], UUID]
) -> None:
    """AWS leaves what is below 128 KiB where it is, unless the bucket's own setting says otherwise."""
    location = open_in(seen=Capabilities((Finding("transition_rules", works=True),)))
    for size in (128 * 1024 - 1, 128 * 1024):
        job = new_job(b"x" * size)
        execute(catalog, "UPDATE stored_objects SET location_id = :place WHERE job_id = :job",
                place=location.place.id, job=job)  # fmt: skip
    now = datetime.now(UTC) + 60 * DAY

    def reach(setting: Literal["all_storage_classes_128K", "varies_by_storage_class"]) -> RuleReach:
        location.store.s3.put_bucket_lifecycle_configuration(
            Bucket=location.store.bucket, TransitionDefaultMinimumObjectSize=setting,
            LifecycleConfiguration={"Rules": [
                {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 30}}
            ]},
        )  # fmt: skip
        policy = RetentionPolicy(transition_days=30)
        return by_name(simulate(catalog, location, policy, store_now=now, now=now))["transition_days"]

    assert (reach("varies_by_storage_class").objects, reach("varies_by_storage_class").overdue) == (2, 2)
    large = reach("all_storage_classes_128K")
    assert (large.objects, large.size_bytes, large.overdue, len(large.examples)) == (1, 128 * 1024, 1, 1)


def test_a_server_that_lists_no_uploads_is_simulated_without_them(
    catalog: CatalogDatabase, location: OpenLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise StoreUnavailableError("NotImplemented")

    monkeypatch.setattr("tasks.removal.lifecycle_reach.list_multipart_uploads", refused)
    unable = Capabilities((Finding("lists_incomplete_uploads", works=False),))
    now = datetime.now(UTC)
    reach = by_name(
        simulate(catalog, replace(location, capabilities=unable), RetentionPolicy(), store_now=now, now=now)
    )
    assert reach["multipart_days"].objects == 0
    assert "nor can cleanup" in reach["multipart_days"].rule.unsupported
