"""Jobs that an operator means: by their ids, or by what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

MOST_JOBS = 200_000
"""Jobs that somebody chose, in one run: memory stays bounded, and the next run takes the rest."""


@dataclass(frozen=True)
class JobFilter:
    """What jobs are wanted; None is no condition. Ages are by creation, sizes are of all of a job's objects."""

    job_ids: tuple[UUID, ...] | None = None
    customer_id: int | None = None
    status: str | None = None
    created_before: datetime | None = None
    at_least_bytes: int | None = None
    trashed: bool | None = None


@dataclass(frozen=True, slots=True)
class SelectedJob:
    """A job that was found, with how much it stores."""

    id: UUID
    customer_id: int
    customer: str
    status: str
    hold: str | None
    created_at: datetime
    deleted_at: datetime | None
    objects: int
    stored_bytes: int


# By size alone every job would be added up. What a fold knew to be smaller, and what nothing was done to since, is left
# out; of what remains the rows are added up as ever.
_MAY_BE_LARGE = """
   AND j.id IN (SELECT t.job_id FROM job_totals t WHERE t.size_bytes >= :at_least
                UNION SELECT c.job_id FROM storage_changes c
                UNION SELECT p.job_id FROM stored_objects p WHERE p.state = 'pending'
                UNION SELECT d.id FROM jobs d
                       WHERE d.deleted_at IS NOT NULL AND d.status <> 'cleaned_up' AND coalesce(:trashed, true))
"""


def select_jobs(connection: Connection, wanted: JobFilter) -> list[SelectedJob]:
    """The jobs, by customer and age; at most `MOST_JOBS`."""
    rows = connection.execute(
        text(
            "SELECT j.id, j.api_key_id, k.label, j.status, j.hold, j.created_at, j.deleted_at, "
            "       o.objects, o.stored_bytes "
            "  FROM jobs j JOIN api_keys k ON k.id = j.api_key_id "
            "  CROSS JOIN LATERAL (SELECT count(*) AS objects, coalesce(sum(stored_bytes), 0)::bigint AS stored_bytes, "
            "                             coalesce(sum(size_bytes), 0)::bigint AS size_bytes "
            "                        FROM stored_objects s WHERE s.job_id = j.id AND s.state <> 'purging') o "
            " WHERE (CAST(:ids AS uuid[]) IS NULL OR j.id = ANY (CAST(:ids AS uuid[]))) "
            "   AND (CAST(:customer AS bigint) IS NULL OR j.api_key_id = :customer) "
            "   AND (CAST(:status AS text) IS NULL OR j.status = :status) "
            "   AND (CAST(:before AS timestamptz) IS NULL OR j.created_at <= :before) "
            "   AND (CAST(:at_least AS bigint) IS NULL OR o.size_bytes >= :at_least) "
            "   AND (CAST(:trashed AS boolean) IS NULL OR (j.deleted_at IS NOT NULL) = :trashed "
            # What was given up is in no trash any more, and would fill the list for ever.
            # Nor has a filter anything to delete of it, unless it asks for such jobs.
            "        AND (j.status <> 'cleaned_up' OR (NOT :trashed AND :status = 'cleaned_up'))) "
            f"  {_MAY_BE_LARGE if wanted.at_least_bytes else ''} "
            f" ORDER BY j.api_key_id, j.created_at, j.id LIMIT {MOST_JOBS}"
        ),
        {
            "ids": None if wanted.job_ids is None else [str(one) for one in wanted.job_ids],
            "customer": wanted.customer_id,
            "status": wanted.status,
            "before": wanted.created_before,
            "at_least": wanted.at_least_bytes,
            "trashed": wanted.trashed,
        },
    )
    return [SelectedJob(*row) for row in rows]


NOWHERE = 0
"""No location's id."""


def other_keys(connection: Connection, job_ids: Sequence[UUID]) -> dict[int, list[str]]:
    """Keys outside of the rows that belong to jobs, by location's id: forms' blobs under temp/, and exports.

    Keys of exports whose location is not known are those of `NOWHERE`.
    """
    rows = connection.execute(
        text(
            "SELECT u.location_id, u.key FROM uploads u "
            " WHERE u.job_id = ANY (CAST(:ids AS uuid[])) OR u.result_job_id = ANY (CAST(:ids AS uuid[])) "
            "UNION "
            f"SELECT coalesce(l.id, {NOWHERE}), g.after ->> 'export' FROM operation_log g "
            "  LEFT JOIN locations l ON l.name = g.after ->> 'location' "
            " WHERE g.job_id = ANY (CAST(:ids AS uuid[])) AND g.operation = 'bulk-download' "
            "   AND g.after ->> 'export' IS NOT NULL"
        ),
        {"ids": [str(one) for one in job_ids]},
    )
    keys: dict[int, list[str]] = {}
    for location, key in rows:
        keys.setdefault(location, []).append(key)
    return keys
