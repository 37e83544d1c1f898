"""Finding what a customer asked for, and noting that it was asked for, in one statement.

An HLS kind is noted on its playlist's row, for all of its segments: one row is written where there may be thousands.
Whoever moves a segment has to lock that row first, and to keep the old bytes until its `url_expires_at`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.customers import find_customer, require_enabled, storable
from blocks.catalog.jobs import find_job, require_readable
from blocks.catalog.locations import restore_first
from blocks.errors import NotFoundError, RefusedError
from blocks.units import shown


@dataclass(frozen=True)
class Handed:
    """An object that may be handed out until `expires_at`; its old bytes stay at least as long."""

    object_id: UUID
    kind: str
    name: str
    key: str
    codec: str
    location_id: int
    size_bytes: int
    sha256: str
    filename: str
    expires_at: datetime


@dataclass(frozen=True)
class HandedFile:
    """One file of an HLS kind."""

    id: UUID
    name: str
    key: str
    codec: str
    size_bytes: int
    location_id: int


# One statement: whoever moves this object afterwards sees `url_expires_at` and keeps the old bytes until then, and
# whoever moved it before is what this statement reads (the row alone: what is joined to it would be judged by where it
# was when the statement began). `greatest`, because an earlier URL may last longer.
_HAND_OUT = text(
    """
    WITH job AS (
        UPDATE jobs j SET last_accessed_at = clock_timestamp()
          FROM api_keys k
         WHERE j.id = CAST(:job AS uuid) AND k.id = j.api_key_id AND k.disabled_at IS NULL
           AND (k.label = :key OR k.id = :key_id) AND j.deleted_at IS NULL
           AND j.status NOT IN ('uploading', 'failed', 'cleaned_up')
        RETURNING j.id, j.filename
    ), newest AS (
        -- Of all states: where the last one is lost, an older one is not what was asked for.
        SELECT o.id FROM stored_objects o, job
         WHERE o.job_id = job.id AND o.kind = :kind AND o.state NOT IN ('pending', 'purging')
           AND (CAST(:name AS text) IS NULL OR o.name = :name)
         ORDER BY o.created_at DESC, o.id LIMIT 1
    )
    UPDATE stored_objects o
       SET url_expires_at = greatest(o.url_expires_at, clock_timestamp() + :lasts)
      FROM job, newest
     WHERE o.id = newest.id AND o.state = 'live'
       AND NOT EXISTS (SELECT 1 FROM locations l WHERE l.id = o.location_id AND l.needs_restore)
    RETURNING o.id, o.kind, o.name, o.key, o.codec, o.location_id, o.size_bytes, o.sha256,
              job.filename, clock_timestamp() + :lasts AS expires_at
    """
)


def hand_out(
    connection: Connection, *, api_key: str, job_id: UUID, kind: str, lasts: timedelta, name: str | None = None
) -> Handed:
    """The newest object of this kind, or that of a name, if the job is this customer's and readable.

    Raises:
        NotFoundError: no such key, job of that key, or object of that kind.
        RefusedError: the key is disabled, the job is not readable, or the object's place has to restore it first.
    """
    number = int(api_key) if api_key.isascii() and api_key.isdigit() and len(api_key) <= 18 else None
    if storable(api_key) and storable(name or ""):
        row = connection.execute(
            _HAND_OUT,
            {"job": str(job_id), "key": api_key, "key_id": number, "kind": kind, "name": name, "lasts": lasts},
        ).one_or_none()
        if row is not None:
            return Handed(*row)
    raise _why_not(connection, api_key, job_id, kind, name)


def hand_out_hls(
    connection: Connection, *, api_key: str, job_id: UUID, kind: str, playlist: str, lasts: timedelta
) -> tuple[Handed, list[HandedFile]]:
    """The playlist of an HLS kind, and the segments that go with it, sorted by name.

    Raises:
        NotFoundError, RefusedError: as `hand_out`; also where a segment is not live.
    """
    handed = hand_out(connection, api_key=api_key, job_id=job_id, kind=kind, lasts=lasts, name=playlist)
    # A statement of its own: its snapshot is younger than the lock on the playlist's row, and so than any move.
    rows = connection.execute(
        text(
            "SELECT o.id, o.name, o.key, o.codec, o.size_bytes, o.location_id, o.state, l.needs_restore "
            "  FROM stored_objects o JOIN locations l ON l.id = o.location_id "
            " WHERE o.job_id = CAST(:job AS uuid) AND o.kind = :kind AND o.name <> :playlist "
            "   AND o.state NOT IN ('pending', 'purging') ORDER BY o.name"
        ),
        {"job": str(job_id), "kind": kind, "playlist": playlist},
    ).all()
    for row in rows:
        if row.state != "live" or row.needs_restore:
            raise _why_not(connection, api_key, job_id, kind, row.name)
    return handed, [HandedFile(*row[:6]) for row in rows]


def _why_not(connection: Connection, api_key: str, job_id: UUID, kind: str, name: str | None) -> Exception:
    require_enabled(find_customer(connection, api_key))
    job = require_readable(find_job(connection, job_id, api_key=api_key))
    rows = connection.execute(
        text(
            "SELECT o.kind, o.state, o.name, l.name AS location, l.needs_restore FROM stored_objects o "
            "  JOIN locations l ON l.id = o.location_id WHERE o.job_id = CAST(:job AS uuid) AND o.state <> 'purging' "
            " ORDER BY o.state = 'pending', o.created_at DESC, o.id"
        ),
        {"job": str(job.id)},
    ).all()
    same = [row for row in rows if row.kind == kind and name in (None, row.name)]
    if same and same[0].needs_restore:
        return restore_first(f"{kind} of job {job_id}", same[0].location)
    if same:
        return RefusedError(
            f"{kind if len(same) == 1 else same[0].name} of job {job_id} is {same[0].state}; run explain-object to see "
            "what happened to it"
        )
    kinds = ", ".join(sorted({row.kind for row in rows if row.state == "live"})) or "nothing yet"
    wanted = f"{kind} named {shown(name)}" if name else kind
    return NotFoundError(f"job {job_id} has no {wanted}; it has: {kinds}")
