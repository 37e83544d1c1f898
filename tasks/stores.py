"""Opening a store for work: its location is declared, its capabilities are known, and the bucket is this catalog's."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import (
    Declaration,
    Identity,
    Place,
    declare_place,
    find_place,
    inbox_name,
    list_places,
    place_name,
    place_of_tier,
    read_identity,
    require_in_use,
    require_no_rows,
    retire,
    same_place,
)
from blocks.catalog.migrating import require_current_schema
from blocks.catalog.objects import forget_gone
from blocks.catalog.restored import read_freeze, require_thawed
from blocks.errors import ForeignCatalogError, InvalidInputError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.listing import list_prefix
from blocks.object_store.probing import Capabilities, probe, require_class
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.checks import check_class, check_location
from tasks.layout import FOLDERS, IDENTITY_KEY


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


def probe_store(
    catalog: CatalogDatabase,
    store: ObjectStore,
    name: str,
    *,
    location: str = "",
    storage_class: str = "",
    said: Declaration = Declaration(),  # noqa: B008 -- frozen
) -> OpenLocation:
    """Try what the server does, declare or update a location, and mark the bucket as this catalog's.

    `name` is the store block's; the location is called the same unless `location` says otherwise, as the second one of
    a bucket must be, which differs in its storage class.

    Raises:
        UnfitStoreError: the bucket is versioned, lacks what the platform cannot do without, or the storage class.
        ForeignCatalogError: the bucket belongs to another catalog, or to another epoch of this one.
        InvalidInputError: the location is declared as another place, or lies within another one's folders.
    """
    require_current_schema(catalog)
    wanted = check_location(location or name)
    places = catalog.transaction(list_places)
    known = next((place for place in places if place.name == wanted), None)
    storage_class = check_class(storage_class) if storage_class or known is None else known.storage_class
    if known is not None:
        _check_same_place(known, store)
        if (known.store, known.storage_class) != (name, storage_class):
            raise InvalidInputError(
                f"location {wanted} is declared as storage class {known.storage_class or 'STANDARD'} of store "
                f"{known.store}; declare the new one under another name"
            )
    _check_apart(places, store, wanted)
    taken = catalog.transaction(
        lambda connection: same_place(
            connection, store=name, bucket=store.bucket, prefix=store.prefix, storage_class=storage_class, but=wanted
        )
    )
    if taken:
        raise InvalidInputError(
            f"location {wanted} would be the same as {taken}, class {storage_class or 'STANDARD'} of store {name}; "
            f"give it a storage_class of its own, or probe {taken}"
        )
    ours_before = _check_marker(catalog, store, claim=True, unknown=known is None)
    if known is None and ours_before:
        _check_no_second_name(places, store, name)
    capabilities = probe(store)
    if storage_class:
        require_class(store, storage_class)
    place = catalog.transaction(
        lambda connection: declare_place(
            connection,
            name=wanted,
            store=name,
            bucket=store.bucket,
            prefix=store.prefix,
            storage_class=storage_class,
            capabilities=capabilities.as_json(),
            said=said,
        )
    )
    return OpenLocation(place, store, capabilities)


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


def retire_location(catalog: CatalogDatabase, name: str, *, gone: bool = False) -> None:
    """Stop looking after a location that holds nothing any more; its bucket can be removed then.

    With `gone` the bucket or its server was removed already, and with it what cleanup had still to remove there.

    Raises:
        NotFoundError: no such location.
        RefusedError: something still lies in it, or new files still go there; or it is said to be gone, and answers.
        FrozenCatalogError: it is said to be gone, and the catalog was restored, and nobody has confirmed it yet.
    """
    if gone:
        catalog.transaction(require_thawed)
        if not _is_gone(catalog.transaction(lambda connection: find_place(connection, name))):
            raise RefusedError(f"location {name} answers: leave --gone out, so that nothing there is forgotten")
        place = catalog.transaction(lambda connection: find_place(connection, name))
        catalog.transaction(lambda connection: require_no_rows(connection, place, gone=True))
        while catalog.transaction(lambda connection: forget_gone(connection, place.id)):
            pass
        catalog.transaction(lambda connection: retire(connection, place, gone=True))
        return
    # What the catalog knows of it first: that says where it should go.
    catalog.transaction(lambda connection: require_no_rows(connection, find_place(connection, name)))
    location = open_named(catalog, name)
    others = [place.id for place in catalog.transaction(list_places) if place.id != location.place.id]
    # What lies in the same bucket under another class is looked after by that one's location.
    for folder in () if set(others) & set(location.place.shelf) else FOLDERS:
        # Reports are for people to keep; of anything else an erasure or an age rule would not learn any more.
        first = None if folder == "reports" else next(list_prefix(location.store, folder), None)
        if first is not None:
            raise RefusedError(
                f"location {name} still holds {first.key}: cleanup removes what nobody wants any more, reconcile-quota "
                "what no row names"
            )
    catalog.transaction(lambda connection: retire(connection, find_place(connection, name)))


def _is_gone(place: Place) -> bool:
    """Whether the bucket is not there, or nobody who could be asked for it: its block, or its server."""
    try:
        store_now(load_block(ObjectStore, place.store).model_copy(update={"bucket": place.bucket}))
    except (NotFoundError, StoreUnavailableError):
        return True
    return False


def require_own(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See once more that the bucket is this catalog's, right before something is removed from it.

    Raises:
        ForeignCatalogError: it belongs to another catalog, or a restore raised the epoch meanwhile.
        FrozenCatalogError: the catalog was restored, and nobody has confirmed it yet.
    """
    catalog.transaction(require_thawed)
    _check_marker(catalog, location.store, claim=False)
    require_epoch(catalog, location)


