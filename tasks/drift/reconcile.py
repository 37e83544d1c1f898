"""Catalog against store: drift is found range by range, explained by customer in bytes, and healed where provable.

A listing is never believed alone: what it does not show is asked for by HEAD, and what no row names is looked up again
at the moment it would be removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase, drift, due
from blocks.catalog.clock import catalog_now
from blocks.catalog.content import content_of
from blocks.catalog.drift import ExpectedObject
from blocks.catalog.locations import list_places
from blocks.catalog.restored import orphans_since
from blocks.errors import InvalidInputError, NotFoundError, StoreUnavailableError
from blocks.object_store.listing import Listed, list_range
from blocks.object_store.transfer import fingerprint, head
from blocks.policies import IntegrityPolicy
from blocks.units import format_bytes, shown
from tasks.drift.compare import JobRange, compare, split_jobs
from tasks.drift.judge import Finding, RangeDrift, heals
from tasks.layout import OBJECTS, job_of
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation
from tasks.sweeping import store_clock

MOST_FINDINGS = 2_000
"""Findings of one kind in one range that are acted on in one run; all are counted."""
MOST_KEPT = 20 * MOST_FINDINGS
"""Orphans of one range among which those are chosen that are looked at."""
SAMPLE = 100


def plan_ranges(catalog: CatalogDatabase, location: OpenLocation, policy: IntegrityPolicy) -> tuple[JobRange, ...]:
    """The parts that a place is looked through in, many enough for memory to stay bounded."""
    rows = catalog.transaction(lambda connection: drift.count_rows(connection, location.place.shelf))
    return split_jobs(rows, at_least=policy.parallel_listings)


def look_through(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IntegrityPolicy,
    part: JobRange,
    *,
    grace: timedelta,
) -> RangeDrift:
    """List one range, hold it against its rows, and confirm each disagreement.

    Raises:
        StoreUnavailableError: the listing left out objects that exist; nothing in it can be believed.
    """
    rows = catalog.transaction(
        lambda connection: drift.expected_in_range(connection, location.place.shelf, part.first, part.last)
    )
    oldest = orphans_before(catalog, location, grace)
    # Where a bucket is one location only, nobody asked for classes.
    classes = catalog.transaction(lambda connection: _classes(connection, location)) if several(location) else {}
    listing = (
        item
        for root in OBJECTS
        for item in list_range(
            location.store, root, after=part.bounds(root)[0], until=part.bounds(root)[1], classes=bool(classes)
        )
    )
    compared = compare(listing, rows, most_orphans=MOST_KEPT, classes=classes)
    missing = _confirm_missing(location, policy, compared.missing)
    hurt = {job_of(row.key) for row in (*missing, *(row for row, _ in compared.mismatched))}
    unnamed = _still_unnamed(catalog, compared.orphans)
    orphans = _most_wanted(catalog, unnamed, hurt, oldest)
    findings = [_about(row, "missing", "not in the store", "missing") for row in missing]
    findings += [_about(row, "returned", "was missing, and is there again", "returned") for row in compared.returned]
    findings += [
        _about(row, "mismatch", _difference(row, item), "size" if item.size_bytes != row.stored_bytes else "etag")
        for row, item in compared.mismatched
    ]
    most = 4 * MOST_FINDINGS
    whole = len(findings) <= most
    # Every orphan is looked at before it counts as one: it may be the only copy of what a row lost.
    findings += _orphan_findings(catalog, location, policy, orphans, oldest)
    # Last what nothing can be done about, and what is there again next time: it would keep the others from their turn.
    moved = [_moved_by_server(row, item, classes) for row, item in compared.reclassed]
    findings += sorted(moved, key=lambda one: one.what == "unknown class")
    more = compared.more_orphans + len(unnamed) - len(orphans) + max(0, len(findings) - most)
    return RangeDrift(compared.listed, compared.expected, tuple(findings[:most]), more, whole, len(missing))


def orphans_before(catalog: CatalogDatabase, location: OpenLocation, grace: timedelta) -> datetime:
    """The time, by the store's clock, that an orphan's bytes must be older than.

    After a confirmed restore everybody has the whole grace to look at what was stored after the backup, and none of it
    is past the grace, however long ago it was stored.

    Raises:
        RefusedError: PostgreSQL's clock and the store's are far apart.
    """
    there = store_clock(catalog, location)
    confirmed_at, here = catalog.transaction(lambda connection: (orphans_since(connection), catalog_now(connection)))
    waiting = confirmed_at is not None and here < confirmed_at + grace
    return datetime.min.replace(tzinfo=UTC) if waiting else there - grace


def several(location: OpenLocation) -> bool:
    """Whether its bucket and prefix are more than one location, told apart by storage class."""
    return len(location.place.shelf) > 1


def _classes(connection: Connection, location: OpenLocation) -> dict[str, int]:
    """The location of each storage class of a shelf; the server's own default is empty."""
    return {
        "" if place.storage_class == "STANDARD" else place.storage_class: place.id
        for place in list_places(connection)
        if place.id in location.place.shelf
    }


def _moved_by_server(row: ExpectedObject, item: Listed, classes: Mapping[str, int]) -> Finding:
    shown = item.storage_class or "STANDARD"
    if (location_id := classes.get(item.storage_class or "")) is None:
        because = f"lies in class {shown}, for which no location is declared in this bucket"
        return _about(row, "unknown class", because, "transition_days")
    found = _about(row, "transition", f"the server moved it to class {shown}", "transition_days")
    return replace(found, location_id=location_id)


