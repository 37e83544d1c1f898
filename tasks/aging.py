"""Prefixes where age alone removes, because no row ever names what lies there (invariant 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks.object_store import ObjectStore
from blocks.object_store.listing import Listed, list_prefix
from blocks.policies import RetentionPolicy

AGED_PREFIXES = {"temp_days": "temp", "failed_days": "failed", "exports_days": "exports", "probe_days": "probe"}
"""The policy's field, which is the rule's name, and the folder it is about."""


@dataclass(frozen=True, slots=True)
class Aged:
    """An object that is older than its folder's rule allows."""

    rule: str
    listed: Listed
    due_at: datetime


def find_aged(store: ObjectStore, policy: RetentionPolicy, *, now: datetime) -> Iterator[Aged]:
    """What is overdue under the prefixes of age, streamed; `now` is the store's clock, as the objects' times are."""
    for rule, prefix in AGED_PREFIXES.items():
        lasts = timedelta(days=getattr(policy, rule))
        for listed in list_prefix(store, prefix):
            if listed.last_modified + lasts <= now:
                yield Aged(rule, listed, listed.last_modified + lasts)
