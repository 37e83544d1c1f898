"""For good: objects, exports, forms and rows of a job; only the log stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from blocks.catalog.snapshots import exported_snapshot
from blocks.errors import NotFoundError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.policies import AccessPolicy, IngestPolicy, RetentionPolicy, SafetyPolicy, TierPolicy
from tasks.access import issue_download_url
from tasks.analytics.snapshot import refresh
from tasks.declaring import probe_store
from tasks.downloads import bulk_download
from tasks.intake.outputs import register_outputs
from tasks.plans import Approval, Plan, over_caps
from tasks.removal import deletion, purging, unnamed
from tasks.removal.cleanup import find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import Wanted, hold, plan_deletion, select
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, sha256, stored_keys, write_outputs
from tests.tasks.removal.removals import delete, erase


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
    for known in (b"personal", b"another's"):  # as somebody else had them too
        execute(sweep.catalog, "INSERT INTO shared_sources VALUES (:hash)", hash=sha256(known))
    delete(sweep, gone)
    report = erase(sweep, gone)
    assert [outcome.result for outcome in report.outcomes] == ["done"]
    assert report.objects == 17
    assert rows(sweep.catalog, "SELECT sha256 FROM shared_sources") == [(sha256(b"another's"),)]
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
        patched.setattr(unnamed, "delete_keys", locked)
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


def test_an_erasure_that_was_approved_is_not_asked_about_again(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    """It waited for a backup, and is finished by the next cleanup, however large it is."""
    job = new_job(b"personal")
    with exported_snapshot(sweep.catalog):
        assert [one.result for one in erase(sweep, job).outcomes] == ["failed"]
    plan = plan_cleanup(find_due(sweep, RetentionPolicy()))
    assert [item.action for item in plan.items] == ["erase job", "remove bytes"]
    assert plan.objects == 0
    assert over_caps(plan, SafetyPolicy(most_objects=0), 10**6) == ()


def test_an_approval_is_for_the_jobs_that_were_shown(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    """What drops out of a filter makes no room for another one."""
    seen = new_job(b"seen")
    wanted = Wanted(status="failed")

    def plan() -> Plan:
        execute(sweep.catalog, "UPDATE jobs SET status = 'failed'")
        return plan_deletion(select(sweep.catalog, wanted), purge_now=True)

    shown = plan()
    approval = Approval(shown.objects, shown.size_bytes, shown.strangeness)
    assert approval.covers(plan())
    hold(sweep.catalog, job_ids=[str(seen)], reason="case 7")
    other = new_job(b"late")
    later = plan()
    assert [item.subject for item in later.items] == [str(other)]
    assert not approval.covers(later)
    trashed = plan_deletion(select(sweep.catalog, wanted))
    assert Approval(1, trashed.size_bytes).covers(trashed), "what the trash gives back is no such matter"


def test_what_was_approved_and_killed_is_finished_by_the_next_cleanup(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the jobs that it had not come to."""
    jobs = [new_job(b"%d" % number) for number in range(3)]

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "_erase", die)
        with pytest.raises(KilledError):
            erase(sweep, *jobs)
    hold(sweep.catalog, job_ids=[str(jobs[0])], reason="case 7")
    hold(sweep.catalog, job_ids=[str(jobs[0])], reason="", release=True)
    plan = plan_cleanup(find_due(sweep, RetentionPolicy()))
    going = {item.subject for item in plan.items if item.action == "erase job"}
    assert going == {str(job) for job in jobs[1:]}, "a hold has taken it back"
