"""What a cleanup would find at a time, each by an index of its own: it costs what is due, not what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from blocks.catalog.tables import UNFINISHED

UNDER_WAY = f"status IN ({', '.join(map(repr, map(str, UNFINISHED)))}) AND deleted_at IS NULL"
"""Jobs that somebody is at, or was: an index's own predicate, word for word."""
MOST = 200_000
"""Rows of one rule in one run: memory stays bounded, and the next run takes the rest."""
HELD_TOLD = 500
"""Jobs on hold that are told beside those that a rule or a policy takes."""


@dataclass(frozen=True, slots=True)
class DueJob:
    """A job that a rule reaches; `since` is when that began to count, `detail` its status or error."""

    id: UUID
    customer_id: int
    customer: str
    since: datetime
    hold: str | None
    detail: str
    objects: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class DueReservations:
    """Lapsed reservations of one customer."""

    customer_id: int
    customer: str
    reservations: tuple[UUID, ...]
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class DueUpload:
    """A form that nobody will complete any more."""

    id: UUID
    customer_id: int
    customer: str
    expires_at: datetime


_JOBS = """
SELECT j.id, j.api_key_id, k.label, j.{since}, j.hold, coalesce({detail}, ''),
       coalesce(o.objects, 0), coalesce(o.stored_bytes, 0)
  FROM ((SELECT * FROM jobs WHERE {which} AND hold IS NULL ORDER BY {since} LIMIT {most})
        UNION ALL
        -- Told, and left: many of them would leave no room for others.
        (SELECT * FROM jobs WHERE hold IS NOT NULL AND {which} LIMIT {held})) j
  JOIN api_keys k ON k.id = j.api_key_id
  LEFT JOIN LATERAL (SELECT count(*) AS objects, sum(stored_bytes)::bigint AS stored_bytes FROM stored_objects s
                      WHERE s.job_id = j.id AND s.state {states}) o ON true
 ORDER BY j.api_key_id, j.id
"""
_EVERYTHING = "<> 'purging'"
_FAILED = text(
    _JOBS.format(
        since="updated_at", detail="j.error_message", states=_EVERYTHING, most=MOST, held=HELD_TOLD,
        which="status = 'failed' AND deleted_at IS NULL AND updated_at <= :at",
    )
)  # fmt: skip
_TRASHED = text(
    _JOBS.format(
        since="purge_after", detail="j.status", states=_EVERYTHING, most=MOST, held=HELD_TOLD,
        which="deleted_at IS NOT NULL AND status <> 'cleaned_up' AND purge_after <= :at",
    )
)  # fmt: skip
_STUCK = text(
    _JOBS.format(
        since="updated_at", detail="j.status", states="= 'pending'", most=MOST, held=HELD_TOLD,
        which=f"{UNDER_WAY} AND updated_at <= :at AND (status <> 'uploading' OR NOT EXISTS "
        "(SELECT 1 FROM reservations r WHERE r.job_id = jobs.id AND r.expires_at > clock_timestamp()))",
    )
)  # fmt: skip
_ERASED = text(
    _JOBS.format(
        since="erase_requested_at", detail="j.status", states=_EVERYTHING, most=MOST, held=HELD_TOLD,
        which="erase_requested_at IS NOT NULL",
    )
)  # fmt: skip
_ABANDONED = text(
    f"""
SELECT j.id, j.api_key_id, k.label, a.since, j.hold, j.status, a.objects, a.stored_bytes
  FROM (SELECT job_id, min(created_at) AS since, count(*) AS objects, sum(stored_bytes)::bigint AS stored_bytes
          FROM stored_objects WHERE state = 'pending' AND created_at <= :at GROUP BY job_id LIMIT {MOST}) a
  JOIN jobs j ON j.id = a.job_id JOIN api_keys k ON k.id = j.api_key_id
 WHERE NOT EXISTS (SELECT 1 FROM reservations r WHERE r.job_id = j.id AND r.expires_at > clock_timestamp())
 ORDER BY j.api_key_id, j.id
"""
)


def failed_jobs(connection: Connection, before: datetime) -> list[DueJob]:
    """Jobs that failed before a time and still have their files."""
    return _jobs(connection, _FAILED, before)


def trashed_jobs(connection: Connection, at: datetime) -> list[DueJob]:
    """Jobs in the trash whose date has come."""
    return _jobs(connection, _TRASHED, at)


