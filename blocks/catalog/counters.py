"""Counters of customers against the sums of their rows, and their repair."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from blocks.catalog.customers import lock_customer


@dataclass(frozen=True)
class CounterDrift:
    """A key's counters against the sums of its rows, in bytes."""

    customer_id: int
    customer: str
    used_bytes: int
    used_sum: int
    reserved_bytes: int
    reserved_sum: int


def counter_drift(connection: Connection) -> list[CounterDrift]:
    """Keys whose counters are not the sums of their rows."""
    rows = connection.execute(
        text(
            "SELECT k.id, k.label, k.storage_used_bytes, coalesce(o.used, 0), k.storage_reserved_bytes, "
            "       coalesce(r.reserved, 0) "
            "  FROM api_keys k "
            "  LEFT JOIN (SELECT api_key_id, sum(size_bytes)::bigint AS used FROM stored_objects "
            "              WHERE state IN ('live', 'missing', 'corrupt') GROUP BY api_key_id) o "
            "    ON o.api_key_id = k.id "
            "  LEFT JOIN (SELECT api_key_id, sum(bytes)::bigint AS reserved FROM reservations GROUP BY api_key_id) r "
            "    ON r.api_key_id = k.id "
            " WHERE k.storage_used_bytes <> coalesce(o.used, 0) "
            "    OR k.storage_reserved_bytes <> coalesce(r.reserved, 0) ORDER BY k.id"
        )
    )
    return [CounterDrift(*row) for row in rows]


def repair_counters(connection: Connection, customer_id: int, *, run: str) -> CounterDrift:
    """Set a key's counters to the sums of its rows; returns what they were."""
    # The lock first, the sums in a later statement: a sum of the same snapshot would miss what was waited for.
    customer = lock_customer(connection, customer_id)
    row = connection.execute(
        text(
            "SELECT k.storage_used_bytes, k.storage_reserved_bytes, "
            "  (SELECT coalesce(sum(o.size_bytes), 0)::bigint FROM jobs j JOIN stored_objects o ON o.job_id = j.id "
            "    WHERE j.api_key_id = k.id AND o.state IN ('live', 'missing', 'corrupt')) AS used, "
            "  (SELECT coalesce(sum(bytes), 0)::bigint FROM reservations WHERE api_key_id = k.id) AS reserved "
            "  FROM api_keys k WHERE k.id = :id"
        ),
        {"id": customer_id},
    ).one()
    connection.execute(
        text("UPDATE api_keys SET storage_used_bytes = :used, storage_reserved_bytes = :reserved WHERE id = :id"),
        {"used": row.used, "reserved": row.reserved, "id": customer_id},
    )
    drift = CounterDrift(
        customer_id, customer.label, row.storage_used_bytes, row.used, row.storage_reserved_bytes, row.reserved
    )
    connection.execute(
        text(
            "INSERT INTO operation_log (run, operation, rule, api_key_id, before, after, bytes) "
            "VALUES (:run, 'repair', 'counters', :id, "
            "  jsonb_build_object('used', CAST(:a AS bigint), 'reserved', CAST(:b AS bigint)), "
            "  jsonb_build_object('used', CAST(:used AS bigint), 'reserved', CAST(:reserved AS bigint)), 0)"
        ),
        {
            "run": run,
            "id": customer_id,
            "a": drift.used_bytes,
            "b": drift.reserved_bytes,
            "used": drift.used_sum,
            "reserved": drift.reserved_sum,
        },
    )
    return drift
