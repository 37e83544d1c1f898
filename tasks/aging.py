"""Prefixes where age alone removes, because no row ever names what lies there (invariant 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks.catalog import CatalogDatabase
from blocks.catalog.log import record_aged
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import Listed, list_prefix
from blocks.object_store.transfer import fingerprint
from blocks.policies import RetentionPolicy
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation, require_own

PARALLEL_LOOKS = 16

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


def remove_aged(
    catalog: CatalogDatabase, location: OpenLocation, aged: Sequence[Aged], *, run: str
) -> list[tuple[str, str, str]]:
    """Remove objects by age; returns key, result (`done`, `skipped`, `failed`) and reason of each.

    One that was replaced since it was listed is young again, and stays. (A listing may tell fractions of a second that
    a HEAD does not.)
    """
    require_own(catalog, location)
    seen = in_parallel(lambda one: fingerprint(location.store, one.listed.key), aged, threads=PARALLEL_LOOKS)
    outcomes: list[tuple[str, str, str]] = []
    unchanged: list[Aged] = []
    for one, now in zip(aged, seen, strict=True):
        if now is None:
            outcomes.append((one.listed.key, "skipped", "gone already"))
        elif now[0] != one.listed.etag or now[1].replace(microsecond=0) != one.listed.last_modified.replace(
            microsecond=0
        ):
            outcomes.append((one.listed.key, "skipped", "replaced meanwhile"))
        else:
            unchanged.append(one)
    failed = delete_keys(location.store, [one.listed.key for one in unchanged])
    gone = [one for one in unchanged if one.listed.key not in failed]
    catalog.transaction(
        lambda connection: record_aged(
            connection, [(one.listed.key, one.rule, one.listed.size_bytes) for one in gone], run=run
        )
    )
    outcomes += [(one.listed.key, "done", "") for one in gone]
    outcomes += [(key, "failed", why) for key, why in failed.items()]
    return outcomes