def stuck_jobs(connection: Connection, before: datetime) -> list[DueJob]:
    """Jobs without progress since a time; uploads whose reservation lives are under way."""
    return _jobs(connection, _STUCK, before)


def abandoned_writings(connection: Connection, before: datetime) -> list[DueJob]:
    """Jobs with rows that were named before a time and never became live."""
    return _jobs(connection, _ABANDONED, before)


def _jobs(connection: Connection, statement: TextClause, at: datetime) -> list[DueJob]:
    return [DueJob(*row) for row in connection.execute(statement, {"at": at})]


def lapsed_reservations(connection: Connection, at: datetime) -> list[DueReservations]:
    """Reservations that ended, by customer."""
    rows = connection.execute(
        text(
            "SELECT r.api_key_id, k.label, array_agg(r.id::text), sum(r.bytes)::bigint "
            f"  FROM (SELECT * FROM reservations WHERE expires_at <= :at ORDER BY expires_at LIMIT {MOST}) r "
            "  JOIN api_keys k ON k.id = r.api_key_id GROUP BY r.api_key_id, k.label ORDER BY r.api_key_id"
        ),
        {"at": at},
    )
    return [DueReservations(row[0], row[1], tuple(UUID(one) for one in row[2]), row[3]) for row in rows]


def expired_uploads(connection: Connection, before: datetime) -> list[DueUpload]:
    """Forms that ended before a time and were never completed."""
    rows = connection.execute(
        text(
            "SELECT u.id, u.api_key_id, k.label, u.expires_at FROM uploads u JOIN api_keys k ON k.id = u.api_key_id "
            f" WHERE u.status = 'open' AND u.expires_at <= :at ORDER BY u.expires_at LIMIT {MOST}"
        ),
        {"at": before},
    )
    return [DueUpload(*row) for row in rows]


def open_form_keys(connection: Connection, location_ids: Sequence[int], keys: Sequence[str]) -> set[str]:
    """Which of these keys a form may still be completed from."""
    rows = connection.execute(
        text("SELECT key FROM uploads WHERE location_id = ANY (:locations) AND key = ANY (:keys) AND status = 'open'"),
        {"locations": list(location_ids), "keys": list(keys)},
    )
    return set(rows.scalars())


def keys_under_way(connection: Connection, location_ids: Sequence[int], keys: Sequence[str]) -> set[str]:
    """Which of these keys somebody still writes to, with bytes reserved for them."""
    rows = connection.execute(
        text(
            "SELECT key FROM stored_objects o "
            " WHERE location_id = ANY (:locations) AND key = ANY (:keys) AND state = 'pending' AND EXISTS ("
            "       SELECT 1 FROM reservations r WHERE r.job_id = o.job_id AND r.expires_at > clock_timestamp())"
        ),
        {"locations": list(location_ids), "keys": list(keys)},
    )
    return set(rows.scalars())


def held_jobs(connection: Connection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these jobs are on hold."""
    rows = connection.execute(
        text("SELECT id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND hold IS NOT NULL"),
        {"ids": [str(one) for one in job_ids]},
    )
    return set(rows.scalars())


def erasures(connection: Connection) -> list[DueJob]:
    """Jobs whose erasure was begun, and killed before its end."""
    return [DueJob(*row) for row in connection.execute(_ERASED)]


def released_extent(connection: Connection, location_ids: Sequence[int]) -> tuple[int, int]:
    """Objects and bytes of a shelf that are released already: by a killed run, or while the store did not answer."""
    row = connection.execute(
        text(
            "SELECT count(*), coalesce(sum(stored_bytes), 0)::bigint FROM stored_objects "
            " WHERE location_id = ANY (:locations) AND state = 'purging'"
        ),
        {"locations": list(location_ids)},
    ).one()
    return row[0], row[1]


def count_up_to(connection: Connection, most: int) -> int:
    """How many objects there are, counted no further than `most`: a share needs no more."""
    count: int = connection.execute(
        text("SELECT count(*) FROM (SELECT 1 FROM stored_objects LIMIT :most) AS counted"), {"most": most}
    ).scalar_one()
    return count


def dump_bytes(connection: Connection) -> int:
    """About what a dump will hold: tables without their indexes."""
    size: int = connection.execute(
        text("SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE relkind = 'r'")
    ).scalar_one()
    return size