def _confirm_missing(
    location: OpenLocation, policy: IntegrityPolicy, rows: Sequence[ExpectedObject]
) -> list[ExpectedObject]:
    """Those that are really gone. One that is there says that the listing was not whole."""
    missing: list[ExpectedObject] = []
    # A few first: a half listing is seen by those, before thousands are asked for.
    for some in (rows[:SAMPLE], rows[SAMPLE:]):
        seen = in_parallel(lambda row: fingerprint(location.store, row.key), some, threads=policy.parallel_transfers)
        there = [row for row, now in zip(some, seen, strict=True) if now is not None]
        if there:
            raise StoreUnavailableError(
                f"the listing of store {location.place.name} left out at least {len(there)} objects that exist, "
                f"such as {there[0].key}: nothing is changed; run it again when the server is well"
            )
        missing += some
    return missing


def _still_unnamed(catalog: CatalogDatabase, listed: Sequence[Listed]) -> list[Listed]:
    """Objects that no row and no intent names by now: what was being written while the listing ran is named."""

    def read(connection: Connection, keys: list[str]) -> set[str]:
        return drift.named_keys(connection, keys)

    unnamed: list[Listed] = []
    for start in range(0, len(listed), 1000):
        batch = listed[start : start + 1000]
        named = catalog.transaction(lambda connection, keys=[one.key for one in batch]: read(connection, keys))  # type: ignore[misc]  # bound here
        unnamed += [one for one in batch if one.key not in named]
    return unnamed


def _most_wanted(
    catalog: CatalogDatabase, orphans: Sequence[Listed], hurt: set[UUID | None], oldest: datetime
) -> list[Listed]:
    """Those that are looked at: of jobs that lost something first, then of jobs that the catalog knows.

    In the order of keys, thousands that are newer than a restored catalog could keep the few that heal from their turn,
    and those that stay, as they are young or their job is on hold, all others.
    """
    if len(orphans) <= MOST_FINDINGS:
        return list(orphans)
    jobs = list({job for job in (job_of(one.key) for one in orphans) if job is not None})
    known = catalog.transaction(lambda connection: drift.owner_ids(connection, jobs))
    lost = catalog.transaction(lambda connection: drift.unsound_jobs(connection, jobs)) | hurt
    held = catalog.transaction(lambda connection: due.held_jobs(connection, jobs))

    def turn(one: Listed) -> int:
        job = job_of(one.key)
        if job in lost:
            return 0
        if job in held or one.last_modified > oldest:
            return 3
        return 1 if job in known else 2

    return sorted(orphans, key=turn)[:MOST_FINDINGS]


def _orphan_findings(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IntegrityPolicy,
    orphans: Sequence[Listed],
    oldest: datetime,
) -> list[Finding]:
    looks = in_parallel(lambda one: look_at(location, one.key), orphans, threads=policy.parallel_transfers)
    rows = catalog.transaction(
        lambda connection: content_of(connection, [look.object_id for look in looks if look and look.object_id])
    )
    jobs = [job for job in (job_of(one.key) for one in orphans) if job is not None]
    owners = catalog.transaction(lambda connection: drift.owner_ids(connection, jobs))
    held = catalog.transaction(lambda connection: due.held_jobs(connection, jobs))
    findings = []
    for one, look in zip(orphans, looks, strict=True):
        row = rows.get(look.object_id) if look is not None and look.object_id is not None else None
        what, rule = "orphan", "orphan_grace_hours"
        because = f"no row names it; from {one.last_modified:%Y-%m-%d %H:%M}"
        if row is not None and row.unsound:
            what, rule, because = heals(row.id)
        elif row is not None and row.state != "live":
            what, because = "spare", f"carries the id of row {row.id}, which is {row.state}: it may be its only copy"
        elif one.last_modified > oldest:
            what = "young orphan"
        customer_id = owners.get(job_of(one.key) or UUID(int=0), 0)
        object_id, place = (row.id, row.location_id) if row is not None else (None, 0)
        findings.append(
            Finding(
                what, one.key, one.size_bytes, because, customer_id, object_id, 0, rule, place, job_of(one.key) in held
            )
        )  # fmt: skip
    return findings


@dataclass(frozen=True, slots=True)
class Look:
    """An object as a HEAD tells it; `object_id` is the row that it was written for."""

    last_modified: datetime
    object_id: UUID | None


def look_at(location: OpenLocation, key: str) -> Look | None:
    """Ask for one object with its metadata; None where there is none."""
    try:
        found = head(location.store, key)
    except NotFoundError:
        return None
    try:
        return Look(found.last_modified, UUID(found.metadata.get("object-id", "")))
    except ValueError:
        return Look(found.last_modified, None)


def _about(row: ExpectedObject, what: str, because: str, rule: str) -> Finding:
    return Finding(what, row.key, row.stored_bytes, because, row.customer_id, row.id, row.generation, rule)


def _difference(row: ExpectedObject, item: Listed) -> str:
    if item.size_bytes != row.stored_bytes:
        return f"has {format_bytes(item.size_bytes)}, the catalog says {format_bytes(row.stored_bytes)}"
    return f"has the ETag {item.etag}, the catalog says {row.etag}"


def check_grace(hours: int | None, policy: IntegrityPolicy) -> timedelta:
    """How long an orphan stays: the policy's hours unless given, and never none at all."""
    if hours is not None and not 1 <= hours <= 24 * 365:
        raise InvalidInputError(f"grace_hours={shown(hours)} is outside the limits: 1 to {24 * 365}")
    return timedelta(hours=policy.orphan_grace_hours if hours is None else hours)
