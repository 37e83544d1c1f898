"""Removing bytes that the catalog released, and those of writings that were given up before they were committed.

Bytes first, then the rows that name them: killed in between, the rows are still there and the next call finishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import (
    Extent,
    NewObject,
    Released,
    find_released,
    forget_released,
    release_objects,
)
from blocks.errors import LockLostError, StorageError
from blocks.object_store.deletion import MOST_KEYS, delete_keys
from tasks.stores import OpenLocation

PARALLEL_BATCHES = 3
TRIES = 3
PAUSE_SECONDS = 0.2
_FIRST = UUID(int=0)


@dataclass
class PurgeResult:
    """What is gone, by job; and keys that are not with the reason: their rows stay for the next try."""

    deleted: dict[UUID, Extent] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def objects(self) -> int:
        """Objects that are gone."""
        return sum(extent.objects for extent in self.deleted.values())

    @property
    def freed_bytes(self) -> int:
        """Bytes that came back."""
        return sum(extent.stored_bytes for extent in self.deleted.values())


def purge_released(
    catalog: CatalogDatabase,
    location: OpenLocation,
    job_ids: Sequence[UUID] | None,
    *,
    run: str = "",
    before_batch: Callable[[], None] = lambda: None,
) -> PurgeResult:
    """Remove what these jobs released in this location, or what all did (None), with an outcome for every key.

    It is called after the work that released them is committed, so that a store or catalog that does not answer is
    told in the result, not raised; `before_batch` may raise, and ends it between two batches.
    """
    result = PurgeResult()
    with ThreadPoolExecutor(max_workers=PARALLEL_BATCHES) as pool:
        under_way: set[Future[PurgeResult]] = set()
        try:
            for page in _pages(catalog, location, job_ids):
                before_batch()
                under_way.add(pool.submit(_purge_page, catalog, location, page, run))
                if len(under_way) >= PARALLEL_BATCHES:
                    under_way = _collect(under_way, result)
        except StorageError as error:
            if job_ids is None or isinstance(error, LockLostError):
                raise
            result.failed |= {str(job_id): str(error) for job_id in job_ids}
        finally:
            while under_way:
                under_way = _collect(under_way, result)
    return result


def give_up(catalog: CatalogDatabase, location: OpenLocation, objects: Sequence[NewObject], *, run: str) -> None:
    """Undo writings that were surely not committed: rows are released, and what was written is removed."""
    catalog.transaction(lambda connection: release_objects(connection, [one.id for one in objects], run=run))
    # The rows may be another run's to purge by now; these bytes are ours to remove.
    with suppress(StorageError):
        delete_keys(location.store, [one.key for one in objects])
    purge_released(catalog, location, list({one.job_id for one in objects}), run=run)


def _pages(
    catalog: CatalogDatabase, location: OpenLocation, job_ids: Sequence[UUID] | None
) -> Iterator[list[Released]]:
    # One by one: each is an index's own order.
    for place in location.place.shelf:
        after = _FIRST

        def read(connection: Connection, place: int = place) -> list[Released]:
            return find_released(connection, place, after=after, limit=MOST_KEYS, job_ids=job_ids)  # noqa: B023 -- runs at once

        while page := catalog.transaction(read):
            yield page
            # A page that failed is passed by: its rows are for the next run.
            after = page[-1].object_id


def _purge_page(catalog: CatalogDatabase, location: OpenLocation, page: Sequence[Released], run: str) -> PurgeResult:
    result = PurgeResult()
    try:
        result.failed = _delete(location, [one.key for one in page])
        gone = [one for one in page if one.key not in result.failed]
        ids = [one.object_id for one in gone]
        forgotten = catalog.transaction(lambda connection: forget_released(connection, ids, run=run))
    except StorageError as error:
        result.failed = {one.key: str(error) for one in page}
        return result
    for one in (one for one in gone if one.object_id in forgotten):
        result.deleted[one.job_id] = result.deleted.get(one.job_id, Extent()) + Extent(1, one.stored_bytes)
    return result


def _delete(location: OpenLocation, keys: list[str]) -> dict[str, str]:
    """Delete, and try again only what could not be deleted."""
    failed = dict.fromkeys(keys, "")
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2**attempt)
        failed = delete_keys(location.store, list(failed))
        if not failed:
            break
    return failed


def _collect(under_way: set[Future[PurgeResult]], result: PurgeResult) -> set[Future[PurgeResult]]:
    done, rest = wait(under_way, return_when=FIRST_COMPLETED)
    for one in done:
        page = one.result()
        for job_id, extent in page.deleted.items():
            result.deleted[job_id] = result.deleted.get(job_id, Extent()) + extent
        result.failed |= page.failed
    return rest
