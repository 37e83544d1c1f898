"""What is due goes, by the rule that says so; everything else stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.errors import InvalidInputError, LockLostError, RefusedError
from blocks.object_store.clock import store_now
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.object_store.transfer import put_bytes
from blocks.policies import IngestPolicy, RetentionPolicy
from tasks import scratch
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.plans import Plan, Report
from tasks.removal.aging import Aged, find_aged, remove_aged
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import Wanted, apply_deletion, hold, plan_deletion, select
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs, write_video
from tests.wires import Clock, wired


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation, monkeypatch, tmp_path) -> Sweep:  # type: ignore[no-untyped-def]
    # Scratch folders of this test's own: the real one may hold somebody's work.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Sweep(catalog, (location,), run="the run")


def run(sweep: Sweep, policy: RetentionPolicy | None = None) -> tuple[Plan, Report]:
    policy = policy or RetentionPolicy()
    facts = find_due(sweep, policy)
    plan = plan_cleanup(facts)
    return plan, apply_cleanup(sweep, policy, facts, plan)


def age(catalog: CatalogDatabase, job: UUID, days: float) -> None:
    execute(
        catalog,
        "UPDATE jobs SET updated_at = updated_at - CAST(:age AS interval), created_at = created_at - CAST(:age AS "
        "interval), purge_after = purge_after - CAST(:age AS interval) WHERE id = :id",
        age=timedelta(days=days), id=job,
    )  # fmt: skip


def delete(sweep: Sweep, *jobs: UUID) -> None:
    plan = plan_deletion(select(sweep.catalog, Wanted(tuple(str(job) for job in jobs))))
    assert not apply_deletion(sweep, RetentionPolicy(), plan).failed


def test_nothing_due_changes_nothing(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    new_job(b"young")
    plan, report = run(sweep)
    assert plan.items == ()
    assert report.outcomes == ()
    assert one(sweep.catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 1


@pytest.mark.parametrize("off", [timedelta(days=30), timedelta(days=-30)])
def test_nothing_is_due_where_clocks_disagree(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], off: timedelta
) -> None:
    """Whichever of them is wrong: one way young files look old, the other way PostgreSQL's rows do."""
    put_bytes(location.store, "temp/young", b"1", {})
    delete(sweep, new_job(b"deleted just now"))
    with wired(location.store, Clock(off)) as store:
        behind = replace(sweep, locations=(replace(location, store=store),))
        with pytest.raises(RefusedError, match=r"the clock of store main says .* UTC, and PostgreSQL's .* is removed"):
            find_due(behind, RetentionPolicy())


