"""A missing or corrupt object gets its bytes back, from a source that was proved to be its content."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.moving import start_over
from blocks.catalog.objects import NewObject
from blocks.catalog.relocations import UNSOUND, Intent, Movable, Proved, give_up_intents, open_intents, swap
from blocks.errors import OvertakenError, SourceChangedError, StorageError
from blocks.object_store.transfer import Written
from tasks.layout import PLAYLISTS, rewritten_key
from tasks.relocation.intents import remove_given_up
from tasks.stores import OpenLocation
from tasks.writing import LocalFile, StoredBlob, Writing, write_object

OLD_BYTES_STAY = timedelta(minutes=15)
"""Beside the last URL's end: clocks differ, and a download that started in time may still run. No policy's, as that of
what is moved: the old bytes are gone or wrong, and nobody may want them back."""


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
    movable: Movable = UNSOUND,
) -> None:
    """Write the content under a fresh key and point the row at it; nobody's quota moves.

    Raises:
        OvertakenError: the row changed meanwhile; what was written is removed.
        SourceChangedError: the source holds other bytes, or cannot be read any more.
        StorageError: the bytes could not be written or proved.
    """
    intent_id = uuid4()
    key = rewritten_key(missing.job_id, missing.kind, missing.name, intent_id)
    healed = replace(missing, key=key, location_id=location.place.id)
    codec = source.codec if isinstance(source, StoredBlob) else "identity"
    intent = Intent(intent_id, healed.id, generation, location.place.id, key, codec)
    opened = catalog.transaction(
        lambda connection: open_intents(connection, [intent], movable=movable, operation="heal", rule=rule, run=run)
    )
    if not opened:
        raise OvertakenError(f"job {missing.job_id} changed while its {missing.kind} was healed; try again")

    def point(connection: Connection) -> bool:
        proved = [Proved(intent_id, written.etag, written.size_bytes)]
        playlist = PLAYLISTS.get(missing.kind)
        streams = [(missing.job_id, missing.kind, playlist)] if playlist else []
        swapped = swap(connection, customer_id, proved, movable=movable, keep=OLD_BYTES_STAY, playlists=streams)
        if swapped:
            start_over(connection, [missing.job_id], asked=False)
        return bool(swapped)

    try:
        written = _written(location, Writing(healed, source))
        if not catalog.transaction(point):
            raise OvertakenError(f"job {missing.job_id} changed while its {missing.kind} was healed; try again")
    except StorageError:
        # Only an intent that is surely not swapped gives its key up: the answer to the swap's COMMIT can be lost.
        if catalog.transaction(lambda connection: give_up_intents(connection, [intent_id])):
            remove_given_up(catalog, location, [intent], run=run)
        raise


def _written(location: OpenLocation, writing: Writing) -> Written:
    try:
        return write_object(location, writing)
    except OSError as error:
        name = Path(str(error.filename or "")).name
        raise SourceChangedError(f"{name} cannot be read any more: {error.strerror or error}") from error
