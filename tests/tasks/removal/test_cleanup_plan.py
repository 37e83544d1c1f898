"""What a cleanup decides, from facts that are made up: no catalog, no store, no clock."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.catalog.due import DueJob, DueReservations, DueUpload
from blocks.catalog.relocations import Unfinished
from blocks.object_store.listing import Listed
from blocks.object_store.multipart import Incomplete
from blocks.policies import RetentionPolicy
from tasks.plans import Item
from tasks.removal.aging import Aged
from tasks.removal.cleanup_plan import CleanupFacts, PlaceFacts, plan_cleanup
from tasks.scratch import Leftover

NOW = datetime(2026, 5, 1, 3, 30, tzinfo=UTC)
SINCE = datetime(2026, 4, 20, 12, 0, tzinfo=UTC)
POLICY = RetentionPolicy()
JOB = DueJob(UUID(int=7), 1, "acme", SINCE, None, "", 5, 500)


def only(**facts: object) -> Item:
    plan = plan_cleanup(CleanupFacts(NOW, **facts))  # type: ignore[arg-type]  # one of its fields
    assert plan.skipped == ()
    (item,) = plan.items
    return item


def test_nothing_due_nothing_planned() -> None:
    plan = plan_cleanup(CleanupFacts(NOW, places=(PlaceFacts("main"), PlaceFacts("cold"))))
    assert (plan.items, plan.skipped, plan.summary()) == ((), (), "cleanup: nothing to do")


@pytest.mark.parametrize(
    ("rule", "field", "action", "detail", "because"),
    [
        ("failed_days", "failed", "purge job", "ffmpeg died", "failed since 2026-04-20 12:00 (ffmpeg died)"),
        ("failed_days", "failed", "purge job", "", "failed since 2026-04-20 12:00"),
        ("trash_days", "trashed", "purge job", "completed", "kept in the trash until 2026-04-20 12:00"),
        ("stuck_hours", "stuck", "fail job", "queued", "no progress since 2026-04-20 12:00 (queued)"),
        ("abandoned_hours", "abandoned", "give up writing", "completed", "writing since 2026-04-20 12:00"),
    ],
)
def test_jobs(rule: str, field: str, action: str, detail: str, because: str) -> None:
    item = only(**{field: (replace(JOB, detail=detail),)})
    assert item == Item(action, rule, str(JOB.id), because, "acme", 5, 500, owner=1)


@pytest.mark.parametrize("field", ["failed", "trashed", "stuck"])
def test_a_hold_keeps_a_job(field: str) -> None:
    plan = plan_cleanup(CleanupFacts(NOW, **{field: (replace(JOB, hold="case 7"), replace(JOB, id=UUID(int=8)))}))  # type: ignore[arg-type]  # as above
    assert [item.subject for item in plan.items] == [str(UUID(int=8))]
    assert [item.subject for item in plan.skipped] == [str(JOB.id)]
    assert plan.skipped[0].because.startswith("on hold: case 7; ")
    assert (plan.objects, plan.size_bytes) == (5, 500), "what is kept counts for no cap"


def test_a_hold_does_not_keep_what_was_never_written() -> None:
    item = only(abandoned=(replace(JOB, hold="case 7"),))
    assert (item.action, item.because) == ("give up writing", "on hold: case 7; writing since 2026-04-20 12:00")


def test_quota_forms_and_intents() -> None:
    held = DueReservations(3, "acme", (UUID(int=1), UUID(int=2)), 2048)
    assert only(reservations=(held,)) == Item(
        "release quota", "reservations", "reservations of acme", "2 lapsed, 2 KiB", "acme", owner=3
    )
    form = DueUpload(UUID(int=9), 3, "acme", SINCE)
    assert only(uploads=(form,)) == Item(
        "close form", "temp_days", str(form.id), "ended 2026-04-20 12:00", "acme", owner=3
    )
    for state, rule, because in (
        ("open", "abandoned_hours", "begun and never finished"),
        ("failed", "abandoned_hours", "given up, their bytes may still be there"),
        ("swapped", "old_bytes_minutes", "moved, and the last URL for the old bytes has ended"),
    ):
        intents = tuple(Unfinished(UUID(int=n), state, 7, f"processed/{n}", 512) for n in range(4))
        expected = Item("finish intents", rule, f"{state} in location 7", f"4 objects, 2 KiB: {because}")
        assert only(intents=intents) == expected, "planned when they were moved: they count against no cap"


@pytest.mark.parametrize("rule", ["temp_days", "failed_days", "exports_days", "probe_days"])
def test_objects_that_age_alone_removes(rule: str) -> None:
    aged = Aged(rule, Listed("temp/a/blob", 10, "etag", SINCE), NOW)
    item = only(places=(PlaceFacts("main"), PlaceFacts("cold", aged=(aged,))))
    assert item == Item("remove object", rule, "temp/a/blob", "from 2026-04-20 12:00", "", 1, 10, place="cold")


def test_a_days_playlists_stop_no_night() -> None:
    """A platform that hands out more streams a day than the cap allows would be asked about every night's trash."""
    key = f"exports/hls/{UUID(int=1)}/hls_720p/x.m3u8"
    item = only(places=(PlaceFacts("main", aged=(Aged("exports_days", Listed(key, 10, "etag", SINCE), NOW),)),))
    assert (item.subject, item.objects, item.size_bytes) == (key, 0, 0)


