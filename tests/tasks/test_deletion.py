"""Into the trash and out of it, and for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Connection

from blocks.catalog.admission import reserve, settle
from blocks.catalog.snapshots import exported_snapshot
from blocks.errors import InvalidInputError, NotFoundError, QuotaExceededError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, RetentionPolicy, TierPolicy
from tasks import deletion, purging
from tasks.access import issue_download_url
from tasks.analytics.snapshot import refresh
from tasks.customers import create_key, set_quota
from tasks.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    apply_undelete,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.downloads import bulk_download
from tasks.ingest import ingest_videos
from tasks.migration import Migration, find_jobs
from tasks.outputs import register_outputs
from tasks.plans import Report
from tasks.stores import Locations, OpenLocation, probe_store
from tasks.sweeping import Sweep
from tasks.uploads import complete_upload, issue_upload_url
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs, write_video

STATES = "SELECT name, state, generation, trashed_state FROM stored_objects ORDER BY name"


def delete(sweep: Sweep, *jobs: UUID) -> Report:
    ids = tuple(str(job) for job in jobs)
    plan = plan_deletion(select(sweep.catalog, Wanted(ids)), asked=ids)
    return apply_deletion(sweep, RetentionPolicy(), plan)


def undelete(sweep: Sweep, *jobs: UUID) -> Report:
    ids = tuple(str(job) for job in jobs)
    return apply_undelete(sweep, plan_undelete(select(sweep.catalog, Wanted(ids)), asked=ids))


def erase(sweep: Sweep, *jobs: UUID) -> Report:
    plan = plan_deletion(select(sweep.catalog, Wanted(tuple(str(job) for job in jobs))), purge_now=True)
    return apply_erasure(sweep, plan)


def test_an_erasure_waits_for_a_backup_that_reads_the_metadata(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"the original")
    with exported_snapshot(sweep.catalog):
        (outcome,) = erase(sweep, job).outcomes
        assert (outcome.result, "a backup is being made" in outcome.error) == ("failed", True)
        assert len(stored_keys(location)) == 1
    (outcome,) = erase(sweep, job).outcomes
    assert outcome.result == "done"
    assert stored_keys(location) == []


def test_there_and_back(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str,
    new_job: Callable[[bytes], UUID], tmp_path: Path,
) -> None:  # fmt: skip
    job = new_job(b"the original")
    register_outputs(sweep.catalog, location, policy, job_id=job, outputs=str(write_outputs(tmp_path / "out")))
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'corrupt' WHERE kind = 'metadata'")
    used = one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys")
    before = rows(sweep.catalog, STATES)
    keys = stored_keys(location)

    report = delete(sweep, job)
    assert [outcome.result for outcome in report.outcomes] == ["done"]
    assert report.objects == len(before) == 17
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") == 0
    with pytest.raises(RefusedError, match="was deleted on .*; run undelete-jobs to get it back"):
        issue_download_url(
            sweep.catalog, Locations(sweep.catalog, location), access, api_key=acme, job_id=job, kind="original"
        )
    assert stored_keys(location) == keys, "the trash keeps its bytes"

    assert [outcome.result for outcome in undelete(sweep, job).outcomes] == ["done"]
    after = rows(sweep.catalog, STATES)
    assert [(row.name, row.state, row.trashed_state) for row in after] == [
        (row.name, row.state, None) for row in before
    ]
    assert all(new.generation > old.generation for new, old in zip(after, before, strict=True))
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") == used
    issue_download_url(
        sweep.catalog, Locations(sweep.catalog, location), access, api_key=acme, job_id=job, kind="original"
    )
    assert_sound(sweep.catalog, location)


def test_undo_within_the_quota_only(sweep: Sweep, acme: str, new_job: Callable[[bytes], UUID]) -> None:
    first, second = new_job(b"1" * 1000), new_job(b"2" * 1000)
    delete(sweep, first, second)
    set_quota(sweep.catalog, api_key=acme, quota="1500")
    results = {outcome.item.subject: outcome for outcome in undelete(sweep, first, second).outcomes}
    assert sorted(outcome.result for outcome in results.values()) == ["done", "skipped"]
    (refused,) = (outcome for outcome in results.values() if outcome.result == "skipped")
    assert "quota exceeded for key acme" in refused.error
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") == 1000


def test_undo_names_the_job_that_took_the_place(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    first = new_job(b"same")
    delete(sweep, first)
    second = new_job(b"same")
    assert second != first
    (outcome,) = undelete(sweep, first).outcomes
    assert (outcome.result, outcome.error) == (
        "skipped", f"job {second} has the same video; delete that one first",
    )  # fmt: skip
    delete(sweep, second)
    both = undelete(sweep, first, second).outcomes
    assert sorted(outcome.result for outcome in both) == ["done", "skipped"]
    assert_sound(sweep.catalog, location)


def test_by_filter(sweep: Sweep, location: OpenLocation, policy: IngestPolicy, acme: str,
                   new_job: Callable[[bytes], UUID], tmp_path: Path) -> None:  # fmt: skip
    small, large, old = new_job(b"s"), new_job(b"l" * 5000), new_job(b"o" * 3000)
    other = create_key(sweep.catalog, "other", "10 MiB").customer.label
    video = write_video(tmp_path / "b.mp4", b"other's" * 1000)
    ingest_videos(sweep.catalog, location, policy, api_key=other, sources=[str(video)])
    execute(sweep.catalog, "UPDATE jobs SET created_at = now() - interval '40 days' WHERE id = :id", id=old)
    execute(sweep.catalog, "UPDATE jobs SET status = 'failed' WHERE id = :id", id=small)

    def found(**wanted: object) -> set[UUID]:
        return {job.id for job in select(sweep.catalog, Wanted(**wanted))}  # type: ignore[arg-type]  # as a form gives them

    assert found(api_key=acme) == {small, large, old}
    assert found(api_key=acme, larger_than="2 KB") == {large, old}
    assert found(api_key=acme, older_than_days=30) == {old}
    assert found(status="failed") == {small}
    assert found(api_key=acme, job_ids=(str(small), str(large)), larger_than="2 KB") == {large}
    assert len(found(larger_than="2 KB")) == 3
    # What was given up has nothing left to delete, and would fill the list of a filter for ever.
    execute(sweep.catalog, "UPDATE jobs SET status = 'cleaned_up' WHERE id = :id", id=old)

    def to_delete(**wanted: object) -> set[UUID]:
        return {job.id for job in select(sweep.catalog, Wanted(**wanted), trashed=False)}  # type: ignore[arg-type]

    assert to_delete(api_key=acme) == {small, large}
    assert to_delete(api_key=acme, status="cleaned_up") == {old}
    assert to_delete(job_ids=(str(old),)) == {old}
    execute(sweep.catalog, "UPDATE jobs SET status = 'completed' WHERE id = :id", id=old)
    for wrong, message in (
        ({}, "nothing is asked for"),
        ({"status": "gone"}, "'gone' is no status of a job"),
        ({"larger_than": "lots"}, "is not a size"),
        ({"older_than_days": -1}, "outside the limits"),
        ({"job_ids": ("1; DROP TABLE jobs",)}, "is no job id"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            found(**wrong)
    with pytest.raises(NotFoundError, match="no API key 'nobody'"):
        found(api_key="nobody")
    with pytest.raises(NotFoundError, match="no job"):
        found(job_ids=(str(uuid4()),))


def test_a_key_and_another_keys_job_together_are_nobodys_job(
    sweep: Sweep, location: OpenLocation, cold: OpenLocation, policy: IngestPolicy, acme: str,
    new_job: Callable[[bytes], UUID], tmp_path: Path,
) -> None:  # fmt: skip
    """Both must be true: neither is deleted, brought back or moved."""
    new_job(b"acme's")
    create_key(sweep.catalog, "rival", "1 MiB")
    video = write_video(tmp_path / "theirs.mp4", b"rival's")
    (taken,) = ingest_videos(sweep.catalog, location, policy, api_key="rival", sources=[str(video)]).outcomes
    theirs = taken.job_id
    for trashed in (False, True):
        with pytest.raises(NotFoundError, match=f"no job {theirs}"):
            select(sweep.catalog, Wanted((str(theirs),), acme), trashed=trashed)
    migration = Migration(location, cold, api_key=acme, job_ids=(str(theirs),))
    assert find_jobs(sweep.catalog, migration).jobs == ()


def test_an_erasure_leaves_only_the_log(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str,
    new_job: Callable[[bytes], UUID], tmp_path: Path,
) -> None:  # fmt: skip
    gone, stays = new_job(b"personal"), new_job(b"another's")
    register_outputs(sweep.catalog, location, policy, job_id=gone, outputs=str(write_outputs(tmp_path / "out")))
    execute(
        sweep.catalog,
        "UPDATE stored_objects SET kind = 'upload', name = 'uploads/x/our summer.mp3' "
        " WHERE kind = 'audio' AND job_id = :id",
        id=gone,
    )
    playlist = issue_download_url(
        sweep.catalog, Locations(sweep.catalog, location), access, api_key=acme, job_id=gone, kind="hls_720p"
    ).url
    archive = bulk_download(
        sweep.catalog, Locations(sweep.catalog, location), access, job_ids=[gone, stays], kinds=["original"]
    ).url
    refresh(sweep.catalog, TierPolicy())
    assert one(sweep.catalog, "SELECT count(*) FROM analytics.notable_jobs WHERE job_id = :id", id=str(gone))
    delete(sweep, gone)
    report = erase(sweep, gone)
    assert [outcome.result for outcome in report.outcomes] == ["done"]
    assert report.objects == 17
    tables = rows(
        sweep.catalog,
        "SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.columns "
        "  JOIN information_schema.tables USING (table_schema, table_name) "
        " WHERE column_name = 'job_id' AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'operation_log%' "
        "   AND table_name NOT IN ('relocations', 'storage_changes')",
    )
    assert len(tables) > 6
    execute(sweep.catalog, "SELECT fold_storage_changes()")
    for (name,) in tables:
        assert one(sweep.catalog, f"SELECT count(*) FROM {name} WHERE job_id = :id", id=str(gone)) == 0, name
    for table, column in (("jobs", "id"), ("stored_objects", "job_id"), ("reservations", "job_id")):
        assert one(sweep.catalog, f"SELECT count(*) FROM {table} WHERE {column} = :id", id=gone) == 0
    assert one(sweep.catalog, "SELECT count(*) FROM operation_log WHERE job_id = :id", id=gone) > 17
    assert "summer" not in str(rows(sweep.catalog, "SELECT before, after FROM operation_log"))
    assert [key for prefix in ("processed", "uploads", "exports") for key in stored_keys(location, prefix)
            if str(gone) in key] == []  # fmt: skip
    assert httpx.get(playlist).status_code == 404
    assert httpx.get(archive).status_code == 404
    issue_download_url(
        sweep.catalog, Locations(sweep.catalog, location), access, api_key=acme, job_id=stays, kind="original"
    )
    assert_sound(sweep.catalog, location)
    with pytest.raises(NotFoundError):
        erase(sweep, gone)


def test_a_key_that_cannot_be_removed_keeps_only_its_own_job(
    sweep: Sweep, location: OpenLocation, acme: str, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object under lock would keep the names and hashes of a hundred jobs that were to be erased."""
    stuck, other = new_job(b"under lock"), new_job(b"free")

    def locked(store: ObjectStore, keys: Sequence[str]) -> dict[str, str]:
        kept = [key for key in keys if str(stuck) in key]
        return dict.fromkeys(kept, "AccessDenied: locked") | delete_keys(
            store, [key for key in keys if key not in kept]
        )

    with monkeypatch.context() as patched:
        patched.setattr(purging, "delete_keys", locked)
        patched.setattr(purging, "PAUSE_SECONDS", 0)
        patched.setattr(deletion, "delete_keys", locked)
        results = {one.item.subject: (one.result, one.error) for one in erase(sweep, stuck, other).outcomes}
    assert results[str(other)] == ("done", "")
    assert results[str(stuck)][0] == "failed"
    assert results[str(stuck)][1].startswith(f"processed/{stuck}/")
    assert rows(sweep.catalog, "SELECT id FROM jobs") == [(stuck,)]
    assert [one.result for one in erase(sweep, stuck).outcomes] == ["done"]
    assert stored_keys(location) == []


