"""Removing bytes that the catalog released; the only place from which an object's bytes are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import find_released, forget_released
from blocks.errors import StorageError
from blocks.object_store.deletion import delete_keys
from tasks.stores import OpenLocation


@dataclass(frozen=True)
class PurgeResult:
    """Keys that are gone, and keys that are not with the reason; their rows stay for the next try."""

    deleted: tuple[str, ...]
    failed: dict[str, str]


def purge_released(catalog: CatalogDatabase, location: OpenLocation, job_ids: Sequence[UUID]) -> PurgeResult:
    """Remove what these jobs released in this location: the bytes first, then the rows that name them.

    Killed in between, the rows are still there and the next call finishes. It is called after the work that released
    them is committed, so that a store or catalog that does not answer is told in the result, not raised.
    """
    try:
        return _purge(catalog, location, job_ids)
    except StorageError as error:
        return PurgeResult((), {str(job_id): str(error) for job_id in job_ids})


def _purge(catalog: CatalogDatabase, location: OpenLocation, job_ids: Sequence[UUID]) -> PurgeResult:
    released = [
        one
        for one in catalog.transaction(lambda connection: find_released(connection, job_ids))
        if one.location_id == location.place.id
    ]
    failed = delete_keys(location.store, [one.key for one in released])
    gone = [one for one in released if one.key not in failed]
    catalog.transaction(lambda connection: forget_released(connection, [one.object_id for one in gone]))
    return PurgeResult(deleted=tuple(one.key for one in gone), failed=failed)
