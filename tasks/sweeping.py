"""What sweeps have in common: what they work with, in which batches, and for which time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.trash import Changed
from blocks.errors import CatalogUnavailableError, InvalidInputError, LockLostError, RefusedError, StorageError
from blocks.object_store.clock import MOST_APART, store_now
from tasks.plans import Item, Outcome
from tasks.stores import OpenLocation

T = TypeVar("T")

JOBS_A_TRANSACTION = 100
"""A customer's row is locked while a transaction lasts, and ingest waits for it."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep works with. `before_batch` sees that its lock is still held, `progress` hears items done."""

    catalog: CatalogDatabase
    locations: tuple[OpenLocation, ...]
    run: str = ""
    before_batch: Callable[[], None] = lambda: None
    progress: Callable[[int], None] = lambda items: None
    left_out: dict[str, StorageError] = field(default_factory=dict)
    """Stores that failed while the run looked into them, by name: nothing more is done there, and the run says so."""

    @property
    def reached(self) -> tuple[OpenLocation, ...]:
        """The locations without those that were left out."""
        return tuple(one for one in self.locations if one.place.name not in self.left_out)

    def each(self, look: Callable[[OpenLocation], T], *, some: bool = True) -> list[tuple[OpenLocation, T]]:
        """What `look` finds in each location; one whose store fails is left out, and keeps no other from its turn.

        Raises:
            StorageError: every one failed, where there have to be `some`; or the catalog did, or the lock is lost.
        """
        found: list[tuple[OpenLocation, T]] = []
        for location in self.reached:
            try:
                found.append((location, look(location)))
            except (CatalogUnavailableError, LockLostError):
                raise
            except StorageError as error:
                self.left_out[location.place.name] = error
        if some and self.left_out and not found:
            raise next(reversed(self.left_out.values()))
        return found


def store_clock(catalog: CatalogDatabase, location: OpenLocation) -> datetime:
    """What time it is for the store, whose objects' ages are measured with it.

    Raises:
        RefusedError: it and PostgreSQL's clock are far apart. One of them is wrong, and what is young would look old.
    """
    here, there = catalog.transaction(catalog_now), store_now(location.store)
    if abs(there - here) > MOST_APART:
        raise RefusedError(
            f"the clock of store {location.place.name} says {there:%Y-%m-%d %H:%M:%S} UTC, and PostgreSQL's "
            f"{here:%Y-%m-%d %H:%M:%S}: one of them is wrong, and nothing is removed for its age until it is set right"
        )
    return there


def check_as_of(as_of: datetime | None, clock: datetime, *, dry_run: bool) -> datetime:
    """The time to plan for: PostgreSQL's clock unless asked; the future only to look at."""
    if as_of is None:
        return clock
    if as_of.tzinfo is None:
        raise InvalidInputError(f"as_of {as_of} has no time zone; write for example {as_of.isoformat()}+00:00")
    if abs(as_of - clock) > timedelta(days=36_500):
        raise InvalidInputError(f"as_of {as_of} is more than a hundred years away")
    if as_of > clock and not dry_run:
        raise InvalidInputError(f"as_of {as_of} lies in the future: that can only be looked at, with dry_run")
    return as_of


def customers_batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items of one action, rule and customer together: a transaction touches one customer."""

    def alike(item: Item) -> tuple[str, str, int]:
        return item.action, item.rule, item.owner

    for _, group in groupby(items, key=alike):
        some = list(group)
        for start in range(0, len(some), JOBS_A_TRANSACTION):
            yield some[start : start + JOBS_A_TRANSACTION]


def job_outcomes(items: Sequence[Item], changed: Changed) -> list[Outcome]:
    """The outcome of each job's item; what was released is removed, and counted, later."""
    return [
        Outcome(item, "skipped", changed.skipped[UUID(item.subject)])
        if UUID(item.subject) in changed.skipped
        else Outcome(item, "done")
        for item in items
    ]
