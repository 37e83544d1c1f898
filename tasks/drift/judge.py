"""What was found in all places, judged together, since what one lacks may lie in another: a plan, and words for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from blocks.catalog import CatalogDatabase, counters, due
from blocks.catalog.counters import CounterDrift
from blocks.catalog.restored import Freeze, read_freeze
from blocks.errors import RefusedError
from tasks.plans import Item, Plan
from tasks.stores import OpenLocation

ORPHANS = ("orphan", "young orphan")


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
    held: bool = False
    """Of an orphan: whether the job that its key names is on hold."""


@dataclass(frozen=True)
class RangeDrift:
    """What one range came to; `expected` rows must have bytes. It travels between processes: values only."""

    listed: int
    expected: int
    findings: tuple[Finding, ...] = ()
    uncounted: int = 0
    whole: bool = True
    """Whether all that it lacks is among the findings."""
    missing: int = 0
    """Of the expected rows, how many have no bytes here; counted where findings are too many, too."""


@dataclass(frozen=True)
class Drift:
    """All that was found in one place, and between counters and rows."""

    place: str
    listed: int
    expected: int
    findings: tuple[Finding, ...]
    counters: tuple[CounterDrift, ...]
    uncounted: int = 0
    missing: int = 0
    refused: str = ""
    """Why nothing that this place lacks is believed; empty where it is."""

    @property
    def suspicious(self) -> str:
        """Why somebody must look at it first: a loss of all there is may be another folder, or somebody's mistake."""
        if self.refused or not self.expected or self.missing < self.expected:
            return ""
        return f"store {self.place} holds none of the {self.expected} objects that the catalog expects there"


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
        seen = (_as_held(_as_newer(_across(one, lost, places), frozen)) for part in parts for one in part.findings)
        found.append(
            Drift(
                place=location.place.name,
                listed=listed,
                expected=expected,
                # What lies elsewhere is really not here any more, whatever is wrong with the rest.
                findings=tuple(_unbelieved(one) if refused and one.object_id not in healed else one for one in seen),
                counters=off,
                uncounted=sum(part.uncounted for part in parts),
                missing=sum(part.missing for part in parts),
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
        what, rule, because = heals(finding.object_id)
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


def _as_held(finding: Finding) -> Finding:
    """A hold keeps all that lies in a job's folder, whether a row names it or not."""
    if not finding.held or finding.what != "orphan":
        return finding
    return replace(finding, what="held", rule="hold", because=f"its job is on hold; {finding.because}")


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
    suspicious = tuple(drifted.suspicious for drifted in found if drifted.suspicious)
    return Plan("reconcile-quota", tuple(items), tuple(skipped), suspicious)


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


def heals(row: UUID | None) -> tuple[str, str, str]:
    """What an orphan is whose row lost its bytes: the kind of finding, its rule, and why."""
    return "healing", "orphan", f"carries the id of row {row}, whose bytes are gone or wrong"


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
