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

from blocks.catalog import CatalogDatabase, counters, drift, due
from blocks.catalog.content import content_of
from blocks.catalog.counters import CounterDrift
from blocks.catalog.drift import ExpectedObject
from blocks.catalog.locations import list_places
from blocks.catalog.restored import Freeze, orphans_since, read_freeze
from blocks.errors import InvalidInputError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.object_store.listing import Listed, list_range
from blocks.object_store.transfer import fingerprint, head
from blocks.policies import IntegrityPolicy
from blocks.units import format_bytes
from tasks.checks import shown
from tasks.layout import job_of
from tasks.parallel import in_parallel
from tasks.plans import Item, Plan
from tasks.reconcile_compare import ROOTS, JobRange, compare, split_jobs
from tasks.stores import OpenLocation
from tasks.sweeping import store_clock

MOST_FINDINGS = 2_000
"""Findings of one kind in one range that are acted on in one run; all are counted."""
MOST_KEPT = 20 * MOST_FINDINGS
"""Orphans of one range among which those are chosen that are looked at."""
ORPHANS = ("orphan", "young orphan")
SAMPLE = 100


@dataclass(frozen=True)
class Finding:
    """One disagreement: what it is, about which key and row, and how many bytes."""

    what: str
    key: str
    size_bytes: int
    because: str
    customer_id: int = 0
    object_id: UUID | None = None
    generation: int = 0
    rule: str = ""
    location_id: int = 0
    """Where the server moved it; of an orphan, where the row lies whose id it carries."""


@dataclass(frozen=True)
class RangeDrift:
    """What one range came to; `expected` rows must have bytes. It travels between processes: values only."""

    listed: int
    expected: int
    findings: tuple[Finding, ...] = ()
    uncounted: int = 0
    whole: bool = True
    """Whether all that it lacks is among the findings."""


@dataclass(frozen=True)
class Drift:
    """All that was found in one place, and between counters and rows."""

    place: str
    listed: int
    expected: int
    findings: tuple[Finding, ...]
    counters: tuple[CounterDrift, ...]
    uncounted: int = 0
    refused: str = ""
    """Why nothing that this place lacks is believed; empty where it is."""


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
        for root in ROOTS
        for item in list_range(
            location.store, root, after=part.bounds(root)[0], until=part.bounds(root)[1], classes=bool(classes)
        )
    )
    compared = compare(listing, rows, most_orphans=MOST_KEPT, classes=classes)
    missing = _confirm_missing(location, policy, compared.missing)
    hurt = {job_of(row.key) for row in (*missing, *(row for row, _ in compared.mismatched))}
    unnamed = _still_unnamed(catalog, compared.orphans)
    orphans = _most_wanted(catalog, unnamed, hurt)
    findings = [_about(row, "missing", "not in the store", "missing") for row in missing]
    findings += [_about(row, "returned", "was missing, and is there again", "returned") for row in compared.returned]
    findings += [
        _about(row, "mismatch", _difference(row, item), "size" if item.size_bytes != row.stored_bytes else "etag")
        for row, item in compared.mismatched
    ]
    findings += [_moved_by_server(row, item, classes) for row, item in compared.reclassed]
    # Every orphan is looked at before it counts as one: it may be the only copy of what a row lost.
    findings += _orphan_findings(catalog, location, policy, orphans, oldest)
    most = 4 * MOST_FINDINGS
    more = compared.more_orphans + len(unnamed) - len(orphans) + max(0, len(findings) - most)
    return RangeDrift(compared.listed, compared.expected, tuple(findings[:most]), more, len(findings) <= most)


def orphans_before(catalog: CatalogDatabase, location: OpenLocation, grace: timedelta) -> datetime:
    """The time, by the store's clock, that an orphan's bytes must be older than.

    After a confirmed restore everybody has the whole grace to look at what was stored after the backup, and none of it
    is past the grace, however long ago it was stored.

    Raises:
        RefusedError: PostgreSQL's clock and the store's are far apart.
    """
    there = store_clock(catalog, location)
    confirmed_at, here = catalog.transaction(lambda connection: (orphans_since(connection), due.now(connection)))
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