def test_uploads_bytes_and_folders() -> None:
    upload = Incomplete("processed/a b/c", "upload-1", SINCE)
    item = only(places=(PlaceFacts("main", multiparts=(upload,)),))
    assert (item.action, item.rule, item.place) == ("abort upload", "multipart_days", "main")
    assert item.subject.rpartition(" ")[::2] == ("processed/a b/c", "upload-1"), "as it is taken apart again"
    released = only(places=(PlaceFacts("main", released=(3, 2048)), PlaceFacts("cold", released=(0, 0))))
    assert released.because == "3 objects, 2 KiB, given up before and not yet removed"
    assert (released.rule, released.place, released.objects) == ("released", "main", 0), "approved when it was released"
    folder = Leftover(Path("/tmp/transcode-flow-0/x"), SINCE, 77)
    assert only(leftovers=(folder,)) == Item(
        "remove folder", "scratch_days", "/tmp/transcode-flow-0/x", "unchanged since 2026-04-20 12:00", size_bytes=77
    )


def test_a_place_each() -> None:
    aged = Aged("temp_days", Listed("temp/a/blob", 10, "etag", SINCE), NOW)
    places = (PlaceFacts("main", aged=(aged,), released=(1, 1)), PlaceFacts("cold", aged=(aged,), released=(2, 2)))
    found = plan_cleanup(CleanupFacts(NOW, places=places)).items
    assert [(item.place, item.rule) for item in found] == [
        ("main", "temp_days"), ("main", "released"), ("cold", "temp_days"), ("cold", "released"),
    ]  # fmt: skip


JOBS = st.lists(
    st.builds(
        DueJob, id=st.uuids(), customer_id=st.integers(1, 3), customer=st.sampled_from(["acme", "other"]),
        since=st.datetimes(timezones=st.just(UTC)), hold=st.sampled_from([None, "case 7", ""]), detail=st.text(),
        objects=st.integers(0, 100), stored_bytes=st.integers(0, 10**12),
    )
)  # fmt: skip


@given(JOBS, JOBS, JOBS, JOBS)
def test_every_job_is_planned_or_left_alone(
    failed: list[DueJob], trashed: list[DueJob], stuck: list[DueJob], abandoned: list[DueJob]
) -> None:
    facts = CleanupFacts(NOW, tuple(failed), tuple(trashed), tuple(stuck), tuple(abandoned))
    plan = plan_cleanup(facts)
    everything = [*failed, *trashed, *stuck, *abandoned]
    assert Counter(item.subject for item in (*plan.items, *plan.skipped)) == Counter(str(one.id) for one in everything)
    held = [one for one in (*failed, *trashed, *stuck) if one.hold is not None]
    assert Counter(item.subject for item in plan.skipped) == Counter(str(one.id) for one in held)
    free = [*abandoned, *(one for one in (*failed, *trashed, *stuck) if one.hold is None)]
    assert plan.objects == sum(one.objects for one in free)
    assert plan.size_bytes == sum(one.stored_bytes for one in free)
    assert plan_cleanup(facts) == plan, "the same facts, the same plan"


