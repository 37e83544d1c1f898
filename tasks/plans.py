"""What a flow is about to do, before it does it: items with their rule and reason, and whether somebody must be asked.

Pure: no clock, no session, no store. Every flow that removes or moves bytes makes such a plan; a dry run shows it and
stops there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from blocks.policies import GIB, SafetyPolicy
from blocks.units import format_bytes


@dataclass(frozen=True, slots=True)
class Item:
    """One decision. `objects` and `size_bytes` are what it removes or moves; 0 where it only changes a row.

    `subject` is a job's id, a key or another name; `owner` the id of the customer whose row is locked for it, and
    `place` the location whose bytes it is about, where there is one.
    """

    action: str
    rule: str
    subject: str
    because: str
    customer: str = ""
    objects: int = 0
    size_bytes: int = 0
    owner: int = 0
    place: str = ""


@dataclass(frozen=True)
class RuleSum:
    """What one rule comes to."""

    rule: str
    items: int
    objects: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """All decisions of one run, and what was left alone, with the reason for each."""

    operation: str
    items: tuple[Item, ...] = ()
    skipped: tuple[Item, ...] = ()
    suspicious: tuple[str, ...] = ()
    """Why somebody must be asked, however small it is."""
    exact: bool = False
    """Whether an approval is good for the very items that were shown, and not for as many others."""

    @property
    def objects(self) -> int:
        """Objects that would be removed or moved."""
        return sum(item.objects for item in self.items)

    @property
    def size_bytes(self) -> int:
        """Their bytes, as stored."""
        return sum(item.size_bytes for item in self.items)

    @property
    def strangeness(self) -> str:
        """The same for the same strange things, in few letters; empty where there are none. For an exact plan, for the
        same things to do."""
        told = sorted([*self.suspicious, *(item.subject for item in self.items if self.exact)])
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16] if told else ""

    def by_rule(self) -> tuple[RuleSum, ...]:
        """A line for each rule that has something to do."""
        return sum_by_rule(self.items)

    def summary(self) -> str:
        """One line for a person."""
        if not self.items:
            return f"{self.operation}: nothing to do" + (f", {len(self.skipped)} left alone" if self.skipped else "")
        rules = ", ".join(f"{one.items} by {one.rule}" for one in self.by_rule())
        left = f"; {len(self.skipped)} left alone" if self.skipped else ""
        strange = "".join(f"; {one}" for one in self.suspicious)
        return f"{self.operation}: {self.objects} objects, {format_bytes(self.size_bytes)} ({rules}{left}){strange}"


@dataclass(frozen=True)
class Outcome:
    """What became of one item: a partition of `done`, `failed` and `skipped`, with the reason of the last two."""

    item: Item
    result: str
    error: str = ""
    objects: int = 0
    size_bytes: int = 0

    @property
    def failed(self) -> bool:
        """Whether it is to be tried again."""
        return self.result == "failed"


@dataclass(frozen=True)
class Report:
    """Every item's outcome. It travels between processes: values only."""

    operation: str
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """What has to be tried again, by the next run."""
        return tuple(one for one in self.outcomes if one.failed)

    @property
    def objects(self) -> int:
        """Objects that were removed or moved."""
        return sum(one.objects for one in self.outcomes)

    @property
    def size_bytes(self) -> int:
        """Bytes as stored that were removed, moved or saved."""
        return sum(one.size_bytes for one in self.outcomes)

    def by_rule(self) -> tuple[RuleSum, ...]:
        """A line for each rule: what was really done."""
        return sum_by_rule(
            Item(one.item.action, one.item.rule, "", "", objects=one.objects, size_bytes=one.size_bytes)
            for one in self.outcomes
            if one.result == "done"
        )

    def summary(self) -> str:
        """One line for a person."""
        results = {name: sum(one.result == name for one in self.outcomes) for name in ("done", "skipped", "failed")}
        shown = ", ".join(f"{number} {name}" for name, number in results.items() if number) or "nothing to do"
        freed = f"; {self.objects} objects, {format_bytes(self.size_bytes)}" if self.objects else ""
        return f"{self.operation}: {shown}{freed}" + "".join(f"; {note}" for note in self.notes)


@dataclass(frozen=True)
class Approval:
    """How much somebody agreed to, and the `strangeness` of the plan that they were shown."""

    objects: int
    size_bytes: int
    strangeness: str = ""

    def covers(self, plan: Plan) -> bool:
        """Whether the plan has not grown past what was agreed to, and is not strange in another way."""
        return not self.is_less_than(plan) and plan.strangeness in ("", self.strangeness)

    def is_less_than(self, plan: Plan) -> bool:
        """Whether the plan has grown past it."""
        return plan.objects > self.objects or plan.size_bytes > self.size_bytes


def over_caps(plan: Plan, caps: SafetyPolicy, catalog_objects: int) -> tuple[str, ...]:
    """Why this plan is unexpectedly large, or strange; empty where it is not. `catalog_objects` are all there are."""
    reasons = list(plan.suspicious)
    if plan.objects > caps.most_objects:
        reasons.append(f"{plan.objects} objects are more than {caps.most_objects}")
    if plan.size_bytes > caps.most_gib * GIB:
        reasons.append(f"{format_bytes(plan.size_bytes)} are more than {caps.most_gib} GiB")
    if plan.objects >= caps.percent_from_objects and plan.objects * 100 > caps.most_percent * catalog_objects:
        share = 100 * plan.objects / max(1, catalog_objects)
        reasons.append(f"{plan.objects} objects are {share:.0f} % of the catalog, more than {caps.most_percent} %")
    return tuple(reasons)


def sum_by_rule(items: Iterable[Item]) -> tuple[RuleSum, ...]:
    """Items, objects and bytes of each rule, in the order they first appear."""
    sums: dict[str, list[int]] = {}
    for item in items:
        one = sums.setdefault(item.rule, [0, 0, 0])
        one[0] += 1
        one[1] += item.objects
        one[2] += item.size_bytes
    return tuple(RuleSum(rule, *numbers) for rule, numbers in sums.items())
