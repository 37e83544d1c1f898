"""What cleanup planned and what became of it since: each item is looked at again at the moment it is done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx
import pytest

from blocks.catalog.clock import catalog_now
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, RetentionPolicy
from tasks.intake.uploads import IssuedUpload, complete_upload, issue_upload_url
from tasks.plans import Outcome
from tasks.removal.aging import find_aged, remove_aged
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, stored_keys
from tests.tasks.removal.removals import delete

BODY = b"a customer's own video"


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def planned_then(sweep: Sweep, change: Callable[[], object]) -> list[Outcome]:
    """What a cleanup comes to that was planned before a change, without what became of bytes."""
    facts = find_due(sweep, RetentionPolicy())
    plan = plan_cleanup(facts)
    assert plan.items
    change()
    return list(apply_cleanup(sweep, RetentionPolicy(), facts, plan).outcomes)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("updated_at = now()", "changed meanwhile"),
        ("status = 'completed'", "changed meanwhile"),
        ("deleted_at = now(), purge_after = now() + interval '7 days'", "changed meanwhile"),
        ("hold = 'a dispute'", "on hold: a dispute"),
    ],
)
def test_a_stuck_job_that_went_on(sweep: Sweep, new_job: Callable[[bytes], UUID], change: str, why: str) -> None:
    new_job(b"1")
    execute(sweep.catalog, "UPDATE jobs SET status = 'transcoding', updated_at = now() - interval '25 hours'")
    (outcome,) = planned_then(sweep, lambda: execute(sweep.catalog, f"UPDATE jobs SET {change}"))
    assert (outcome.result, outcome.error) == ("skipped", why)
    assert one(sweep.catalog, "SELECT status FROM jobs") != "failed"


def test_a_stuck_upload_that_went_on(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    new_job(b"1")
    execute(sweep.catalog, "UPDATE jobs SET status = 'uploading', updated_at = now() - interval '25 hours'")
    (outcome,) = planned_then(
        sweep,
        lambda: execute(
            sweep.catalog,
            "INSERT INTO reservations (id, api_key_id, job_id, bytes, expires_at) "
            "SELECT gen_random_uuid(), api_key_id, id, 0, now() + interval '1 hour' FROM jobs",
        ),
    )
    assert (outcome.result, outcome.error) == ("skipped", "its upload is still under way")
    assert one(sweep.catalog, "SELECT status FROM jobs") == "uploading"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("deleted_at = NULL, purge_after = NULL", "not in the trash any more"),
        ("purge_after = '2100-01-01'", "kept until 2100-01-01 00:00 UTC"),
        ("hold = 'a dispute'", "on hold: a dispute"),
        ("status = 'cleaned_up'", "cleaned up already"),
    ],
)
def test_trash_that_was_due(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], change: str, why: str
) -> None:
    delete(sweep, new_job(b"1"))
    execute(sweep.catalog, "UPDATE jobs SET purge_after = now() - interval '1 s'")
    (outcome,) = planned_then(sweep, lambda: execute(sweep.catalog, f"UPDATE jobs SET {change}"))
    assert (outcome.result, outcome.error, outcome.objects) == ("skipped", why, 0)
    assert len(stored_keys(location)) == 1, "its bytes are where they were"
    assert one(sweep.catalog, "SELECT state FROM stored_objects") == "trashed"


@pytest.fixture
def form(sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str) -> IssuedUpload:
    """An upload form whose time is over, and that nobody completed; its file was posted."""
    issued = issue_upload_url(
        sweep.catalog, location, access, policy, api_key=acme, filename="own.mp4", size_bytes=len(BODY)
    )
    assert httpx.post(issued.form.url, data=issued.form.fields, files={"file": BODY}).status_code < 300
    execute(sweep.catalog, "UPDATE uploads SET expires_at = now() - interval '2 days'")
    execute(sweep.catalog, "UPDATE reservations SET expires_at = now() - interval '2 days'")
    return issued


def test_a_form_that_nobody_completed_is_closed(sweep: Sweep, location: OpenLocation, form: IssuedUpload) -> None:
    facts = find_due(sweep, RetentionPolicy())
    plan = plan_cleanup(facts)
    assert ("close form", "temp_days", str(form.upload_id)) in [(i.action, i.rule, i.subject) for i in plan.items]
    assert not apply_cleanup(sweep, RetentionPolicy(), facts, plan).failed
    assert one(sweep.catalog, "SELECT status FROM uploads") == "failed"
    assert rows(sweep.catalog, "SELECT id FROM reservations") == []
    assert one(sweep.catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0
    assert_sound(sweep.catalog, location)
    assert not [item for item in plan_cleanup(find_due(sweep, RetentionPolicy())).items if item.action == "close form"]


def test_a_form_that_was_completed_meanwhile(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, acme: str, form: IssuedUpload
) -> None:
    outcomes = planned_then(
        sweep,
        lambda: complete_upload(
            sweep.catalog, Locations(sweep.catalog, location), policy, api_key=acme, upload_id=form.upload_id
        ),
    )
    (closed,) = (outcome for outcome in outcomes if outcome.item.action == "close form")
    assert (closed.result, closed.error) == ("skipped", "completed meanwhile")
    assert rows(sweep.catalog, "SELECT status FROM uploads") == [("completed",)]
    assert rows(sweep.catalog, "SELECT state FROM stored_objects") == [("live",)]
    assert_sound(sweep.catalog, location)


def test_old_files_that_are_wanted_or_gone(sweep: Sweep, location: OpenLocation, form: IssuedUpload) -> None:
    put_bytes(location.store, "temp/gone/blob", b"1", {})
    later = sweep.catalog.transaction(catalog_now) + timedelta(days=2)
    aged = list(find_aged(location.store, RetentionPolicy(), now=later, most=10))
    blob = f"temp/{form.upload_id}/blob"
    assert {found.listed.key for found in aged} == {blob, "temp/gone/blob"}
    execute(sweep.catalog, "UPDATE uploads SET expires_at = now() + interval '1 hour'")
    delete_keys(location.store, ["temp/gone/blob"])
    outcomes = {key: (result, why) for key, result, why in remove_aged(sweep.catalog, location, aged, run="")}
    assert outcomes == {
        blob: ("skipped", "wanted: its form is open, or its job on hold"),
        "temp/gone/blob": ("skipped", "gone already"),
    }
    assert stored_keys(location, "temp") == [blob]
