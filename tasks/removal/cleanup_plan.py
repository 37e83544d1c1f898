"""What a cleanup will do: pure, from what was found due and the policy. Each rule is named by its policy's field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from blocks.catalog.due import DueJob, DueReservations, DueUpload
from blocks.catalog.relocations import Unfinished
from blocks.object_store.multipart import Incomplete
from blocks.units import format_bytes
from tasks.layout import PLAYLISTS_MADE
from tasks.plans import Item, Plan
from tasks.removal.aging import Aged
from tasks.scratch import Leftover


@dataclass(frozen=True)
class PlaceFacts:
    """What is overdue in one store; `released` are objects and bytes that the catalog gave up already."""

    place: str
    aged: tuple[Aged, ...] = ()
    multiparts: tuple[Incomplete, ...] = ()
    released: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class CleanupFacts:
    """Everything that is due at `now`."""

    now: datetime
    failed: tuple[DueJob, ...] = ()
    trashed: tuple[DueJob, ...] = ()
    stuck: tuple[DueJob, ...] = ()
    abandoned: tuple[DueJob, ...] = ()
    reservations: tuple[DueReservations, ...] = ()
    uploads: tuple[DueUpload, ...] = ()
    intents: tuple[Unfinished, ...] = ()
    places: tuple[PlaceFacts, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    erasures: tuple[DueJob, ...] = ()


def plan_cleanup(facts: CleanupFacts) -> Plan:
    """One item for each job, form, intent, object and folder that a rule reaches; jobs on hold are left alone."""
    items: list[Item] = []
    held: list[Item] = []
    # What such a job was still writing goes along.
    ending = (*facts.stuck, *facts.trashed, *facts.failed, *facts.erasures)
    going = {job.id for job in ending if job.hold is None}
    abandoned = [job for job in facts.abandoned if job.id not in going]
    for action, rule, what, jobs in (
        ("fail job", "stuck_hours", "no progress", facts.stuck),
        ("give up writing", "abandoned_hours", "writing", abandoned),
        ("purge job", "trash_days", "kept in the trash until", facts.trashed),
        ("purge job", "failed_days", "failed", facts.failed),
        ("erase job", "purge_now", "an erasure was begun and not finished", facts.erasures),
    ):
        for job in jobs:
            item = _job_item(action, rule, what, job)
            (held if job.hold is not None and action != "give up writing" else items).append(item)
    items += [
        Item(
            "release quota", "reservations", f"reservations of {one.customer}",
            f"{len(one.reservations)} lapsed, {format_bytes(one.reserved_bytes)}", one.customer, owner=one.customer_id,
        )
        for one in facts.reservations
    ]  # fmt: skip
    items += [
        Item(
            "close form", "temp_days", str(one.id), f"ended {_day(one.expires_at)}", one.customer, owner=one.customer_id
        )
        for one in facts.uploads
    ]
    items += _intent_items(facts.intents)
    for place in facts.places:
        items += _place_items(place)
    items += [
        Item(
            "remove folder", "scratch_days", str(one.path), f"unchanged since {_day(one.changed_at)}",
            size_bytes=one.size_bytes,
        )
        for one in facts.leftovers
    ]  # fmt: skip
    return Plan("cleanup", tuple(items), tuple(held))


_INTENTS = {
    "open": "begun and never finished",
    "failed": "given up, their bytes may still be there",
    "swapped": "moved, and the last URL for the old bytes has ended",
}


def intent_subject(state: str, location_id: int) -> str:
    """What the item about these intents is called."""
    return f"{state} in location {location_id}"


def _intent_items(intents: Sequence[Unfinished]) -> list[Item]:
    """One item for each place and kind: a moved bucket leaves a million, which were planned when they were moved."""
    sums: dict[tuple[str, int], list[int]] = {}
    for one in intents:
        total = sums.setdefault((one.state, one.location_id), [0, 0])
        total[0] += 1
        total[1] += one.stored_bytes
    return [
        Item(
            "finish intents", "abandoned_hours" if state != "swapped" else "old_bytes_minutes",
            intent_subject(state, location_id), f"{count} objects, {format_bytes(size)}: {_INTENTS[state]}",
        )
        for (state, location_id), (count, size) in sorted(sums.items())
    ]  # fmt: skip


def _job_item(action: str, rule: str, what: str, job: DueJob) -> Item:
    because = f"{what} since {_day(job.since)}" if rule != "trash_days" else f"{what} {_day(job.since)}"
    if job.detail and rule in ("failed_days", "stuck_hours"):
        because += f" ({job.detail})"
    if job.hold is not None:
        because = f"on hold: {job.hold}; {because}"
    # A job that only fails keeps its files for failed_days; what it was still writing goes.
    return Item(action, rule, str(job.id), because, job.customer, job.objects, job.stored_bytes, owner=job.customer_id)


def _place_items(facts: PlaceFacts) -> list[Item]:
    items = [_aged_item(one, facts.place) for one in facts.aged]
    items += [
        Item("abort upload", "multipart_days", f"{one.key} {one.upload_id}", f"begun {_day(one.initiated_at)}",
             place=facts.place)
        for one in facts.multiparts
    ]  # fmt: skip
    objects, size = facts.released
    if objects:
        # Given up by a run before, within its caps: they are finished, not asked about again.
        because = f"{objects} objects, {format_bytes(size)}, given up before and not yet removed"
        items.append(Item("remove bytes", "released", f"released in {facts.place}", because, place=facts.place))
    return items


def _aged_item(one: Aged, place: str) -> Item:
    because = f"from {_day(one.listed.last_modified)}"
    # A busy day hands out more of them than a cap allows, and the next URL makes a new one.
    counted = not one.listed.key.startswith(PLAYLISTS_MADE)
    return Item(
        "remove object", one.rule, one.listed.key, because, "", int(counted), one.listed.size_bytes if counted else 0,
        place=place,
    )  # fmt: skip


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