def put_together(catalog: CatalogDatabase, looked: Sequence[tuple[OpenLocation, Sequence[RangeDrift]]]) -> list[Drift]:
    """All ranges of all places that were looked through, and the counters: what one lacks may lie in another.

    Raises:
        RefusedError: no store lists anything that the catalog expects, or the catalog is empty and a store is not: one
            of them is the wrong one. Where only some places list nothing, those are `refused`, and the others go on.
    """
    if not catalog.transaction(lambda connection: due.count_up_to(connection, 1)):
        for location, parts in looked:
            if listed := sum(part.listed for part in parts):
                raise RefusedError(
                    f"the catalog knows no object at all, and store {location.place.name} holds {listed}: nothing is "
                    "changed; is this the right catalog? Restore it first if it was lost"
                )
    findings = [one for _, parts in looked for part in parts for one in part.findings]
    lost = {one.object_id for one in findings if one.what in ("missing", "mismatch")}
    healed = {one.object_id for one in findings if one.what in ORPHANS and one.object_id in lost}
    # Of a place that lacks more than is told, nobody knows which of its rows are sound.
    places = {
        number for location, parts in looked if all(part.whole for part in parts) for number in location.place.shelf
    }
    frozen = catalog.transaction(read_freeze)
    off = tuple(catalog.transaction(counters.counter_drift))
    found = []
    for location, parts in looked:
        listed, expected = sum(part.listed for part in parts), sum(part.expected for part in parts)
        refused = "" if listed or not expected else (
            f"store {location.place.name} lists nothing, and the catalog expects {expected} objects there: nothing is "
            "changed; look at the bucket, or restore it"
        )  # fmt: skip
        seen = (_as_newer(_across(one, lost, places), frozen) for part in parts for one in part.findings)
        found.append(
            Drift(
                place=location.place.name,
                listed=listed,
                expected=expected,
                # What lies elsewhere is really not here any more, whatever is wrong with the rest.
                findings=tuple(_unbelieved(one) if refused and one.object_id not in healed else one for one in seen),
                counters=off,
                uncounted=sum(part.uncounted for part in parts),
                refused=refused,
            )
        )
    if found and all(one.refused for one in found):
        raise RefusedError("; ".join(one.refused for one in found))
    return found


def _across(finding: Finding, lost: set[UUID | None], places: set[int]) -> Finding:
    """An orphan in the light of all places: the row whose id it carries may have lost its bytes in another one."""
    if finding.what not in ORPHANS or finding.object_id is None:
        return finding
    if finding.object_id in lost:
        what, rule, because = _heals(finding.object_id)
        return replace(finding, what=what, rule=rule, because=because)
    if finding.location_id not in places:
        because = f"carries the id of row {finding.object_id}, in a store that this run has not looked through whole"
        return replace(finding, what="spare", because=because)
    return finding


def _unbelieved(finding: Finding) -> Finding:
    return replace(finding, what="unbelieved") if finding.what == "missing" else finding


def _as_newer(finding: Finding, frozen: Freeze | None) -> Finding:
    """After a restore bytes without a row may be newer than the catalog: told apart, and nobody's to remove."""
    if frozen is None or finding.what not in ORPHANS:
        return finding
    because = f"{finding.because}; it may be newer than backup {frozen.restored_from}, which the catalog comes from"
    return replace(finding, what="newer", rule="restored", because=because)


def plan_repairs(found: Sequence[Drift], labels: dict[int, str]) -> Plan:
    """What is provable is repaired, an orphan past its grace is removed, everything else is reported. Pure."""
    items: list[Item] = []
    skipped: list[Item] = []
    for drifted in found:
        if drifted.refused:
            items.append(Item("believe its listing", "refused", drifted.place, drifted.refused, place=drifted.place))
        for one in drifted.findings:
            action = _ACTIONS.get(one.what)
            item = Item(
                action or "leave", one.rule or one.what, one.key, one.because, labels.get(one.customer_id, ""),
                # Marking an object missing takes it from its customer as well: a broken bucket asks first.
                int(one.what in COUNTED), one.size_bytes if one.what in COUNTED else 0,
                owner=one.customer_id, place=drifted.place,
            )  # fmt: skip
            (items if action else skipped).append(item)
    off = {one.customer_id: one for drifted in found for one in drifted.counters}
    items += [
        Item("repair counters", "counters", one.customer, explain_counters(one), one.customer, owner=one.customer_id)
        for one in off.values()
    ]
    if more := sum(drifted.uncounted for drifted in found):
        skipped.append(Item("leave", "too many", f"{more} more", "one run looks after the first; run it again"))
    return Plan("reconcile-quota", tuple(items), tuple(skipped))


