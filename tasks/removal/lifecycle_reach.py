"""What the bucket's rules would reach at their next turn, and what is overdue; streamed, and nothing is changed."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.catalog.lifecycle import find_old_objects
from blocks.object_store.lifecycle import due_at, smallest_moved
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import list_multipart_uploads, uploaded_bytes
from blocks.policies import RetentionPolicy
from tasks.removal.lifecycle import WantedRule, wanted_rules
from tasks.stores import OpenLocation

EXAMPLES = 20
_JOB = re.compile(r"(?:failed|exports/hls|processed|uploads)/([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})/")


@dataclass(frozen=True, slots=True)
class Due:
    """An object (or incomplete upload) and when its rule is due for it."""

    key: str
    due_at: datetime


@dataclass(frozen=True)
class RuleReach:
    """What a rule would reach at its next turn; `overdue` of it were due at least a day ago. The oldest are named."""

    rule: WantedRule
    turn_at: datetime
    objects: int = 0
    jobs: int = 0
    size_bytes: int = 0
    overdue: int = 0
    overdue_since: datetime | None = None
    examples: tuple[Due, ...] = ()


def simulate(
    catalog: CatalogDatabase, location: OpenLocation, policy: RetentionPolicy, *, store_now: datetime, now: datetime
) -> tuple[RuleReach, ...]:
    """What each rule of the policy would reach at the next midnight, whether or not this server takes the rule.

    `store_now` is the store's clock, as its objects' times are; `now` is PostgreSQL's. Streamed: what is kept of the
    listing are the ids of jobs and the examples.
    """
    reaches = []
    for rule in wanted_rules(policy, location.store.prefix, location.capabilities):
        if rule.action == "transition":
            reaches.append(_reach_by_catalog(catalog, location, rule, now))
            continue
        tally = _Tally(rule, store_now)
        if rule.action == "expire":
            for listed in list_prefix(location.store, rule.folder.rstrip("/")):
                if tally.takes(listed.key, listed.last_modified):
                    tally.size_bytes += listed.size_bytes
        elif location.capabilities.lists_uploads:
            for upload in list_multipart_uploads(location.store):
                if tally.takes(upload.key, upload.initiated_at):
                    tally.size_bytes += uploaded_bytes(location.store, upload.key, upload.upload_id)
        reaches.append(tally.reach())
    return tuple(reaches)


class _Tally:
    """Counts what one rule reaches, and keeps the oldest."""

    def __init__(self, rule: WantedRule, now: datetime) -> None:
        self.rule = rule
        self.turn_at = due_at(now, 0)
        self.overdue_at = now - timedelta(days=1)
        self.objects = self.size_bytes = self.overdue = 0
        self.jobs: set[UUID] = set()
        self.oldest: list[tuple[float, str, datetime]] = []

    def takes(self, key: str, written_at: datetime) -> bool:
        """Whether the rule reaches it; counted if so."""
        due = due_at(written_at, self.rule.days)
        if due > self.turn_at:
            return False
        self.objects += 1
        self.overdue += due <= self.overdue_at
        if found := _JOB.match(key):
            self.jobs.add(UUID(found.group(1)))
        # The youngest on top, to be pushed out by what is older.
        keep = heapq.heappush if len(self.oldest) < EXAMPLES else heapq.heappushpop
        keep(self.oldest, (-due.timestamp(), key, due))
        return True

    def reach(self) -> RuleReach:
        oldest = tuple(Due(key, due) for _, key, due in sorted(self.oldest, key=lambda one: (one[2], one[1])))
        return RuleReach(
            self.rule, self.turn_at, self.objects, len(self.jobs), self.size_bytes, self.overdue,
            oldest[0].due_at if self.overdue else None, oldest,
        )  # fmt: skip


def _reach_by_catalog(catalog: CatalogDatabase, location: OpenLocation, rule: WantedRule, now: datetime) -> RuleReach:
    turn_at, lasts = due_at(now, 0), timedelta(days=rule.days)
    # The last midnight that is at least a day ago.
    overdue_at = turn_at - timedelta(days=1 if turn_at == now else 2)
    smallest = 0 if rule.unsupported else smallest_moved(location.store)
    found = catalog.transaction(
        lambda connection: find_old_objects(
            connection, location.place.id, rule.folder,
            written_until=turn_at - lasts, overdue_until=overdue_at - lasts, smallest=smallest,
            most_examples=EXAMPLES,
        )
    )  # fmt: skip
    oldest = tuple(Due(key, due_at(written_at, rule.days)) for key, written_at in found.oldest)
    return RuleReach(
        rule, turn_at, found.objects, found.jobs, found.stored_bytes, found.overdue,
        oldest[0].due_at if found.overdue else None, oldest,
    )  # fmt: skip
