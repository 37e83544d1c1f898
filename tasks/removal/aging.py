"""Prefixes where age alone removes, because no row ever names what lies there (invariant 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.due import held_jobs, keys_under_way, open_form_keys
from blocks.catalog.log import Unnamed
from blocks.object_store import ObjectStore
from blocks.object_store.listing import Listed, list_prefix
from blocks.object_store.transfer import fingerprint
from blocks.policies import RetentionPolicy
from tasks.parallel import in_parallel
from tasks.removal.unnamed import PARALLEL_LOOKS, remove_unnamed
from tasks.stores import OpenLocation, require_own

AGED_PREFIXES = {"temp_days": "temp", "failed_days": "failed", "exports_days": "exports", "probe_days": "probe",
                 "reports_days": "reports"}  # fmt: skip
"""The policy's field, which is the rule's name, and the folder it is about."""


@dataclass(frozen=True, slots=True)
class Aged:
    """An object that is older than its folder's rule allows."""

    rule: str
    listed: Listed
    due_at: datetime


def find_aged(store: ObjectStore, policy: RetentionPolicy, *, now: datetime, most: int) -> Iterator[Aged]:
    """What is overdue under the prefixes of age, streamed, so many of each; `now` is the store's clock, as the objects'
    times are.

    Some of it is still wanted: `still_wanted` says which.
    """
    for rule, prefix in AGED_PREFIXES.items():
        lasts = timedelta(days=getattr(policy, rule))
        due = (
            Aged(rule, listed, listed.last_modified + lasts)
            for listed in list_prefix(store, prefix)
            if listed.last_modified + lasts <= now
        )
        yield from islice(due, most)


def still_wanted(catalog: CatalogDatabase, location: OpenLocation, keys: Sequence[str]) -> set[str]:
    """Which of these nobody may remove yet: a form's blob while the form is open, and leftovers of a job on hold."""
    jobs = {key: UUID(found.group(1)) for key in keys if (found := _OF_A_JOB.match(key))}

    def read(connection: Connection) -> tuple[set[str], set[UUID]]:
        forms = open_form_keys(connection, location.place.shelf, [key for key in keys if key.startswith("temp/")])
        return forms, held_jobs(connection, list(set(jobs.values())))

    forms, held = catalog.transaction(read)
    return forms | {key for key, job in jobs.items() if job in held}


def under_way(catalog: CatalogDatabase, location: OpenLocation, keys: Sequence[str]) -> set[str]:
    """Keys of uploads that are old and not given up: a large file on a slow line takes its days."""
    return catalog.transaction(lambda connection: keys_under_way(connection, location.place.shelf, keys))


_OF_A_JOB = re.compile(r"(?:failed|exports/hls)/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/")


def remove_aged(
    catalog: CatalogDatabase, location: OpenLocation, aged: Sequence[Aged], *, run: str
) -> list[tuple[str, str, str]]:
    """Remove objects by age; returns key, result (`done`, `skipped`, `failed`) and reason of each.

    One that was replaced since it was listed is young again, and stays. (A listing may tell fractions of a second that
    a HEAD does not.)
    """
    require_own(catalog, location)
    seen = in_parallel(lambda one: fingerprint(location.store, one.listed.key), aged, threads=PARALLEL_LOOKS)
    wanted = still_wanted(catalog, location, [one.listed.key for one in aged])
    outcomes: list[tuple[str, str, str]] = []
    unchanged: list[Aged] = []
    for one, now in zip(aged, seen, strict=True):
        if one.listed.key in wanted:
            outcomes.append((one.listed.key, "skipped", "wanted: its form is open, or its job on hold"))
        elif now is None:
            outcomes.append((one.listed.key, "skipped", "gone already"))
        elif now[0] != one.listed.etag or now[1].replace(microsecond=0) != one.listed.last_modified.replace(
            microsecond=0
        ):
            outcomes.append((one.listed.key, "skipped", "replaced meanwhile"))
        else:
            unchanged.append(one)
    failed = remove_unnamed(
        catalog, location.store,
        [Unnamed(one.listed.key, one.rule, one.listed.size_bytes) for one in unchanged], operation="expire", run=run,
    )  # fmt: skip
    gone = [one for one in unchanged if one.listed.key not in failed]
    outcomes += [(one.listed.key, "done", "") for one in gone]
    outcomes += [(key, "failed", why) for key, why in failed.items()]
    return outcomes