LOOKED_AT_FOR_SECONDS = 60
_looked_at: dict[tuple[object, ...], float] = {}
"""When this process saw last that a bucket was a catalog's."""


def require_current(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See that a location still takes files, before something is written there: services keep them open for weeks.

    The bucket itself is asked again after a minute.

    Raises:
        RefusedError: it was retired since.
        ForeignCatalogError: another catalog has taken the bucket over.
    """
    catalog.transaction(lambda connection: require_in_use(connection, location.place.id))
    if time.monotonic() - _looked_at.get(_bucket_of(catalog, location.store), -math.inf) > LOOKED_AT_FOR_SECONDS:
        _check_marker(catalog, location.store, claim=False)
        _looked_at[_bucket_of(catalog, location.store)] = time.monotonic()


def _bucket_of(catalog: CatalogDatabase, store: ObjectStore) -> tuple[object, ...]:
    return catalog.host, catalog.port, catalog.database, store.endpoint_url, store.bucket, store.prefix


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
    _check_same_place(place, store)
    if _check_marker(catalog, store, claim=False, to_look=to_look) and not to_look:
        _looked_at[_bucket_of(catalog, store)] = time.monotonic()
    epoch = catalog.transaction(read_identity).epoch
    return OpenLocation(place, store, Capabilities.from_json(place.capabilities), epoch)


def _check_same_place(place: Place, store: ObjectStore) -> None:
    if (place.bucket, place.prefix) != (store.bucket, store.prefix):
        raise InvalidInputError(
            f"the store block {place.store} points at {store.bucket}/{store.prefix}, but its objects live in "
            f"{place.bucket}/{place.prefix}: point it back, or save the new place under another name"
        )


def _check_apart(places: Iterable[Place], store: ObjectStore, name: str) -> None:
    """What one location lists and removes must not be another's: no prefix lies within a folder of the platform."""
    for place in places:
        if place.bucket != store.bucket or place.name == name:
            continue
        for outer, inner in ((place.prefix, store.prefix), (store.prefix, place.prefix)):
            below = inner.removeprefix(f"{outer}/" if outer else "")
            if inner != outer and (not outer or below != inner) and below.split("/")[0] in FOLDERS:
                raise InvalidInputError(
                    f"the prefix {inner} lies within {below.split('/')[0]}/ of a location in the same bucket: choose "
                    f"one outside of {', '.join(f'{folder}/' for folder in FOLDERS)}"
                )


def _check_no_second_name(places: Iterable[Place], store: ObjectStore, name: str) -> None:
    for place in places:
        if (place.bucket, place.prefix) == (store.bucket, store.prefix) and place.store != name:
            raise InvalidInputError(
                f"this bucket is location {place.name} of store {place.store} already: its objects would count twice. "
                f"For another storage class in it probe the store {place.store} with a location's name of its own"
            )


def is_older(marker: str, identity: Identity) -> bool:
    """Whether a bucket's marker names this very catalog, as it was before a restore."""
    name, _, epoch = marker.strip().partition(" ")
    return name == str(identity.catalog_id) and epoch.isdigit() and int(epoch) < identity.epoch


def _require_bucket(store: ObjectStore) -> None:
    try:
        store_now(store)  # it asks for the bucket
    except NotFoundError as error:
        raise NotFoundError(
            f"bucket {store.bucket} does not exist; where it is gone for good, and holds no object that the catalog "
            "knows, `python -m flows location retire NAME --gone` ends its location"
        ) from error


def _check_marker(
    catalog: CatalogDatabase, store: ObjectStore, *, claim: bool, unknown: bool = False, to_look: bool = False
) -> bool:
    """Whether the bucket was this catalog's before it was asked.

    One that is `unknown` to the catalog may have been declared after the backup that it was restored from: it is
    claimed again once all others are.
    """
    identity: Identity = catalog.transaction(read_identity)
    try:
        found = read_bytes(store, IDENTITY_KEY, at_most=4096).decode(errors="replace")
    except NotFoundError:
        if not claim:
            _require_bucket(store)
            raise ForeignCatalogError(
                f"bucket {store.bucket} carries no catalog id ({IDENTITY_KEY}); run the flow probe-store to claim it"
            ) from None
        put_bytes(store, IDENTITY_KEY, identity.as_text().encode(), {"Content-Type": "text/plain"})
        return False
    if found != identity.as_text():
        if is_older(found, identity):
            if to_look:
                return True
            frozen = catalog.transaction(read_freeze)
            if claim and unknown and (frozen is None or not frozen.claims_pending):
                put_bytes(store, IDENTITY_KEY, identity.as_text().encode(), {"Content-Type": "text/plain"})
                return False
            raise ForeignCatalogError(
                f"bucket {store.bucket} still carries the epoch before this catalog was restored: run confirm-restore "
                "with take_over_buckets, unless another catalog is in use"
            )
        raise ForeignCatalogError(
            f"bucket {store.bucket} belongs to catalog {found.strip()!r}, this is {identity.as_text().strip()!r} "
            "(id and epoch): nothing is written or removed; point the block at this catalog's bucket"
        )
    return True
