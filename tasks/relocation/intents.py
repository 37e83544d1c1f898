"""Finishing what relocations left behind: bytes that were given up, and old bytes whose last URL has ended.

Bytes first, then the intents that name them: killed in between, the intents are still there and the next call goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.objects import Extent
from blocks.catalog.relocations import MOST, Intent, Unfinished, claim_unfinished, find_unfinished, finish_intents
from blocks.errors import LockLostError, StorageError
from blocks.object_store.deletion import MOST_KEYS, delete_keys
from tasks.stores import OpenLocation, require_own
from tasks.sweeping import Sweep


@dataclass
class Finished:
    """What is gone, by location and by what the intents were, and keys that are not with the reason."""

    gone: dict[tuple[int, str], Extent] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Finished) -> None:
        """Count more."""
        for what, extent in other.gone.items():
            self.gone[what] = self.gone.get(what, Extent()) + extent
        self.failed |= other.failed

    @property
    def objects(self) -> int:
        """Objects that are gone."""
        return sum(extent.objects for extent in self.gone.values())

    @property
    def freed_bytes(self) -> int:
        """Bytes that came back."""
        return sum(extent.stored_bytes for extent in self.gone.values())


def finish_unfinished(sweep: Sweep, intents: Iterable[Unfinished]) -> Finished:
    """Remove the bytes that these intents are about, a thousand at a time; those in stores not open are left."""
    places = {place: location for location in sweep.reached for place in location.place.shelf}
    result = Finished()

    def alike(one: Unfinished) -> tuple[int, str]:
        return one.location_id, one.state

    for (place, _), group in groupby(sorted(intents, key=alike), key=alike):
        some = list(group)
        if place not in places:
            continue
        for start in range(0, len(some), MOST_KEYS):
            sweep.before_batch()
            batch = some[start : start + MOST_KEYS]
            try:
                _finish(sweep, places[place], batch, result)
            except LockLostError:
                raise
            except StorageError as error:
                result.failed |= {one.key: str(error) for one in batch}
    return result


def recover(sweep: Sweep) -> Finished:
    """What earlier runs left in the places whose locks this run holds; called before it begins anything of its own.

    Writers that hold no lock, such as a healing ingest, may still be at it: what they left is for cleanup to judge.
    """
    places = sorted({place for location in sweep.reached for place in location.place.shelf})
    now = sweep.catalog.transaction(catalog_now)
    result = Finished()
    while True:
        left = sweep.catalog.transaction(
            lambda connection: find_unfinished(
                connection, now=now, abandoned_before=None, location_ids=places, of_sweeps=True
            )
        )
        more = finish_unfinished(sweep, left)
        result.add(more)
        # What could not be removed would be found again: it is the next run's.
        if len(left) < MOST or more.failed:
            return result


def remove_given_up(catalog: CatalogDatabase, location: OpenLocation, intents: Sequence[Intent], *, run: str) -> None:
    """Remove what was written for intents that were given up, as far as the store lets us; the rest is the next run's.

    Raises:
        StoreUnavailableError, CatalogUnavailableError: one of them did not answer.
    """
    if not intents:
        return
    failed = delete_keys(location.store, [one.key for one in intents])
    gone = [Unfinished(one.id, "failed", one.location_id, one.key) for one in intents if one.key not in failed]
    catalog.transaction(lambda connection: finish_intents(connection, gone, run=run))


def _finish(sweep: Sweep, location: OpenLocation, batch: Sequence[Unfinished], result: Finished) -> None:
    claimed = sweep.catalog.transaction(lambda connection: claim_unfinished(connection, batch))
    ours = [one for one in batch if one.id in claimed]
    if not ours:
        return
    require_own(sweep.catalog, location)
    failed = delete_keys(location.store, [one.key for one in ours])
    gone = [one for one in ours if one.key not in failed]
    sweep.catalog.transaction(lambda connection: finish_intents(connection, gone, run=sweep.run))
    result.failed |= failed
    for one in gone:
        what = one.location_id, one.state
        result.gone[what] = result.gone.get(what, Extent()) + Extent(1, one.stored_bytes)
