"""Where an object went, by which run and rule, and what comes next; told from whatever name it is asked by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import content_of
from blocks.catalog.history import Event
from blocks.catalog.log import Unnamed
from blocks.catalog.objects import NewObject
from blocks.errors import InvalidInputError, NotFoundError
from blocks.policies import AccessPolicy, IngestPolicy, RetentionPolicy
from tasks.access import issue_download_url
from tasks.history import explain, sentence, what_next
from tasks.intake.healing import heal
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    apply_undelete,
    hold,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.removal.unnamed import remove_unnamed
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tasks.writing import StoredBlob
from tests.helpers import execute, one, rows, write_outputs, write_video

POLICY = RetentionPolicy()
Line = tuple[str, str, str]


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Sweep(catalog, (location,), run="cleanup-1")


def told(catalog: CatalogDatabase, reference: object) -> list[Event]:
    """What the log tells; the rows as of now left out."""
    return [event for event in explain(catalog, POLICY, str(reference)).events if event.what != "is"]


def lines(events: list[Event]) -> list[Line]:
    return [(event.what, event.run, event.rule) for event in events]


def original(catalog: CatalogDatabase, job: UUID) -> tuple[UUID, str]:
    """Its id and key."""
    statement = "SELECT id, key FROM stored_objects WHERE job_id = :id AND kind = 'original'"
    return tuple(rows(catalog, statement, id=job)[0])  # type: ignore[return-value]  # these two


def step(sweep: Sweep, what: str, job: UUID, run: str) -> None:
    mine = Sweep(sweep.catalog, sweep.locations, run)
    found = select(sweep.catalog, Wanted((str(job),)))
    report = {
        "trash": lambda: apply_deletion(mine, POLICY, plan_deletion(found)),
        "undelete": lambda: apply_undelete(mine, plan_undelete(found)),
        "erase": lambda: apply_erasure(mine, plan_deletion(found, purge_now=True)),
    }[what]()
    assert [outcome.result for outcome in report.outcomes] == ["done"]


def clean_up(sweep: Sweep) -> None:
    facts = find_due(sweep, POLICY)
    assert not apply_cleanup(sweep, POLICY, facts, plan_cleanup(facts)).failed


def purge(sweep: Sweep, job: UUID) -> None:
    execute(sweep.catalog, "UPDATE jobs SET purge_after = now() - interval '1 second' WHERE id = :id", id=job)
    clean_up(sweep)


def test_a_whole_life_by_every_name(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str, tmp_path: Path
) -> None:
    catalog = sweep.catalog
    video = write_video(tmp_path / "film.mp4", b"the original")
    (outcome,) = ingest_videos(catalog, location, policy, api_key=acme, sources=[str(video)], run="ingest-1").outcomes
    job = outcome.job_id
    assert job is not None
    outputs = str(write_outputs(tmp_path / "out"))
    register_outputs(catalog, location, policy, job_id=job, outputs=outputs, run="register-1")
    issue_download_url(catalog, Locations(catalog, location), access, api_key=acme, job_id=job, kind="original")
    object_id, key = original(catalog, job)
    first = [("ingest", "ingest-1", "")]
    for reference in (object_id, key, f"  {key}\n", str(object_id).upper()):
        assert lines(told(catalog, reference)) == first
    explained = explain(catalog, POLICY, key)
    now = explained.events[0]
    assert (now.what, now.job_id, now.object_id, now.customer, now.size_bytes) == ("is", job, object_id, "acme", 12)
    assert sentence(now) == f"original raw/video_original.mp4 is live in main, under {key}"
    assert now.after is not None
    assert now.after["url_expires_at"] is not None
    assert explained.next_steps[0].startswith(f"raw/video_original.mp4: {STAYS} (last 20")

    step(sweep, "trash", job, "delete-1")
    step(sweep, "undelete", job, "undelete-1")
    step(sweep, "trash", job, "delete-2")
    (next_step,) = explain(catalog, POLICY, key).next_steps
    assert "in the trash; undelete-jobs brings it back until 20" in next_step
    life = [("trash", "delete-2", "delete"), ("undelete", "undelete-1", ""), ("trash", "delete-1", "delete"), *first]
    for reference in (object_id, key):
        assert lines(told(catalog, reference)) == life
    whole = told(catalog, job)
    assert len(whole) == 17 * 4, "each of its objects has as many lines"
    assert {event.run for event in whole if event.what == "register"} == {"register-1"}

    purge(sweep, job)
    life = [("purge", "cleanup-1", ""), ("release", "cleanup-1", "trash_days"), *life]
    for reference in (object_id, key):
        gone = explain(catalog, POLICY, str(reference))
        assert lines(list(gone.events)) == life
        assert gone.next_steps == ()
        assert all(event.job_id == job and event.customer == "acme" for event in gone.events)
        assert [event.at for event in gone.events] == sorted((event.at for event in gone.events), reverse=True)
    assert len(told(catalog, job)) == 17 * 6
    assert sentence(gone.events[2]) == f"trash (key: {key}; state: live → trashed)"


def test_what_befell_the_job_is_told_of_its_objects(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """A hold, a failure: as long as there is a log, by every name, and after the purge as before it."""
    catalog, job = sweep.catalog, new_job(b"x")
    object_id, key = original(catalog, job)
    hold(catalog, job_ids=[str(job)], reason="case 7", run="hold-1")
    hold(catalog, job_ids=[str(job)], reason="", release=True, run="hold-2")
    execute(catalog, "UPDATE jobs SET status = 'transcoding', updated_at = now() - interval '2 days'")
    clean_up(sweep)
    life = [
        ("fail", "cleanup-1", "stuck_hours"), ("release-hold", "hold-2", ""), ("hold", "hold-1", ""),
        ("ingest", "", ""),
    ]  # fmt: skip
    for reference in (job, object_id, key):
        assert lines(told(catalog, reference)) == life
    step(sweep, "trash", job, "delete-1")
    purge(sweep, job)
    end = [("purge", "cleanup-1", ""), ("release", "cleanup-1", "trash_days"), ("trash", "delete-1", "delete")]
    for reference in (job, object_id, key):
        assert lines(told(catalog, reference)) == [*end, *life], reference


def test_an_erased_job_is_told_from_the_log_alone(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"personal")
    object_id, key = original(sweep.catalog, job)
    step(sweep, "erase", job, "erase-1")
    assert one(sweep.catalog, "SELECT count(*) FROM jobs") == 0
    life = [
        ("erase", "erase-1", "purge_now"), ("purge", "erase-1", ""), ("release", "erase-1", "purge_now"),
        ("trash", "erase-1", "purge_now"), ("ingest", "", ""),
    ]  # fmt: skip
    assert lines(told(sweep.catalog, job)) == life
    for reference in (object_id, key):
        assert lines(told(sweep.catalog, reference))[-4:] == life[1:]
    assert {event.customer for event in told(sweep.catalog, job)} == {"acme"}
    assert explain(sweep.catalog, POLICY, str(job)).next_steps == ()


def test_every_key_it_ever_had(sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    catalog, job = sweep.catalog, new_job(b"content")
    object_id, first = original(catalog, job)
    keys = [first]
    for number in (1, 2):
        execute(catalog, "UPDATE stored_objects SET state = 'missing', generation = generation + 1")
        row = catalog.transaction(lambda connection: content_of(connection, [object_id]))[object_id]
        wanted = NewObject(
            row.id, row.job_id, row.kind, row.name, location.place.id, row.key, row.size_bytes, row.sha256
        )
        source = StoredBlob(row.key)
        heal(catalog, location, row.customer_id, wanted, row.generation, source, run=f"heal-{number}", rule="orphan")
        keys.append(one(catalog, "SELECT key FROM stored_objects"))
    life = [("heal", "heal-2", "orphan"), ("heal", "heal-1", "orphan"), ("ingest", "", "")]
    for key in keys:
        assert lines(told(catalog, key)) == life, key
        assert sentence(explain(catalog, POLICY, key).events[0]).endswith(f"is live in main, under {keys[-1]}")
    step(sweep, "trash", job, "delete-1")
    purge(sweep, job)
    for reference in (*keys, object_id):
        assert lines(told(catalog, reference))[3:] == life


def test_keys_that_no_row_ever_named(
    catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """What was removed as an orphan, or by its age, is in the log with its key and its job."""
    job = new_job(b"x")
    orphan, failed = f"processed/{job}/raw/nobody's", f"failed/{job}/log.txt"
    for unnamed, operation, run in (
        (Unnamed(orphan, "orphan_grace_hours", 5), "remove-orphan", "reconcile-1"),
        (Unnamed(failed, "failed_days", 3), "expire", "cleanup-1"),
    ):
        assert remove_unnamed(catalog, location.store, [unnamed], operation=operation, run=run) == {}
    expected = {orphan: ("remove-orphan", "reconcile-1", "orphan_grace_hours"),
                failed: ("expire", "cleanup-1", "failed_days")}  # fmt: skip
    assert set(expected.values()) < set(lines(told(catalog, job))), "by the job's id"
    for key, line in expected.items():
        assert lines(told(catalog, key)) == [line], "and by its own name"


def test_jobs_are_kept_apart(catalog: CatalogDatabase, new_job: Callable[[bytes], UUID]) -> None:
    mine, other = new_job(b"mine"), new_job(b"another's")
    for reference in (mine, *original(catalog, mine)):
        assert {event.job_id for event in explain(catalog, POLICY, str(reference)).events} == {mine}
    with pytest.raises(NotFoundError):
        explain(catalog, POLICY, original(catalog, mine)[1].replace(str(mine), str(other)).replace("raw", "x"))


@pytest.mark.parametrize(
    "reference",
    ["", "  \n", "a\0b", "\0", "x" * 2000, "x" * 1025, "\ud800", f"{uuid4()}\0"],
)  # fmt: skip
def test_what_can_be_no_name(catalog: CatalogDatabase, reference: str) -> None:
    with pytest.raises(InvalidInputError, match="is no object id, key or job id"):
        explain(catalog, POLICY, reference)


@pytest.mark.parametrize(
    "reference",
    [
        "%", "_", "'; DROP TABLE jobs; --", "' OR '1'='1", ":reference", "%(reference)s", "x" * 1024, "{}", "null",
        str(UUID(int=0)), str(uuid4()), f"{{{uuid4()}}}", f"processed/{uuid4()}/raw/x", f"processed/{uuid4()}/%", "..",
        "processed/%/raw/video_original.mp4", "processed/", "\u202eexe", "é" * 500, f"{uuid4()}\n{uuid4()}", "$1", "\\",
    ],
)  # fmt: skip
def test_names_that_nobody_knows(catalog: CatalogDatabase, new_job: Callable[[bytes], UUID], reference: str) -> None:
    new_job(b"x")
    with pytest.raises(NotFoundError, match="neither the catalog nor its log knows"):
        explain(catalog, POLICY, reference)
    assert one(catalog, "SELECT count(*) FROM jobs") == 1


AT = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


def event(**facts: Any) -> Event:
    after = {
        "name": "raw/a.mp4", "kind": "original", "location": "main", "key": "k", "state": "live", "hold": None,
        "job_status": "completed", "job_updated_at": AT.isoformat(), "created_at": AT.isoformat(),
        "purge_after": None, "deleted_at": None,
        "verified_at": "2026-04-30T01:02:03.5+00:00",
    }  # fmt: skip
    return Event(AT, "is", "", "", "acme", UUID(int=1), UUID(int=2), None, after | facts, 5)


def stamp(later: timedelta) -> str:
    return f"{AT + later:%Y-%m-%d %H:%M}"


STAYS = (
    "stays readable; tier-jobs moves it and compress-jobs makes texts smaller, by age and last access; verify-objects "
    "reads it again"
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, f"{STAYS} (last 2026-04-30)"),
        ({"verified_at": None}, f"{STAYS} (last never)"),
        ({"hold": "case 7"}, "stays, whatever its age: its job is on hold (case 7)"),
        ({"hold": "case 7", "state": "trashed"}, "stays, whatever its age: its job is on hold (case 7)"),
        ({"hold": "case 7", "job_status": "failed"}, "stays, whatever its age: its job is on hold (case 7)"),
        ({"state": "trashed", "purge_after": "2026-05-08T12:30:11.5+00:00"},
         "in the trash; undelete-jobs brings it back until 2026-05-08 12:30, then cleanup removes it (trash_days)"),
        ({"state": "purging"}, "released; the next cleanup removes its bytes"),
        ({"state": "purging", "job_status": "cleaned_up"}, "released; the next cleanup removes its bytes"),
        ({"state": "missing"}, "its bytes are gone; taking the video in again heals an original, register-outputs with "
         "the very file an output, reconcile-quota heals from an orphan"),
        ({"state": "corrupt"}, "its bytes are not its content; verify-objects says what could heal it"),
        ({"job_status": "failed"},
         f"its job failed; cleanup removes it after {stamp(timedelta(days=7))} (failed_days)"),
        ({"state": "pending"},
         f"being written; cleanup gives it up after {stamp(timedelta(hours=24))} if nobody finishes (abandoned_hours)"),
        ({"job_status": "transcoding"},
         f"stays; its job is transcoding, and fails by {stamp(timedelta(hours=24))} without progress (stuck_hours)"),
    ],
)  # fmt: skip
def test_what_comes_next(facts: dict[str, Any], expected: str) -> None:
    assert what_next(event(**facts), POLICY) == f"raw/a.mp4: {expected}"


@pytest.mark.parametrize("state", ["purging", "pending"])
def test_a_hold_keeps_nothing_that_was_released_or_never_written(state: str) -> None:
    """Cleanup removes released bytes and gives up writings whatever is on hold; nobody must rely on it."""
    assert "stays, whatever its age" not in what_next(event(hold="case 7", state=state), POLICY)


@given(st.sampled_from(["failed", "completed", "queued"]), st.integers(1, 365), st.integers(1, 72))
def test_the_policy_says_when(status: str, days: int, hours: int) -> None:
    policy = RetentionPolicy(failed_days=days, stuck_hours=hours)
    due = {"failed": stamp(timedelta(days=days)), "queued": stamp(timedelta(hours=hours)), "completed": "2026-04-30"}
    assert due[status] in what_next(event(job_status=status), policy)
