"""What runs found, summed to what is written down of it: drift by kind, and rules that lag behind. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blocks.catalog.findings import Found
from tasks.drift.judge import Drift
from tasks.drift.verify import VerifyReport
from tasks.removal.lifecycle_reach import RuleReach

COUNTERS = "counters off"


def of_drift(drifted: Sequence[Drift]) -> list[Found]:
    """Objects and bytes of each kind of drift in each place; counters that are off, in the first of them."""
    sums: dict[tuple[str, str], list[int]] = {}
    for place in drifted:
        for one in place.findings:
            line = sums.setdefault((place.place, one.what), [0, 0])
            line[0] += 1
            line[1] += one.size_bytes
    found = [Found(place, what, number, size) for (place, what), (number, size) in sums.items()]
    off = {one.customer_id: abs(one.used_bytes - one.used_sum) for place in drifted for one in place.counters}
    return [*found, Found(drifted[0].place, COUNTERS, len(off), sum(off.values()))] if off else found


def of_lifecycle(reach: Mapping[str, Sequence[RuleReach]]) -> list[Found]:
    """Objects that a rule should have reached a day ago or more."""
    return [
        Found(place, f"{one.rule.name} overdue", one.overdue, 0, one.overdue_since)
        for place, rules in reach.items()
        for one in rules
        if one.overdue
    ]


def of_verification(place: str, report: VerifyReport) -> list[Found]:
    """Objects that were asked for and are not what the catalog says."""
    counts: dict[str, int] = {}
    for one in report.alarming:
        counts[one.result] = counts.get(one.result, 0) + 1
    return [Found(place, result, number) for result, number in counts.items()]
