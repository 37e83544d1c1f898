"""A location's beginning and its end: probed and declared for the first time, retired when nothing lies in it."""

from __future__ import annotations

from collections.abc import Iterable

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import (
    Declaration,
    Place,
    declare_place,
    find_place,
    list_places,
    require_no_rows,
    retire,
    same_place,
)
from blocks.catalog.migrating import require_current_schema
from blocks.catalog.objects import forget_gone
from blocks.catalog.restored import require_thawed
from blocks.errors import InvalidInputError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.listing import list_prefix
from blocks.object_store.probing import probe, require_class
from tasks.checks import check_class, check_location
from tasks.layout import FOLDERS
from tasks.ownership import claim_bucket, may_claim
from tasks.stores import OpenLocation, open_named, require_same_place


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
        require_same_place(known, store)
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
    ours_before = may_claim(catalog, store, known=known is not None)
    if known is None and ours_before:
        _check_no_second_name(places, store, name)
    capabilities = probe(store)
    if storage_class:
        require_class(store, storage_class)
    claim_bucket(catalog, store, known=known is not None)  # not before: one that is unfit is left as it was
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
        place = catalog.transaction(lambda connection: find_place(connection, name))
        if not _is_gone(place):
            raise RefusedError(f"location {name} answers: leave --gone out, so that nothing there is forgotten")
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
