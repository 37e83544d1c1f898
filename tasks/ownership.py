"""Whose a bucket is: a marker in it names its catalog and that one's epoch, which a restore raises (invariant 7)."""

from __future__ import annotations

import math
import time

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import Identity, read_identity
from blocks.catalog.restored import read_freeze
from blocks.errors import ForeignCatalogError, NotFoundError
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.layout import IDENTITY_KEY

LOOKED_AT_FOR_SECONDS = 60
_looked_at: dict[tuple[object, ...], float] = {}
"""When this process saw last that a bucket was a catalog's."""


def read_marker(store: ObjectStore) -> str:
    """What the bucket says of itself.

    Raises:
        NotFoundError: it says nothing, or is not there.
    """
    return read_bytes(store, IDENTITY_KEY, at_most=4096).decode(errors="replace")


def write_marker(store: ObjectStore, identity: Identity) -> None:
    """Make the bucket this catalog's, whosever it was."""
    put_bytes(store, IDENTITY_KEY, identity.as_text().encode(), {"Content-Type": "text/plain"})


def epoch_in(marker: str, identity: Identity) -> int | None:
    """The epoch that a marker names of this very catalog; None if it names another one."""
    name, _, epoch = marker.strip().partition(" ")
    return int(epoch) if name == str(identity.catalog_id) and epoch.isdigit() else None


def is_older(marker: str, identity: Identity) -> bool:
    """Whether a bucket's marker names this very catalog, as it was before a restore."""
    epoch = epoch_in(marker, identity)
    return epoch is not None and epoch < identity.epoch


def require_ours(catalog: CatalogDatabase, store: ObjectStore, *, or_older: bool = False) -> None:
    """See that the bucket is this catalog's; with `or_older` it may still carry an epoch from before a restore.

    Raises:
        ForeignCatalogError: it is another catalog's, or nobody's.
        NotFoundError: there is no such bucket.
    """
    identity = catalog.transaction(read_identity)
    try:
        marker = read_marker(store)
    except NotFoundError:
        _require_bucket(store)
        raise ForeignCatalogError(
            f"bucket {store.bucket} carries no catalog id ({IDENTITY_KEY}); run the flow probe-store to claim it"
        ) from None
    if marker == identity.as_text():
        _looked_at[_pair(catalog, store)] = time.monotonic()
    elif not (or_older and is_older(marker, identity)):
        raise _not_ours(store, marker, identity)


def require_ours_lately(catalog: CatalogDatabase, store: ObjectStore) -> None:
    """The same, asked again only where this process has not seen it for a minute."""
    if time.monotonic() - _looked_at.get(_pair(catalog, store), -math.inf) > LOOKED_AT_FOR_SECONDS:
        require_ours(catalog, store)


def claim_bucket(catalog: CatalogDatabase, store: ObjectStore, *, known: bool) -> None:
    """Make a bucket this catalog's that `may_claim` lets it have."""
    if not may_claim(catalog, store, known=known):
        write_marker(store, catalog.transaction(read_identity))


def may_claim(catalog: CatalogDatabase, store: ObjectStore, *, known: bool) -> bool:
    """See that a bucket is nobody's, or this catalog's; whether it is this catalog's already.

    One that is not `known` to the catalog may have been declared after the backup that it was restored from: it is
    claimed again once all others are.

    Raises:
        ForeignCatalogError: it is another catalog's, or carries an epoch from before a restore.
    """
    identity = catalog.transaction(read_identity)
    try:
        marker = read_marker(store)
    except NotFoundError:
        return False
    if marker == identity.as_text():
        return True
    frozen = catalog.transaction(read_freeze)
    if known or not is_older(marker, identity) or (frozen is not None and frozen.claims_pending):
        raise _not_ours(store, marker, identity)
    return False


def _pair(catalog: CatalogDatabase, store: ObjectStore) -> tuple[object, ...]:
    return catalog.host, catalog.port, catalog.database, store.endpoint_url, store.bucket, store.prefix


def _require_bucket(store: ObjectStore) -> None:
    try:
        store_now(store)  # it asks for the bucket
    except NotFoundError as error:
        raise NotFoundError(
            f"bucket {store.bucket} does not exist; where it is gone for good, and holds no object that the catalog "
            "knows, `python -m flows location retire NAME --gone` ends its location"
        ) from error


def _not_ours(store: ObjectStore, marker: str, identity: Identity) -> ForeignCatalogError:
    if is_older(marker, identity):
        return ForeignCatalogError(
            f"bucket {store.bucket} still carries the epoch before this catalog was restored: run confirm-restore "
            "with take_over_buckets, unless another catalog is in use"
        )
    return ForeignCatalogError(
        f"bucket {store.bucket} belongs to catalog {marker.strip()!r}, this is {identity.as_text().strip()!r} "
        "(id and epoch): nothing is written or removed; point the block at this catalog's bucket"
    )
