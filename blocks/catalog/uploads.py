"""Upload forms: what may arrive under `temp/`, from whom, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.locations import IN_USE, gone_out_of_use


@dataclass(frozen=True)
class UploadRow:
    """A form that was handed out."""

    id: UUID
    api_key_id: int
    job_id: UUID | None
    location_id: int
    key: str
    filename: str
    size_bytes: int
    status: str
    result_job_id: UUID | None
    result_object_id: UUID | None


_COLUMNS = "id, api_key_id, job_id, location_id, key, filename, size_bytes, status, result_job_id, result_object_id"


def insert_upload(
    connection: Connection,
    *,
    upload_id: UUID,
    customer_id: int,
    job_id: UUID | None,
    location_id: int,
    key: str,
    filename: str,
    size_bytes: int,
    lasts: timedelta,
) -> datetime:
    """Name the key that the form may write; returns when the form ends.

    Raises:
        RefusedError: the location was retired since it was opened.
    """
    expires_at: datetime | None = connection.execute(
        text(
            f"WITH places AS MATERIALIZED ({IN_USE}) "
            "INSERT INTO uploads (id, api_key_id, job_id, location_id, key, filename, size_bytes, expires_at) "
            "SELECT CAST(:id AS uuid), :customer, CAST(:job AS uuid), id, :key, :filename, :size, "
            "       clock_timestamp() + :lasts FROM places RETURNING expires_at"
        ),
        {
            "id": str(upload_id),
            "customer": customer_id,
            "job": str(job_id) if job_id else None,
            "locations": [location_id],
            "key": key,
            "filename": filename,
            "size": size_bytes,
            "lasts": lasts,
        },
    ).scalar_one_or_none()
    if expires_at is None:
        raise gone_out_of_use()
    return expires_at


def find_upload(connection: Connection, upload_id: UUID) -> UploadRow | None:
    """The form, or None."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM uploads WHERE id = CAST(:id AS uuid)"), {"id": str(upload_id)}
    ).one_or_none()
    return UploadRow(**row._mapping) if row else None


def finish_upload(
    connection: Connection, upload_id: UUID, *, status: str, job_id: UUID | None, object_id: UUID | None
) -> bool:
    """Close an open form; False where somebody closed it before."""
    done = connection.execute(
        text(
            "UPDATE uploads SET status = :status, result_job_id = CAST(:job AS uuid), "
            "       result_object_id = CAST(:object AS uuid) WHERE id = CAST(:id AS uuid) AND status = 'open'"
        ),
        {
            "status": status,
            "job": str(job_id) if job_id else None,
            "object": str(object_id) if object_id else None,
            "id": str(upload_id),
        },
    )
    return done.rowcount == 1
