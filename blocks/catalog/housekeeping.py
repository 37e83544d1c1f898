"""What is kept in order beside jobs: reservations, forms, abandoned writings, the log's months, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from blocks.catalog.admission import settle
from blocks.catalog.customers import lock_customer
from blocks.catalog.findings import forget_findings
from blocks.catalog.objects import Extent, release_objects
from blocks.catalog.trash import Changed

LOG_MONTHS_AHEAD = 14
LOCK_NOT_AVAILABLE = "55P03"


_ANALYSE_NEW = text(
    "DO $$ BEGIN "
    "  IF EXISTS (SELECT FROM pg_class WHERE reltuples < 0 AND relnamespace = 'public'::regnamespace "
    "               AND relname IN ('jobs', 'stored_objects', 'reservations')) THEN "
    # Another batch of the same run may be at it.
    "    ANALYZE (SKIP_LOCKED) api_keys, jobs, stored_objects, reservations; "
    "  END IF; END $$"
)


def analyse_new(connection: Connection) -> None:
    """Let PostgreSQL look at tables that it has never looked at, once they have their first rows.

    Autovacuum comes by a minute later. Until then plans suit a handful of jobs, sessions keep them, and every object
    that is written reads all its customer's jobs to see that its own is among them.
    """
    connection.execute(_ANALYSE_NEW)


def end_lapsed(connection: Connection, customer_id: int, reservations: Sequence[UUID]) -> None:
    """Give back the quota of reservations that have ended; one that was prolonged meanwhile stays."""
    lock_customer(connection, customer_id)
    ended = connection.execute(
        text("SELECT id FROM reservations WHERE id = ANY (CAST(:ids AS uuid[])) AND expires_at <= clock_timestamp()"),
        {"ids": [str(one) for one in reservations]},
    ).scalars()
    settle(connection, customer_id, dict.fromkeys(ended, 0), keep_for=timedelta(0))


def close_forms(connection: Connection, customer_id: int, upload_ids: Sequence[UUID]) -> set[UUID]:
    """Forms that nobody completed in time fail; returns those that were still open."""
    lock_customer(connection, customer_id)
    closed = set(
        connection.execute(
            text(
                "UPDATE uploads SET status = 'failed' WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'open' "
                "   AND expires_at <= clock_timestamp() RETURNING id"
            ),
            {"ids": [str(one) for one in upload_ids]},
        ).scalars()
    )
    settle(connection, customer_id, dict.fromkeys(closed, 0), keep_for=timedelta(0))
    return closed


def give_up_writings(
    connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, before: datetime, run: str
) -> Changed:
    """Release what was named before a time and never became live; the writer, should it wake up, is fenced off."""
    changed = Changed()
    lock_customer(connection, customer_id)
    still = connection.execute(
        text(
            "SELECT o.id, o.job_id FROM stored_objects o WHERE o.job_id = ANY (CAST(:ids AS uuid[])) "
            "   AND o.state = 'pending' AND o.created_at <= :before "
            "   AND NOT EXISTS (SELECT 1 FROM reservations r WHERE r.job_id = o.job_id "
            "                      AND r.expires_at > clock_timestamp())"
        ),
        {"ids": [str(one) for one in job_ids], "before": before},
    ).all()
    given_up = {row.job_id for row in still}
    changed.skipped = {one: "finished meanwhile" for one in job_ids if one not in given_up}
    # Only those: what was begun since then may be somebody's work under way.
    released = release_objects(connection, [row.id for row in still], run=run, rule="abandoned_hours")
    changed.done = dict.fromkeys(given_up, Extent()) | released
    return changed


def tidy_totals(connection: Connection, *, keep: timedelta) -> None:
    """Fold what has changed into the totals, where nobody asks for figures; old findings go with their months."""
    connection.execute(text("SELECT fold_storage_changes()"))
    forget_findings(connection, keep=keep)


def turn_log(connection: Connection, *, keep_days: int) -> list[str] | None:
    """Make the log's months to come, and drop those that are wholly past their time; returns what was dropped.

    None where somebody reads the log: everybody who writes to it would queue behind us. The next night tries again.
    """
    try:
        with connection.begin_nested():
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(
                text("SELECT create_log_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date, :months)"),
                {"months": LOG_MONTHS_AHEAD},
            )
            dropped: list[str] = connection.execute(
                text("SELECT drop_log_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date - :days)"),
                {"days": keep_days},
            ).scalar_one()
    except OperationalError as error:
        if getattr(error.orig, "pgcode", "") != LOCK_NOT_AVAILABLE:
            raise
        return None
    return dropped
