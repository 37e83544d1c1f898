"""Into the trash and out of it, races of both ways of removing, and what is found to remove."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Connection

from blocks.catalog.admission import reserve, settle
from blocks.errors import InvalidInputError, NotFoundError, QuotaExceededError, RefusedError
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.access import issue_download_url
from tasks.customers import create_key, set_quota
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.plans import Report
from tasks.relocation.migration import Migration, find_jobs
from tasks.removal.deletion import (
    Wanted,
    apply_undelete,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs, write_video
from tests.tasks.removal.removals import delete, erase

STATES = "SELECT name, state, generation, trashed_state FROM stored_objects ORDER BY name"


def undelete(sweep: Sweep, *jobs: UUID) -> Report:
    ids = tuple(str(job) for job in jobs)
    return apply_undelete(sweep, plan_undelete(select(sweep.catalog, Wanted(ids)), asked=ids))


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


def test_unknown_ids_are_reported(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job, unknown = new_job(b"x"), uuid4()
    ids = (str(job), str(unknown))
    plan = plan_deletion(select(sweep.catalog, Wanted(ids)), asked=ids)
    assert [item.subject for item in plan.skipped] == [str(unknown)]
    assert len(plan.items) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("status = 'cleaned_up'", "its files are removed already; nothing can bring them back but a backup"),
        ("deleted_at = NULL, purge_after = NULL", "not in the trash"),
    ],
)
@pytest.mark.parametrize("meanwhile", [False, True])
def test_what_cannot_come_back(
    sweep: Sweep, new_job: Callable[[bytes], UUID], change: str, why: str, *, meanwhile: bool
) -> None:
    """Told in the plan already, or where it came about after it."""
    job = new_job(b"1")
    delete(sweep, job)
    statement = f"UPDATE jobs SET {change}"
    if not meanwhile:
        execute(sweep.catalog, statement)
    plan = plan_undelete(select(sweep.catalog, Wanted((str(job),))))
    if meanwhile:
        execute(sweep.catalog, statement)
    told = [(one.result, one.error) for one in apply_undelete(sweep, plan).outcomes]
    told += [("skipped", item.because) for item in plan.skipped]
    assert [(result, because.partition(":")[0]) for result, because in told] == [("skipped", why)]
    assert one(sweep.catalog, "SELECT state FROM stored_objects") == "trashed", "nothing of it was touched"


def test_files_that_were_cleaned_up_are_not_deleted_once_more(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"1")
    execute(sweep.catalog, "UPDATE jobs SET status = 'cleaned_up'")
    plan = plan_deletion(select(sweep.catalog, Wanted((str(job),))))
    assert plan.items == ()
    assert [item.because.partition(";")[0] for item in plan.skipped] == ["cleaned up already"]