COUNTED = ("orphan", "missing")
_ACTIONS = {
    "missing": "mark missing",
    "returned": "look again",
    "mismatch": "look again",
    "healing": "heal row",
    "transition": "follow class",
    "orphan": "remove orphan",
}


def explain_counters(one: CounterDrift) -> str:
    """Both counters of a key against the sums of its rows, in bytes."""
    parts = []
    if one.used_bytes != one.used_sum:
        off = one.used_bytes - one.used_sum
        parts.append(f"used {one.used_bytes} is counted, its objects are {one.used_sum} ({off:+} bytes)")
    if one.reserved_bytes != one.reserved_sum:
        off = one.reserved_bytes - one.reserved_sum
        parts.append(f"reserved {one.reserved_bytes} is counted, reservations are {one.reserved_sum} ({off:+} bytes)")
    return "; ".join(parts)


def explain_drift(found: Sequence[Drift], labels: dict[int, str]) -> list[dict[str, str]]:
    """One line a customer: how many bytes each kind of drift comes to."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for drifted in found:
        for one in drifted.findings:
            line = sums.setdefault((labels.get(one.customer_id, "nobody's"), drifted.place), {})
            line[one.what] = line.get(one.what, 0) + one.size_bytes
    for counter in {one.customer_id: one for drifted in found for one in drifted.counters}.values():
        sums.setdefault((counter.customer, "counters"), {})["counter"] = counter.used_bytes - counter.used_sum
        sums[counter.customer, "counters"]["reserved"] = counter.reserved_bytes - counter.reserved_sum
    return [
        {"customer": customer, "where": place} | {what: str(size) for what, size in sorted(line.items())}
        for (customer, place), line in sorted(sums.items())
    ]


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


def _most_wanted(catalog: CatalogDatabase, orphans: Sequence[Listed], hurt: set[UUID | None]) -> list[Listed]:
    """Those that are looked at: of jobs that lost something first, then of jobs that the catalog knows.

    In the order of keys, thousands that are newer than a restored catalog could keep the few that heal from their turn.
    """
    if len(orphans) <= MOST_FINDINGS:
        return list(orphans)
    jobs = list({job for job in (job_of(one.key) for one in orphans) if job is not None})
    known = catalog.transaction(lambda connection: drift.owner_ids(connection, jobs))
    lost = catalog.transaction(lambda connection: drift.unsound_jobs(connection, jobs)) | hurt

    def turn(one: Listed) -> int:
        job = job_of(one.key)
        return 0 if job in lost else 1 if job in known else 2

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
    findings = []
    for one, look in zip(orphans, looks, strict=True):
        row = rows.get(look.object_id) if look is not None and look.object_id is not None else None
        what, rule = "orphan", "orphan_grace_hours"
        because = f"no row names it; from {one.last_modified:%Y-%m-%d %H:%M}"
        if row is not None and row.unsound:
            what, rule, because = _heals(row.id)
        elif row is not None and row.state != "live":
            what, because = "spare", f"carries the id of row {row.id}, which is {row.state}: it may be its only copy"
        elif one.last_modified > oldest:
            what = "young orphan"
        customer_id = owners.get(job_of(one.key) or UUID(int=0), 0)
        object_id, place = (row.id, row.location_id) if row is not None else (None, 0)
        findings.append(Finding(what, one.key, one.size_bytes, because, customer_id, object_id, 0, rule, place))
    return findings


def _heals(row: UUID | None) -> tuple[str, str, str]:
    return "healing", "orphan", f"carries the id of row {row}, whose bytes are gone or wrong"


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


def summary(found: Sequence[Drift]) -> str:
    """One line for a person."""
    counts: dict[str, int] = {}
    for drifted in found:
        for one in drifted.findings:
            counts[one.what] = counts.get(one.what, 0) + 1
    if off := {one.customer_id for drifted in found for one in drifted.counters}:
        counts["counters off"] = len(off)
    listed, expected = sum(one.listed for one in found), sum(one.expected for one in found)
    shown = ", ".join(f"{number} {what}" for what, number in sorted(counts.items())) or "no drift"
    return f"{listed} objects listed, {expected} expected: {shown}"