def test_a_failed_job_is_purged_after_its_days(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    old, young = new_job(b"old"), new_job(b"young")
    execute(sweep.catalog, "UPDATE jobs SET status = 'failed', error_message = 'ffmpeg died'")
    age(sweep.catalog, old, 8)
    put_bytes(location.store, f"failed/{old}/log.txt", b"log", {})
    plan, report = run(sweep)
    assert [(item.rule, item.subject, item.objects) for item in plan.items] == [("failed_days", str(old), 1)]
    assert "ffmpeg died" in plan.items[0].because
    assert (report.objects, report.size_bytes) == (1, 3)
    statuses = {row.id: row.status for row in rows(sweep.catalog, "SELECT id, status FROM jobs")}
    assert statuses == {old: "cleaned_up", young: "failed"}
    assert len(stored_keys(location)) == 1
    assert_sound(sweep.catalog, location)
    log = rows(sweep.catalog, "SELECT operation, run, rule FROM operation_log WHERE job_id = :id ORDER BY id", id=old)
    assert [tuple(row) for row in log][1:] == [("release", "the run", "failed_days"), ("purge", "the run", "")]


def test_the_trash_goes_on_its_date_and_not_before(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    due_job, young = new_job(b"due"), new_job(b"young")
    delete(sweep, due_job, young)
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") == 0
    age(sweep.catalog, due_job, 7.01)
    _, report = run(sweep)
    assert report.objects == 1
    counted = "SELECT id, status, (SELECT count(*) FROM stored_objects o WHERE o.job_id = j.id) AS n FROM jobs j"
    states = {row.id: (row.status, row.n) for row in rows(sweep.catalog, counted)}
    assert states == {due_job: ("cleaned_up", 0), young: ("queued", 1)}


def test_a_stuck_job_fails_with_its_reason_and_a_held_one_does_not(
    sweep: Sweep, new_job: Callable[[bytes], UUID]
) -> None:
    stuck, held, young = new_job(b"stuck"), new_job(b"held"), new_job(b"young")
    execute(sweep.catalog, "UPDATE jobs SET status = 'transcoding'")
    for job in (stuck, held):
        age(sweep.catalog, job, 1.1)
    hold(sweep.catalog, job_ids=[str(held)], reason="a dispute")
    plan, report = run(sweep)
    assert [outcome.result for outcome in report.outcomes] == ["done"]
    assert [(item.subject, "a dispute" in item.because) for item in plan.skipped] == [(str(held), True)]
    found = {row.id: (row.status, row.error_message) for row in rows(sweep.catalog, "SELECT * FROM jobs")}
    assert found[stuck][0] == "failed"
    assert found[stuck][1].startswith("no progress while transcoding since 20")
    assert found[held] == found[young] == ("transcoding", None)


def test_what_a_killed_upload_left_is_given_up(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    from tasks.intake import taking_in

    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    video = write_video(tmp_path / "a.mp4", b"content")
    with monkeypatch.context() as patched:
        patched.setattr(taking_in, "commit_arrivals", die)
        with pytest.raises(KilledError):
            ingest_videos(sweep.catalog, location, policy, api_key=acme, sources=[str(video)])
    assert len(stored_keys(location)) == 1
    assert run(sweep)[1].outcomes == (), "it may still be under way"
    execute(sweep.catalog, "UPDATE reservations SET expires_at = now() - interval '1 second'")
    execute(sweep.catalog, "UPDATE jobs SET updated_at = now() - interval '25 hours'")
    execute(sweep.catalog, "UPDATE stored_objects SET created_at = now() - interval '25 hours'")
    plan, report = run(sweep)
    assert {item.rule for item in plan.items} == {"stuck_hours", "reservations"}
    assert not report.failed
    assert plan.objects == report.objects == 1
    assert stored_keys(location) == []
    assert one(sweep.catalog, "SELECT status FROM jobs") == "failed"
    assert one(sweep.catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0
    assert_sound(sweep.catalog, location)


def test_a_killed_purge_is_finished(sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"released")
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'purging'")
    execute(sweep.catalog, "UPDATE jobs SET status = 'cleaned_up'")
    plan, report = run(sweep)
    assert [(item.rule, item.objects) for item in plan.items] == [("released", 0)], "approved when it was released"
    assert (report.objects, report.size_bytes) == (1, 8)
    assert stored_keys(location) == []
    assert (
        one(sweep.catalog, "SELECT count(*) FROM operation_log WHERE operation = 'purge' AND job_id = :id", id=job) == 1
    )


def test_prefixes_of_age(sweep: Sweep, location: OpenLocation) -> None:
    for key in ("temp/a/blob", "failed/b/log", "exports/hls/c.m3u8", "probe/d", "processed/e", "reports/f"):
        put_bytes(location.store, key, b"12345", {})
    at = sweep.catalog.transaction(catalog_now)
    wanted = {1.5: {"temp/a/blob", "probe/d"}, 7.5: {"failed/b/log"}, 8.5: {"exports/hls/c.m3u8"}}
    seen: set[str] = set()
    for days, keys in wanted.items():
        plan = plan_cleanup(find_due(sweep, RetentionPolicy(), as_of=at + timedelta(days=days), dry_run=True))
        seen |= keys
        assert {item.subject for item in plan.items} == seen
    assert len([key for prefix in ("temp", "failed", "exports", "probe") for key in stored_keys(location, prefix)]) == 4


def test_a_full_folder_leaves_the_others_their_turn(sweep: Sweep, location: OpenLocation) -> None:
    """And what a stream's playlist was is counted when it has gone, though no cap asks about it."""
    for number in range(5):
        put_bytes(location.store, f"exports/hls/{uuid4()}/hls_720p/{number}.m3u8", b"#EXTM3U", {})
    put_bytes(location.store, "probe/x", b"1", {})
    later = store_now(location.store) + timedelta(days=30)
    found = [one.rule for one in find_aged(location.store, RetentionPolicy(), now=later, most=3)]
    assert found == ["exports_days"] * 3 + ["probe_days"]
    policy = RetentionPolicy()
    facts = find_due(sweep, policy, as_of=later, dry_run=True)
    plan = plan_cleanup(facts)
    assert (len(plan.items), plan.objects) == (6, 1)
    report = apply_cleanup(sweep, policy, facts, plan)
    assert (report.objects, report.size_bytes) == (6, 36)
    assert stored_keys(location) == []


def test_an_object_that_was_replaced_since_it_was_listed_stays(sweep: Sweep, location: OpenLocation) -> None:
    for key in ("temp/a/blob", "temp/b/blob"):
        put_bytes(location.store, key, b"12345", {})
    at = sweep.catalog.transaction(catalog_now) + timedelta(days=2)
    aged: list[Aged] = list(find_aged(location.store, RetentionPolicy(), now=at, most=10))
    put_bytes(location.store, "temp/a/blob", b"another", {})
    results = {key: result for key, result, _ in remove_aged(sweep.catalog, location, aged, run="")}
    assert results == {"temp/a/blob": "skipped", "temp/b/blob": "done"}
    assert stored_keys(location, "temp") == ["temp/a/blob"]
    assert one(sweep.catalog, "SELECT before ->> 'key' FROM operation_log WHERE operation = 'expire'") == "temp/b/blob"


def test_incomplete_multiparts_are_aborted(sweep: Sweep, location: OpenLocation) -> None:
    store = location.store
    store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path("processed/x"))
    policy = RetentionPolicy()
    assert plan_cleanup(find_due(sweep, policy)).items == ()
    at = sweep.catalog.transaction(catalog_now)
    facts = find_due(sweep, policy, as_of=at + timedelta(days=4), dry_run=True)
    plan = plan_cleanup(facts)
    assert [item.action for item in plan.items] == ["abort upload"]
    report = apply_cleanup(sweep, policy, facts, plan)
    assert [outcome.result for outcome in report.outcomes] == ["done"]
    assert store.s3.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", []) == []


def test_an_upload_that_takes_its_days_is_left_alone(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    store, job = location.store, new_job(b"content")
    key = one(sweep.catalog, "SELECT key FROM stored_objects")
    store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(key))
    execute(sweep.catalog, "UPDATE stored_objects SET state = 'pending'")
    execute(
        sweep.catalog,
        "INSERT INTO reservations (id, api_key_id, job_id, bytes, expires_at) "
        "SELECT gen_random_uuid(), api_key_id, id, 0, now() + interval '60 days' FROM jobs WHERE id = :job",
        job=job,
    )
    at = sweep.catalog.transaction(catalog_now) + timedelta(days=4)
    facts = find_due(sweep, RetentionPolicy(), as_of=at, dry_run=True)
    assert facts.places[0].multiparts == ()
    # Its reservation ended, and it was planned; then it was begun anew.
    execute(sweep.catalog, "UPDATE reservations SET expires_at = now()")
    facts = find_due(sweep, RetentionPolicy(), as_of=at, dry_run=True)
    (item,) = (item for item in plan_cleanup(facts).items if item.action == "abort upload")
    execute(sweep.catalog, "UPDATE reservations SET expires_at = now() + interval '1 day'")
    report = apply_cleanup(sweep, RetentionPolicy(), facts, Plan("cleanup", (item,)))
    assert [(outcome.result, outcome.error) for outcome in report.outcomes] == [("skipped", "under way")]
    execute(sweep.catalog, "DELETE FROM reservations; UPDATE stored_objects SET state = 'live'")
    for upload in list_multipart_uploads(store):
        abort_multipart_upload(store, upload.key, upload.upload_id)


def test_intents_of_killed_runs_are_undone(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"content")
    object_id = one(sweep.catalog, "SELECT id FROM stored_objects")
    for state, key, hours, old_key, release in (
        ("open", "young", 1, None, None),
        ("open", "stale", 25, None, None),
        ("failed", "given-up", 1, None, None),
        ("swapped", "new", 30, "old", -1),
        ("swapped", "new2", 30, "still-read", 1),
    ):
        execute(
            sweep.catalog,
            "INSERT INTO relocations (id, object_id, job_id, generation, operation, location_id, key, state, "
            "created_at, old_location_id, old_key, old_stored_bytes, release_after) VALUES (:id, :object, :job, 1, "
            "'heal', :location, :key, :state, now() - CAST(:age AS interval), :old_location, :old, 1, "
            "now() + CAST(:release AS interval))",
            id=uuid4(), job=job, object=object_id, location=location.place.id,
            key=f"processed/{job}/{key}", state=state,
            age=timedelta(hours=hours), old_location=location.place.id if old_key else None,
            old=f"processed/{job}/{old_key}" if old_key else None,
            release=timedelta(hours=release) if release is not None else None,
        )  # fmt: skip
        for name in filter(None, (key, old_key)):
            put_bytes(location.store, f"processed/{job}/{name}", b"x", {})
    _, report = run(sweep)
    assert [outcome.result for outcome in report.outcomes] == ["done"] * 3
    assert {outcome.item.rule: outcome.size_bytes for outcome in report.outcomes} == {
        "abandoned_hours": 0, "old_bytes_minutes": 1,
    }  # fmt: skip
    assert {row.state for row in rows(sweep.catalog, "SELECT state FROM relocations WHERE key LIKE '%young'")} == {
        "open"
    }
    left = {key.rpartition("/")[2] for key in stored_keys(location)}
    assert left == {"video_original.mp4", "young", "new", "new2", "still-read"}
    assert run(sweep)[1].outcomes == ()


def test_folders_of_killed_runs(sweep: Sweep) -> None:
    root = scratch.scratch_root()
    for name, hours in (("old", 25), ("young", 1)):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"12345")
        (root / "link-target").touch()
        for path in (root / name / "file", root / name):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - hours * 3600))
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "old" / "link").symlink_to(outside)
    os.utime(root / "old" / "link", (0, 0), follow_symlinks=False)
    os.utime(root / "old", (0, 0))
    _, report = run(sweep)
    assert [(outcome.item.rule, outcome.size_bytes >= 5) for outcome in report.outcomes] == [("scratch_days", True)]
    assert sorted(path.name for path in root.iterdir()) == ["link-target", "young"]
    assert outside.exists()


