"""Opening a store for work: its location is declared, its capabilities are known, and the bucket is this catalog's."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import Identity, Place, declare_place, find_place, read_identity
from blocks.catalog.migrating import require_current_schema
from blocks.errors import ForeignCatalogError, InvalidInputError, NotFoundError
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities, probe
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.layout import IDENTITY_KEY


@dataclass(frozen=True)
class OpenLocation:
    """A location with the block that reaches it."""

    place: Place
    store: ObjectStore
    capabilities: Capabilities


def probe_store(catalog: CatalogDatabase, store: ObjectStore, name: str) -> OpenLocation:
    """Try what the server does, declare or update the location, and mark the bucket as this catalog's.

    Raises:
        UnfitStoreError: the bucket is versioned or lacks what the platform cannot do without.
        ForeignCatalogError: the bucket belongs to another catalog, or to another epoch of this one.
    """
    require_current_schema(catalog)
    _check_marker(catalog, store, claim=True)
    capabilities = probe(store)
    place = catalog.transaction(
        lambda connection: declare_place(
            connection,
            store_name=name,
            bucket=store.bucket,
            prefix=store.prefix,
            capabilities=capabilities.as_json(),
        )
    )
    _check_same_place(place, store)
    return OpenLocation(place, store, capabilities)


def open_location(catalog: CatalogDatabase, store: ObjectStore, name: str) -> OpenLocation:
    """A location to write to or read from; one query and one small read.

    Raises:
        NotFoundError: the store was never probed.
        InvalidInputError: the block points elsewhere than the location that was declared under its name.
        ForeignCatalogError: the bucket belongs to another catalog.
    """
    require_current_schema(catalog)
    place = catalog.transaction(lambda connection: find_place(connection, name))
    _check_same_place(place, store)
    _check_marker(catalog, store, claim=False)
    return OpenLocation(place, store, Capabilities.from_json(place.capabilities))


def require_own(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """See once more that the bucket is this catalog's, right before something is removed from it.

    Raises:
        ForeignCatalogError: it belongs to another catalog, or a restore raised the epoch meanwhile.
    """
    _check_marker(catalog, location.store, claim=False)


def _check_same_place(place: Place, store: ObjectStore) -> None:
    if (place.bucket, place.prefix) != (store.bucket, store.prefix):
        raise InvalidInputError(
            f"the store block {place.name} points at {store.bucket}/{store.prefix}, but its objects live in "
            f"{place.bucket}/{place.prefix}: point it back, or save the new place under another name"
        )


def _check_marker(catalog: CatalogDatabase, store: ObjectStore, *, claim: bool) -> None:
    identity: Identity = catalog.transaction(read_identity)
    try:
        found = read_bytes(store, IDENTITY_KEY, at_most=4096).decode(errors="replace")
    except NotFoundError:
        if not claim:
            raise ForeignCatalogError(
                f"bucket {store.bucket} carries no catalog id ({IDENTITY_KEY}); run the flow probe-store to claim it"
            ) from None
        put_bytes(store, IDENTITY_KEY, identity.as_text().encode(), {"Content-Type": "text/plain"})
        return
    if found != identity.as_text():
        raise ForeignCatalogError(
            f"bucket {store.bucket} belongs to catalog {found.strip()!r}, this is {identity.as_text().strip()!r} "
            "(id and epoch): nothing is written or removed; point the block at this catalog's bucket"
        )