def test_what_a_job_was_still_writing_goes_with_it_and_is_counted_once() -> None:
    stuck, alone, held = (DueJob(uuid4(), 1, "acme", NOW, hold, "", 1, 7) for hold in (None, None, "case 7"))
    plan = plan_cleanup(CleanupFacts(NOW, stuck=(stuck, held), abandoned=(stuck, alone, held)))
    assert [(item.action, item.subject) for item in plan.items] == [
        ("fail job", str(stuck.id)), ("give up writing", str(alone.id)), ("give up writing", str(held.id))
    ]  # fmt: skip
    assert (plan.objects, plan.size_bytes) == (3, 21)


@dataclass
class MadeUp:
    """A job in a model of the catalog: what a cleanup reads of it, and nothing else."""

    id: UUID
    status: str
    updated_at: datetime
    purge_after: datetime | None = None
    held_until: datetime | None = None
    purged_at: datetime | None = None

    @property
    def purge_on(self) -> datetime:
        """The first moment at which its files may go, as things are now."""
        due = self.purge_after or self.updated_at + timedelta(days=POLICY.failed_days)
        return max(due, self.held_until or due)

    def as_due(self, since: datetime, now: datetime) -> DueJob:
        hold = "case 7" if self.held_until is not None and now < self.held_until else None
        return DueJob(self.id, 1, "acme", since, hold, "", 1, 100)


def due_tonight(jobs: list[MadeUp], now: datetime) -> CleanupFacts:
    """What the catalog's queries find, in Python."""
    there = [one for one in jobs if one.status != "cleaned_up"]
    return CleanupFacts(
        now,
        failed=tuple(
            one.as_due(one.updated_at, now) for one in there
            if one.status == "failed" and one.purge_after is None
            and one.updated_at + timedelta(days=POLICY.failed_days) <= now
        ),
        trashed=tuple(
            one.as_due(one.purge_after, now) for one in there if one.purge_after is not None and one.purge_after <= now
        ),
        stuck=tuple(
            one.as_due(one.updated_at, now) for one in there
            if one.status == "transcoding" and one.purge_after is None
            and one.updated_at + timedelta(hours=POLICY.stuck_hours) <= now
        ),
    )  # fmt: skip


def test_sixty_nights() -> None:
    """Failed, trashed, stuck and held jobs: each is purged exactly once, on the first night after its date."""
    dice = random.Random(7)
    start = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
    jobs: list[MadeUp] = []
    for number in range(300):
        at = start + timedelta(minutes=dice.randrange(40 * 24 * 60))
        job = MadeUp(UUID(int=number), dice.choice(["failed", "completed", "transcoding", "trashed", "both"]), at)
        if job.status in ("trashed", "both"):
            # One that failed and was then deleted is kept as long as any other in the trash.
            job.status = "completed" if job.status == "trashed" else "failed"
            job.purge_after = at + timedelta(days=POLICY.trash_days)
        if dice.random() < 0.2:
            job.held_until = at + timedelta(days=dice.randrange(20))
        jobs.append(job)
    by_id = {str(one.id): one for one in jobs}
    purges: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for night in range(60):
        now = start + timedelta(days=night)
        seen = [one for one in jobs if one.updated_at <= now]
        plan = plan_cleanup(due_tonight(seen, now))
        assert len({item.subject for item in plan.items}) == len(plan.items), "one rule a job and night"
        for item in plan.items:
            job = by_id[item.subject]
            if item.action == "fail job":
                assert job.updated_at + timedelta(hours=POLICY.stuck_hours) <= now
                failures[item.subject] += 1
                job.status, job.updated_at = "failed", now
            else:
                assert item.action == "purge job"
                assert job.purge_on <= now, "never before its date"
                assert now - job.purge_on < timedelta(days=1), "and not a night late"
                assert item.rule == ("trash_days" if job.purge_after else "failed_days")
                purges[item.subject] += 1
                job.status, job.purged_at = "cleaned_up", now
        for item in plan.skipped:
            held_until = by_id[item.subject].held_until
            assert held_until is not None
            assert now < held_until
    kept = [one for one in jobs if one.status == "completed"]
    assert set(purges.values()) == set(failures.values()) == {1}
    assert len(purges) + len(kept) == len(jobs)
    assert all(one.purge_after is None and str(one.id) not in failures for one in kept)
    assert len(purges) > 200
    assert len(failures) > 40