def test_the_future_is_only_looked_at(sweep: Sweep) -> None:
    later = sweep.catalog.transaction(catalog_now) + timedelta(days=1)
    with pytest.raises(InvalidInputError, match="lies in the future: that can only be looked at"):
        find_due(sweep, RetentionPolicy(), as_of=later)
    with pytest.raises(InvalidInputError, match="has no time zone"):
        find_due(sweep, RetentionPolicy(), as_of=later.replace(tzinfo=None))


def test_a_job_that_changed_since_the_plan_is_left_alone(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    held, back, again = (new_job(name) for name in (b"1", b"2", b"3"))
    execute(sweep.catalog, "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days'")
    policy = RetentionPolicy()
    facts = find_due(sweep, policy)
    plan = plan_cleanup(facts)
    assert len(plan.items) == 3
    hold(sweep.catalog, job_ids=[str(held)], reason="a dispute")
    execute(sweep.catalog, "UPDATE jobs SET status = 'completed' WHERE id = :id", id=back)
    execute(sweep.catalog, "UPDATE jobs SET updated_at = now() WHERE id = :id", id=again)
    report = apply_cleanup(sweep, policy, facts, plan)
    assert [outcome.result for outcome in report.outcomes] == ["skipped"] * 3
    assert one(sweep.catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 3


def test_a_lost_lock_ends_the_run_between_batches(
    catalog: CatalogDatabase, location: OpenLocation, sweep: Sweep, new_job: Callable[[bytes], UUID]
) -> None:
    for name in (b"1", b"2"):
        new_job(name)
    execute(catalog, "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days'")

    def lost() -> None:
        raise LockLostError("cut")

    cut = Sweep(catalog, (location,), "cut", before_batch=lost)
    with pytest.raises(LockLostError):
        run(cut)
    assert len(stored_keys(location)) == 2
    assert run(sweep)[1].objects == 2


def test_a_foreign_bucket_is_never_cleaned(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    from blocks.errors import ForeignCatalogError

    new_job(b"content")
    execute(sweep.catalog, "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days'")
    execute(sweep.catalog, "UPDATE catalog_identity SET epoch = epoch + 1")
    with pytest.raises(ForeignCatalogError):
        run(sweep)
    assert len(stored_keys(location)) == 1


def test_the_temp_files_of_outputs_go_when_the_job_completes(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, new_job: Callable[[bytes], UUID], tmp_path
) -> None:  # type: ignore[no-untyped-def]
    job = new_job(b"content")
    made = write_outputs(tmp_path / "out")
    for path in made.rglob("*"):
        if path.is_file():
            put_bytes(location.store, f"temp/worker-1/{path.relative_to(made)}", path.read_bytes(), {})
    put_bytes(location.store, "temp/worker-2/blob", b"another's", {})
    register_outputs(catalog, location, policy, job_id=job, outputs="temp/worker-1")
    assert stored_keys(location, "temp") == ["temp/worker-2/blob"]
    assert_sound(catalog, location)
