"""Which live objects are old enough for a rule of the server that moves them to another class."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class OldObjects:
    """Sums over the objects, bytes as stored; `oldest` are the first by age, with the time they were written."""

    objects: int
    jobs: int
    stored_bytes: int
    overdue: int
    oldest: tuple[tuple[str, datetime], ...]


# A copy under a fresh key is a new object to the server: its age starts there.
_OLD = (
    "  FROM stored_objects "
    " WHERE location_id = :location AND state = 'live' AND starts_with(key, :folder) "
    "   AND coalesce(relocated_at, created_at) <= :written_until AND stored_bytes >= :smallest "
)


def find_old_objects(
    connection: Connection,
    location_id: int,
    folder: str,
    *,
    written_until: datetime,
    overdue_until: datetime,
    smallest: int,
    most_examples: int,
) -> OldObjects:
    """Live objects under `folder` that were written until `written_until`, and how many until `overdue_until`.

    None of fewer bytes as stored than `smallest`.
    """
    meant = {"location": location_id, "folder": folder, "written_until": written_until, "smallest": smallest}
    sums = connection.execute(
        text(
            "SELECT count(*) AS objects, count(DISTINCT job_id) AS jobs, "
            "       coalesce(sum(stored_bytes), 0)::bigint AS stored_bytes, "
            "       count(*) FILTER (WHERE coalesce(relocated_at, created_at) <= :overdue_until) AS overdue " + _OLD
        ),
        meant | {"overdue_until": overdue_until},
    ).one()
    oldest = connection.execute(
        text(
            "SELECT key, coalesce(relocated_at, created_at) AS written_at " + _OLD + "ORDER BY written_at LIMIT :most"
        ),
        meant | {"most": most_examples},
    )
    return OldObjects(**sums._mapping, oldest=tuple((row.key, row.written_at) for row in oldest))
