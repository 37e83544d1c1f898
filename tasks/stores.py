"""Opening a location for work: it is declared, its capabilities are known, and its bucket is this catalog's."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import (
    Place,
    find_place,
    inbox_name,
    place_name,
    place_of_tier,
    read_identity,
    require_in_use,
)
from blocks.catalog.migrating import require_current_schema
from blocks.catalog.restored import require_thawed
from blocks.errors import ForeignCatalogError, InvalidInputError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities
from tasks.ownership import require_ours, require_ours_lately


@dataclass(frozen=True)
class OpenLocation:
    """A location with the block that reaches it."""

    place: Place
    store: ObjectStore
    capabilities: Capabilities
    epoch: int | None = None
    """The catalog's epoch when it was opened: a restore raises it, and who slept through one removes nothing."""


@dataclass
class Locations:
    """Every location of a catalog, opened when it is first needed and kept: an object's row says which one it needs.

    `home` is where playlists and archives are written that are made for a caller. Used by many threads at once.
    """

    catalog: CatalogDatabase
    home: OpenLocation
    others: Iterable[OpenLocation] = ()
    _opened: dict[str, OpenLocation] = field(default_factory=dict, repr=False)
    _names: dict[int, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _turns: dict[str, threading.Lock] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for location in (self.home, *self.others):
            self._opened[location.place.name] = location
            self._names[location.place.id] = location.place.name

    def named(self, name: str) -> OpenLocation:
        """The location of this name.

        Raises:
            NotFoundError, RefusedError, ForeignCatalogError: as `open_location`; also where its block is gone.
        """
        if (opened := self._opened.get(name)) is not None:
            return opened
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        # Each for itself: one that does not answer keeps nobody from another.
        with turn:
            if name not in self._opened:
                self._opened[name] = open_named(self.catalog, name)
            return self._opened[name]

    def of(self, location_id: int) -> OpenLocation:
        """The location with this id, as `named`."""
        if location_id not in self._names:
            self._names[location_id] = self.catalog.transaction(lambda connection: place_name(connection, location_id))
        return self.named(self._names[location_id])

    def of_tier(self, tier: str) -> OpenLocation:
        """The location that objects are brought to for a tier.

        Raises:
            NotFoundError: none is declared.
        """
        place = self.catalog.transaction(lambda connection: place_of_tier(connection, tier))
        return self.named(place.name)


def open_location(catalog: CatalogDatabase, store: ObjectStore, name: str) -> OpenLocation:
    """A location to write to or read from; one query and one small read.

    Raises:
        NotFoundError: the location was never declared.
        RefusedError: it was retired.
        InvalidInputError: the block points elsewhere than the location that was declared.
        ForeignCatalogError: the bucket belongs to another catalog.
    """
    require_current_schema(catalog)
    place = catalog.transaction(lambda connection: find_place(connection, name))
    return _opened(catalog, place, store)


def open_named(catalog: CatalogDatabase, name: str, *, to_look: bool = False) -> OpenLocation:
    """The location of this name, through the store block that it was declared with.

    Only `to_look`, its bucket may still carry an epoch of this catalog from before a restore.

    Raises:
        NotFoundError: the location was never declared, or its block is gone.
        RefusedError, InvalidInputError, ForeignCatalogError: as `open_location`.
    """
    require_current_schema(catalog)
    place = catalog.transaction(lambda connection: find_place(connection, name))
    return _opened(catalog, place, load_block(ObjectStore, place.store), to_look=to_look)


def open_for_new_files(catalog: CatalogDatabase, name: str) -> OpenLocation:
    """Where new files of this location go: to itself, or to where it was migrated. The old one may be gone by then."""
    require_current_schema(catalog)
    return open_named(catalog, catalog.transaction(lambda connection: inbox_name(connection, name)))


def require_own(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See once more that the bucket is this catalog's, right before something is removed from it.

    Raises:
        ForeignCatalogError: it belongs to another catalog, or a restore raised the epoch meanwhile.
        FrozenCatalogError: the catalog was restored, and nobody has confirmed it yet.
    """
    catalog.transaction(require_thawed)
    require_ours(catalog, location.store)
    require_epoch(catalog, location)


def require_current(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See that a location still takes files, before something is written there: services keep them open for weeks.

    The bucket itself is asked again after a minute.

    Raises:
        RefusedError: it was retired since.
        ForeignCatalogError: another catalog has taken the bucket over.
    """
    catalog.transaction(lambda connection: require_in_use(connection, location.place.id))
    require_ours_lately(catalog, location.store)


def require_epoch(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See that no restore has come between opening a location and now.

    Raises:
        ForeignCatalogError: one has.
    """
    now = catalog.transaction(read_identity).epoch
    if location.epoch not in (None, now):
        raise ForeignCatalogError(
            f"the catalog was restored since this run opened {location.place.name} (epoch {location.epoch}, now "
            f"{now}): nothing is removed or moved; run it again"
        )


def _opened(catalog: CatalogDatabase, place: Place, store: ObjectStore, *, to_look: bool = False) -> OpenLocation:
    require_same_place(place, store)
    require_ours(catalog, store, or_older=to_look)
    epoch = catalog.transaction(read_identity).epoch
    return OpenLocation(place, store, Capabilities.from_json(place.capabilities), epoch)


def require_same_place(place: Place, store: ObjectStore) -> None:
    """See that a store block points at the place that was declared.

    Raises:
        InvalidInputError: it points elsewhere.
    """
    if (place.bucket, place.prefix) != (store.bucket, store.prefix):
        raise InvalidInputError(
            f"the store block {place.store} points at {store.bucket}/{store.prefix}, but its objects live in "
            f"{place.bucket}/{place.prefix}: point it back, or save the new place under another name"
        )
