"""A missing or corrupt object gets its bytes back, from a source that was proved to be its content."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import NewObject
from blocks.catalog.relocations import give_up_intent, open_intent, swap_healed
from blocks.errors import OvertakenError, StorageError
from blocks.object_store.deletion import delete_keys
from tasks.layout import rewritten_key
from tasks.stores import OpenLocation
from tasks.writing import LocalFile, StoredBlob, Writing, write_object

OLD_BYTES_STAY = timedelta(minutes=15)
"""Beside the last URL's end: clocks differ, and a download that started in time may still run."""


def heal(
    catalog: CatalogDatabase,
    location: OpenLocation,
    customer_id: int,
    missing: NewObject,
    generation: int,
    source: LocalFile | StoredBlob,
    *,
    run: str,
    rule: str = "original_missing",
) -> None:
    """Write the content under a fresh key and point the row at it; nobody's quota moves.

    Raises:
        OvertakenError: the row changed meanwhile; what was written is removed.
        StorageError: the bytes could not be written or proved.
    """
    intent_id = uuid4()
    healed = replace(missing, key=rewritten_key(missing.job_id, missing.name, intent_id))
    catalog.transaction(lambda connection: open_intent(connection, intent_id, healed, generation, operation="heal"))
    try:
        written = write_object(location, Writing(healed, source))
        swapped = catalog.transaction(
            lambda connection: swap_healed(
                connection,
                intent_id,
                customer_id,
                healed,
                generation,
                etag=written.etag,
                keep=OLD_BYTES_STAY,
                run=run,
                rule=rule,
            )
        )
        if not swapped:
            raise OvertakenError(f"job {missing.job_id} changed while its original was healed; try again")
    except StorageError:
        # Only an intent that is surely not swapped gives its key up: the answer to the swap's COMMIT can be lost.
        if catalog.transaction(lambda connection: give_up_intent(connection, intent_id)):
            delete_keys(location.store, [healed.key])
        raise