def test_a_key_that_tells_no_job_keeps_all_of_them() -> None:
    jobs = [uuid4(), uuid4()]
    assert deletion._jobs_of([], jobs) == set()
    assert deletion._jobs_of([f"failed/{jobs[0]}/x"], jobs) == {jobs[0]}
    assert deletion._jobs_of([f"failed/{jobs[0]}/x", "exports/bulk/some.zip"], jobs) == set(jobs)


def test_an_erasure_takes_a_job_whatever_its_state(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    jobs = {status: new_job(status.encode()) for status in ("failed", "cleaned_up", "transcoding")}
    for status, job in jobs.items():
        execute(sweep.catalog, "UPDATE jobs SET status = :status WHERE id = :id", status=status, id=job)
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'purging' WHERE job_id = :id", id=jobs["cleaned_up"])
    assert [outcome.result for outcome in erase(sweep, *jobs.values()).outcomes] == ["done"] * 3
    assert one(sweep.catalog, "SELECT count(*) FROM jobs") == 0
    assert stored_keys(location) == []


@pytest.mark.parametrize("remove", [erase, delete], ids=["for good", "into the trash"])
def test_deletion_races_with_new_arrivals_of_the_same_video(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str,
    new_job: Callable[[bytes], UUID], tmp_path: Path, remove: Callable[[Sweep, UUID], Report],
) -> None:  # fmt: skip
    """A last delete against uploads of the same content by every way: whoever wins, no live row lacks its bytes."""
    job = new_job(b"same")
    issued = issue_upload_url(
        sweep.catalog, location, access, policy, api_key=acme, filename="form.mp4", size_bytes=len(b"same")
    )
    httpx.post(issued.form.url, data=issued.form.fields, files={"file": b"same"}).raise_for_status()
    put_bytes(location.store, "temp/source/blob", b"same", {})
    url = location.store.s3.generate_presigned_url(
        "get_object", Params={"Bucket": location.store.bucket, "Key": location.store.path("temp/source/blob")}
    )
    near = policy.model_copy(update={"allow_private_addresses": True})

    def ingest(source: str) -> None:
        (outcome,) = ingest_videos(sweep.catalog, location, near, api_key=acme, sources=[source]).outcomes
        assert outcome.succeeded or "another run is uploading" in outcome.error, outcome.error

    def complete() -> None:
        complete_upload(
            sweep.catalog, Locations(sweep.catalog, location), policy, api_key=acme, upload_id=issued.upload_id
        )

    video = str(write_video(tmp_path / "same.mp4", b"same"))
    with ThreadPoolExecutor(max_workers=5) as pool:
        at_once = [
            pool.submit(ingest, video), pool.submit(remove, sweep, job), pool.submit(complete),
            pool.submit(ingest, url), pool.submit(ingest, video),
        ]  # fmt: skip
    for one_of_them in at_once:
        one_of_them.result()
    assert one(sweep.catalog, "SELECT count(*) FROM jobs WHERE deleted_at IS NULL AND status = 'queued'") <= 1
    assert_sound(sweep.catalog, location)
    (again,) = ingest_videos(sweep.catalog, location, policy, api_key=acme, sources=[video]).outcomes
    assert again.succeeded, again.error
    assert one(sweep.catalog, "SELECT count(*) FROM jobs WHERE deleted_at IS NULL AND status = 'queued'") == 1
    assert_sound(sweep.catalog, location)


def test_an_undo_never_goes_past_the_quota_beside_ingest(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, acme: str, new_job: Callable[[bytes], UUID],
    tmp_path: Path,
) -> None:  # fmt: skip
    trashed = [new_job(bytes([number]) * 1000) for number in range(8)]
    delete(sweep, *trashed)
    set_quota(sweep.catalog, api_key=acme, quota="5000")
    videos = [write_video(tmp_path / f"n{number}.mp4", bytes([100 + number]) * 1000) for number in range(8)]

    def ingest(video: Path) -> None:
        with suppress(QuotaExceededError):
            ingest_videos(sweep.catalog, location, policy, api_key=acme, sources=[str(video)])

    threads = [threading.Thread(target=undelete, args=(sweep, job)) for job in trashed]
    threads += [threading.Thread(target=ingest, args=(video,)) for video in videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") <= 5000
    assert_sound(sweep.catalog, location)


def test_an_undo_takes_the_room_of_what_lapsed(sweep: Sweep, acme: str, new_job: Callable[[bytes], UUID]) -> None:
    """Who comes late with what was reserved before has to ask again, and is refused."""
    job, late = new_job(b"1" * 1000), uuid4()
    delete(sweep, job)
    set_quota(sweep.catalog, api_key=acme, quota="1500")

    def settled(connection: Connection) -> set[UUID]:
        return set(settle(connection, key, {late: 0}, keep_for=timedelta(0)))

    key = one(sweep.catalog, "SELECT id FROM api_keys")
    sweep.catalog.transaction(lambda connection: reserve(connection, key, [(late, None, 800, timedelta(hours=1))]))
    assert [outcome.result for outcome in undelete(sweep, job).outcomes] == ["skipped"]
    execute(sweep.catalog, "UPDATE reservations SET expires_at = now() - interval '1 second'")
    assert [outcome.result for outcome in undelete(sweep, job).outcomes] == ["done"]
    assert sweep.catalog.transaction(settled) == set()
    assert one(sweep.catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_what_was_given_up_is_in_no_trash(sweep: Sweep, acme: str, new_job: Callable[[bytes], UUID]) -> None:
    gone, back = new_job(b"given up"), new_job(b"in the trash")
    delete(sweep, gone, back)
    execute(sweep.catalog, "UPDATE jobs SET status = 'cleaned_up' WHERE id = :id", id=gone)
    assert [job.id for job in select(sweep.catalog, Wanted(api_key=acme), trashed=True)] == [back]


def test_an_erasure_looks_for_archives_and_forms_of_a_storage_class(
    sweep: Sweep, location: OpenLocation, access: AccessPolicy, new_job: Callable[[bytes], UUID]
) -> None:
    """A storage class is a location of its own in the same bucket; it is opened by one of its names alone."""
    job = new_job(b"personal")
    probe_store(sweep.catalog, location.store, "main", location="colder", storage_class="STANDARD_IA")
    both = probe_store(sweep.catalog, location.store, "main")
    archive = bulk_download(
        sweep.catalog, Locations(sweep.catalog, location), access, job_ids=[job], kinds=["original"]
    ).url
    execute(
        sweep.catalog,
        "UPDATE operation_log SET after = after || '{\"location\": \"colder\"}' WHERE operation = 'bulk-download'",
    )
    assert httpx.get(archive).status_code == 200
    delete(sweep, job)
    assert [outcome.result for outcome in erase(replace(sweep, locations=(both,)), job).outcomes] == ["done"]
    assert httpx.get(archive).status_code == 404


def test_unknown_ids_are_reported(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job, unknown = new_job(b"x"), uuid4()
    ids = (str(job), str(unknown))
    plan = plan_deletion(select(sweep.catalog, Wanted(ids)), asked=ids)
    assert [item.subject for item in plan.skipped] == [str(unknown)]
    assert len(plan.items) == 1
