"""The only copy of something is never taken for rubbish, and an erasure leaves none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.errors import RefusedError
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, RetentionPolicy
from tasks.drift import judge, reconcile
from tasks.drift.repairs import apply_repairs
from tasks.intake.uploads import issue_upload_url
from tasks.plans import Plan, Report
from tasks.removal import deletion
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import Wanted, apply_erasure, hold, plan_deletion, select
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, stored_keys
from tests.tasks.drift.drifting import NO_GRACE, POLICY, key_of, look, run, state_of


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation, monkeypatch, tmp_path) -> Sweep:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Sweep(catalog, (location,), run="the run")


def second_copy(sweep: Sweep, job: UUID) -> str:
    """An orphan with the row's id and content, as an interrupted move leaves one."""
    (location,) = sweep.locations
    ((object_id, sha256, size),) = rows(
        sweep.catalog, "SELECT id, sha256, size_bytes FROM stored_objects WHERE job_id = :id", id=job
    )
    key = f"processed/{job}/raw/video_original.{uuid4()}.mp4"
    attributes = {"object-id": str(object_id), "sha256": sha256}
    copy(location.store, key_of(sweep.catalog, job), location.store, key, size_bytes=size, attributes=attributes)
    return key


def clean(sweep: Sweep) -> tuple[Plan, Report]:
    facts = find_due(sweep, RetentionPolicy())
    plan = plan_cleanup(facts)
    return plan, apply_cleanup(sweep, RetentionPolicy(), facts, plan)


def erase(sweep: Sweep, *jobs: UUID) -> Report:
    return apply_erasure(
        sweep, plan_deletion(select(sweep.catalog, Wanted(tuple(str(job) for job in jobs))), purge_now=True)
    )


def test_the_good_copy_of_a_row_that_is_found_corrupt(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"content")
    second_copy(sweep, job)
    put_bytes(location.store, key_of(sweep.catalog, job), b"CONTENT of another size", {})
    run(sweep)
    assert state_of(sweep.catalog, job) == "live"
    execute(sweep.catalog, "UPDATE relocations SET release_after = now() - interval '1 second'")
    clean(sweep)
    run(sweep)
    assert_sound(sweep.catalog, location)


def test_the_copy_of_a_trashed_row_without_bytes(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"content")
    spare = second_copy(sweep, job)
    delete_keys(location.store, [key_of(sweep.catalog, job)])
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'trashed', trashed_state = 'live'")
    for _ in range(2):
        plan, _ = run(sweep)
    assert stored_keys(location) == [spare]
    assert [item.because.partition(": ")[2] for item in plan.skipped] == ["it may be its only copy"]


def test_an_orphan_that_becomes_the_only_copy_after_the_plan(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"content")
    spare = second_copy(sweep, job)
    found = look(sweep)
    plan = judge.plan_repairs(found, {})
    assert [item.action for item in plan.items] == ["remove orphan"]
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'corrupt'")
    report = apply_repairs(sweep, POLICY, found, plan, grace=NO_GRACE)
    assert [outcome.result for outcome in report.outcomes] == ["skipped"]
    assert spare in stored_keys(location)


def test_orphans_beyond_the_first_are_counted_and_left_alone(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(b"content")
    for number in range(5):
        put_bytes(location.store, f"processed/{job}/{number}", b"x", {})
    monkeypatch.setattr(reconcile, "MOST_FINDINGS", 2)
    plan, report = run(sweep)
    assert (plan.objects, report.objects) == (2, 2)
    assert any(item.subject == "3 more" for item in plan.skipped)


def test_a_blob_whose_form_is_open_and_the_evidence_of_a_held_job(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str,
    new_job: Callable[[bytes], UUID],
) -> None:  # fmt: skip
    held, free = new_job(b"held"), new_job(b"free")
    hold(sweep.catalog, job_ids=[str(held)], reason="case 7")
    issued = issue_upload_url(
        sweep.catalog, location, access, policy, api_key=acme, filename="a.mp4", size_bytes=3, expires_in=24 * 3600
    )
    key = str(one(sweep.catalog, "SELECT key FROM uploads WHERE id = :id", id=issued.upload_id))
    for name in (key, "temp/other/blob", f"failed/{held}/log", f"failed/{free}/log"):
        put_bytes(location.store, name, b"abc", {})
    at = sweep.catalog.transaction(catalog_now) + timedelta(days=8)
    plan = plan_cleanup(find_due(sweep, RetentionPolicy(), as_of=at, dry_run=True))
    removed = {item.subject for item in plan.items if item.action == "remove object"}
    assert removed == {"temp/other/blob", f"failed/{free}/log"}


def test_an_erasure_leaves_no_bytes_below_the_jobs_folders(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job, store = new_job(b"personal"), location.store
    second_copy(sweep, job)
    put_bytes(store, f"uploads/{job}/{uuid4()}", b"nobody's", {})
    put_bytes(store, f"failed/{job}/log", b"log", {})
    store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(f"processed/{job}/720p/video_720p.mp4"))
    assert [outcome.result for outcome in erase(sweep, job).outcomes] == ["done"]
    assert [key for prefix in ("processed", "uploads", "failed") for key in stored_keys(location, prefix)] == []
    assert list(list_multipart_uploads(store)) == []


def test_a_killed_erasure_is_finished_by_the_next_cleanup(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    job = new_job(b"personal")
    with monkeypatch.context() as patched:
        patched.setattr(deletion, "purge_released", die)
        with pytest.raises(KilledError):
            erase(sweep, job)
    assert len(stored_keys(location)) == 1
    put_bytes(location.store, f"failed/{job}/log", b"log", {})
    add_store = "INSERT INTO locations (name, store, bucket, prefix) VALUES ('cold', 'cold', 'videos', 'elsewhere')"
    execute(sweep.catalog, add_store)
    (refused,) = clean(sweep)[1].failed
    assert "cold is not open" in refused.error, "a night with some stores only goes on without it"
    execute(sweep.catalog, "DELETE FROM locations WHERE name = 'cold'")
    _, report = clean(sweep)
    assert report.failed == ()
    assert stored_keys(location, "failed") == []
    assert stored_keys(location) == []
    assert one(sweep.catalog, "SELECT count(*) FROM jobs") == 0


def test_an_erasure_looks_into_every_store(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"personal")
    execute(
        sweep.catalog,
        "INSERT INTO locations (name, store, bucket, prefix) VALUES ('cold', 'cold', 'videos', 'elsewhere')",
    )
    with pytest.raises(RefusedError, match="and cold is not open: leave stores empty"):
        erase(sweep, job)
    assert one(sweep.catalog, "SELECT state FROM stored_objects") == "live"


def test_a_job_that_came_back_is_not_at_once_due(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    failed, queued = new_job(b"1"), new_job(b"2")
    execute(sweep.catalog, "UPDATE jobs SET updated_at = now() - interval '30 days'")
    execute(sweep.catalog, "UPDATE jobs SET status = 'failed' WHERE id = :id", id=failed)
    jobs = tuple(str(job) for job in (failed, queued))
    deletion.apply_deletion(sweep, RetentionPolicy(), plan_deletion(select(sweep.catalog, Wanted(jobs))))
    report = deletion.apply_undelete(sweep, deletion.plan_undelete(select(sweep.catalog, Wanted(jobs))))
    assert [outcome.result for outcome in report.outcomes] == ["done", "done"]
    assert clean(sweep)[0].items == ()
