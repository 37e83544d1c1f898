"""What a bulk download takes, noted as asked for in the transaction that finds it.

As with a single URL (`blocks.catalog.access`), an HLS kind is noted on its playlist's row, for all of its segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.admission import touch
from blocks.catalog.clock import catalog_now
from blocks.catalog.customers import find_customer, lock_customer, require_enabled
from blocks.catalog.jobs import JobRow, require_readable
from blocks.catalog.log import Change, record
from blocks.errors import NotFoundError, RefusedError, StorageError


@dataclass(frozen=True, slots=True)
class Found:
    """One object of a job, whether it can be read now or not; its old bytes stay while the download lasts."""

    id: UUID
    job_id: UUID
    kind: str
    name: str
    key: str
    codec: str
    size_bytes: int
    stored_bytes: int
    sha256: str
    state: str
    location: str
    needs_restore: bool
    created_at: datetime


@dataclass(frozen=True)
class Taken:
    """The jobs that may be read, their objects by name, and why the other jobs may not: a partition of the ids."""

    jobs: dict[UUID, JobRow]
    objects: list[Found]
    refused: dict[UUID, StorageError]


_OBJECT = (
    "SELECT o.id, o.job_id, o.kind, o.name, o.key, o.codec, o.size_bytes, o.stored_bytes, o.sha256, o.state, "
    "       l.name AS location, l.needs_restore, o.created_at "
    "  FROM stored_objects o JOIN locations l ON l.id = o.location_id "
)


def find_owners(connection: Connection, job_ids: Sequence[UUID], *, api_key: str | None) -> dict[int, list[UUID]]:
    """The ids by customer, each one's in the order given; an id that nobody has is in no list.

    With `api_key` all of them belong to that customer's list: what is another's does not exist for them.

    Raises:
        NotFoundError: no such key.
        RefusedError: the key is disabled.
    """
    if api_key is not None:
        return {require_enabled(find_customer(connection, api_key)).id: list(job_ids)}
    rows = connection.execute(
        text("SELECT id, api_key_id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(job_id) for job_id in job_ids]},
    )
    owners = {row.id: row.api_key_id for row in rows}
    found: dict[int, list[UUID]] = {customer_id: [] for customer_id in sorted(set(owners.values()))}
    for job_id in job_ids:
        if job_id in owners:
            found[owners[job_id]].append(job_id)
    return found


def take_jobs(
    connection: Connection,
    customer_id: int,
    job_ids: Sequence[UUID],
    kinds: Sequence[str],
    *,
    playlists: Mapping[str, str],
    lasts: timedelta,
) -> Taken:
    """Find one customer's jobs and their objects of these kinds, and keep the old bytes of each for `lasts`.

    `playlists` names the playlist of each HLS kind within its job.
    """
    # The key's row first, as whoever moves an object does: two transactions then never wait for each other.
    customer = lock_customer(connection, customer_id)
    rows = connection.execute(
        text(
            "SELECT id, api_key_id, status, filename, error_message, deleted_at, hold FROM jobs "
            " WHERE id = ANY (CAST(:ids AS uuid[])) AND api_key_id = :key"
        ),
        {"ids": [str(job_id) for job_id in job_ids], "key": customer_id},
    )
    known = {row.id: JobRow(**row._mapping) for row in rows}
    jobs: dict[UUID, JobRow] = {}
    refused: dict[UUID, StorageError] = {}
    for job_id in job_ids:
        if job_id not in known:
            refused[job_id] = NotFoundError(f"no job {job_id} of key {customer.label}")
            continue
        try:
            jobs[job_id] = require_readable(known[job_id])
        except RefusedError as error:
            refused[job_id] = error
    wanted = {"ids": [str(job_id) for job_id in jobs], "kinds": list(kinds)}
    touch(connection, list(jobs))
    connection.execute(
        text(
            "UPDATE stored_objects o SET url_expires_at = greatest(o.url_expires_at, clock_timestamp() + :lasts) "
            " WHERE o.job_id = ANY (CAST(:ids AS uuid[])) AND o.kind = ANY (:kinds) "
            # A playlist that is missing itself still stands for segments that are not.
            "   AND CASE WHEN o.kind = ANY (:hls) THEN o.name = ANY (:playlists) AND o.state NOT IN "
            "       ('pending', 'purging') ELSE o.state = 'live' END"
        ),
        {**wanted, "lasts": lasts, "hls": list(playlists), "playlists": list(playlists.values())},
    )
    # A statement of its own: its snapshot is younger than the locks on the rows, and so than any move.
    objects = connection.execute(
        text(
            f"{_OBJECT} WHERE o.job_id = ANY (CAST(:ids AS uuid[])) AND o.kind = ANY (:kinds) "
            "   AND o.state NOT IN ('pending', 'purging') "
            ' ORDER BY array_position(CAST(:ids AS uuid[]), o.job_id), o.name COLLATE "C"'
        ),
        wanted,
    )
    return Taken(jobs, [Found(*row) for row in objects], refused)


def find_again(connection: Connection, object_id: UUID) -> Found | None:
    """The object as its row is now, if it is live: it may have been moved since it was found."""
    row = connection.execute(
        text(f"{_OBJECT} WHERE o.id = CAST(:id AS uuid) AND o.state = 'live'"), {"id": str(object_id)}
    ).one_or_none()
    return Found(*row) if row else None


@dataclass(frozen=True)
class TakenAway:
    """What was handed out of one job."""

    job: JobRow
    files: int
    size_bytes: int


def record_downloads(
    connection: Connection, taken: Iterable[TakenAway], *, run: str, where: dict[str, str | bool]
) -> datetime:
    """Write down for each job what went where; returns the catalog's time."""
    record(
        connection,
        [
            Change(
                run=run, operation="bulk-download", rule="", api_key_id=one.job.api_key_id, job_id=one.job.id,
                object_id=None, before=None, after={**where, "files": one.files}, bytes=one.size_bytes,
            )
            for one in taken
        ],
    )  # fmt: skip
    return catalog_now(connection)


def still_there(connection: Connection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these jobs nobody deleted."""
    rows = connection.execute(
        text("SELECT id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND deleted_at IS NULL"),
        {"ids": [str(one) for one in job_ids]},
    )
    return set(rows.scalars())
