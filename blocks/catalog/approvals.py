"""Runs that asked whether they may go on, and what became of the question."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, text


def overtake(connection: Connection, *, operation: str, scope: str, run: UUID) -> list[UUID]:
    """A newer plan of this kind ends older requests; returns the runs that asked them."""
    rows = connection.execute(
        text(
            "UPDATE approvals SET state = 'overtaken' WHERE operation = :operation AND scope = :scope "
            "   AND state = 'asked' AND run <> CAST(:run AS uuid) RETURNING run"
        ),
        {"operation": operation, "scope": scope, "run": str(run)},
    )
    return list(rows.scalars())


def ask(
    connection: Connection,
    *,
    run: UUID,
    operation: str,
    scope: str,
    objects: int,
    size_bytes: int,
    lasts: timedelta,
) -> None:
    """Write down that this run waits for an answer; asked again, because its plan grew, it waits anew."""
    connection.execute(
        text(
            "INSERT INTO approvals (run, operation, scope, objects, size_bytes, ends_at) "
            "VALUES (CAST(:run AS uuid), :operation, :scope, :objects, :size, clock_timestamp() + :lasts) "
            "ON CONFLICT (run) DO UPDATE SET objects = excluded.objects, size_bytes = excluded.size_bytes, "
            "  state = 'asked', asked_at = clock_timestamp(), ends_at = excluded.ends_at"
        ),
        {
            "run": str(run),
            "operation": operation,
            "scope": scope,
            "objects": objects,
            "size": size_bytes,
            "lasts": lasts,
        },
    )


def answer(connection: Connection, run: UUID, *, approved: bool) -> bool:
    """Write down the answer; False where a newer plan overtook the question, and nothing may happen."""
    rows = connection.execute(
        text(
            "UPDATE approvals SET state = :state WHERE run = CAST(:run AS uuid) AND state <> 'overtaken' RETURNING run"
        ),
        {"state": "approved" if approved else "denied", "run": str(run)},
    )
    return rows.one_or_none() is not None
