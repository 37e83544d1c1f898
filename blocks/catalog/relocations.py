"""Intents: a second writing of an object, committed before its bytes, swapped in under a generation check."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.customers import lock_customer
from blocks.catalog.log import Change, record
from blocks.catalog.objects import NewObject


def open_intent(connection: Connection, intent_id: UUID, target: NewObject, generation: int, *, operation: str) -> None:
    """Name the key that is about to be written for an existing row."""
    connection.execute(
        text(
            "INSERT INTO relocations (id, object_id, generation, operation, location_id, key) "
            "VALUES (CAST(:id AS uuid), CAST(:object AS uuid), :generation, :operation, :location, :key)"
        ),
        {
            "id": str(intent_id),
            "object": str(target.id),
            "generation": generation,
            "operation": operation,
            "location": target.location_id,
            "key": target.key,
        },
    )


def swap_healed(
    connection: Connection,
    intent_id: UUID,
    customer_id: int,
    target: NewObject,
    generation: int,
    *,
    etag: str | None,
    keep: timedelta,
    run: str,
    rule: str,
) -> bool:
    """Point a missing or corrupt row at the new bytes; False where the row is no longer the one that was read."""
    lock_customer(connection, customer_id)
    old = connection.execute(
        text(
            "SELECT location_id, key, url_expires_at, state FROM stored_objects "
            " WHERE id = CAST(:id AS uuid) AND generation = :generation "
            "   AND state IN ('missing', 'corrupt') AND sha256 = :sha256 FOR UPDATE"
        ),
        {"id": str(target.id), "generation": generation, "sha256": target.sha256},
    ).one_or_none()
    if old is None:
        return False
    # An intent that cleanup gave up has no bytes any more, whoever wakes up late.
    intent = connection.execute(
        text(
            "UPDATE relocations SET state = 'swapped', old_location_id = :location, old_key = :key, "
            "       release_after = greatest(:until, clock_timestamp()) + :keep "
            " WHERE id = CAST(:id AS uuid) AND state = 'open'"
        ),
        {"id": str(intent_id), "location": old.location_id, "key": old.key, "until": old.url_expires_at, "keep": keep},
    )
    if intent.rowcount == 0:
        return False
    connection.execute(
        text(
            "UPDATE stored_objects SET location_id = :location, key = :key, codec = 'identity', "
            "       stored_bytes = size_bytes, etag = :etag, state = 'live', "
            "       generation = generation + 1, verified_at = clock_timestamp(), "
            "       relocated_at = clock_timestamp() WHERE id = CAST(:id AS uuid)"
        ),
        {"id": str(target.id), "location": target.location_id, "key": target.key, "etag": etag},
    )
    before, after = {"state": old.state, "key": old.key}, {"state": "live", "key": target.key}
    record(
        connection,
        [Change(run, "heal", rule, customer_id, target.job_id, target.id, before, after, target.size_bytes)],
    )
    return True


def give_up_intent(connection: Connection, intent_id: UUID) -> bool:
    """Release the key of an intent that was not swapped; False where it was, and the key is some row's now."""
    released = connection.execute(
        text("UPDATE relocations SET state = 'failed' WHERE id = CAST(:id AS uuid) AND state = 'open'"),
        {"id": str(intent_id)},
    )
    return released.rowcount == 1
