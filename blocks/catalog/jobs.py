"""The life of a job: committed when its video is there, completed when its outputs are, failed when they never will.

Every function runs inside a transaction that touches one customer, and locks that customer's row first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.admission import KnownJob, find_known, reserve, settle, touch
from blocks.catalog.customers import find_customer, lock_customer, read_customer, require_enabled
from blocks.catalog.log import Change, record
from blocks.catalog.objects import Verified, make_live, release_pending
from blocks.errors import NotFoundError, OvertakenError, RefusedError


@dataclass(frozen=True)
class Arrived:
    """A video whose bytes are verified, and what its reservation is to keep for the outputs to come."""

    job_id: UUID
    verified: Verified
    size_bytes: int
    keep_bytes: int
    after: dict[str, str]


@dataclass(frozen=True)
class JobRow:
    """A job as its owner sees it."""

    id: UUID
    api_key_id: int
    status: str
    filename: str
    error_message: str | None
    deleted_at: datetime | None
    hold: str | None


@dataclass(frozen=True)
class Output:
    """One live object of a job; an HLS kind is one entry with the sum of its files."""

    kind: str
    files: int
    size_bytes: int


def commit_arrivals(
    connection: Connection,
    customer_id: int,
    arrived: Sequence[Arrived],
    *,
    keep_for: timedelta,
    run: str,
    operation: str,
) -> dict[UUID, str]:
    """Make arrived videos live and their jobs `queued`; returns why, for each job that could not be committed.

    A reservation that lapsed meanwhile is asked for again, so that no commit goes past the quota.
    """
    lock_customer(connection, customer_id)
    by_job = {one.job_id: one for one in arrived}
    held = settle(connection, customer_id, {one.job_id: one.keep_bytes for one in arrived}, keep_for=keep_for)
    lost = _lost(connection, [one.job_id for one in arrived if one.job_id not in held])
    lapsed = [one for one in arrived if one.job_id not in held and one.job_id not in lost]
    again = reserve(
        connection, customer_id, [(one.job_id, one.job_id, one.size_bytes + one.keep_bytes, keep_for) for one in lapsed]
    )
    settle(connection, customer_id, {job_id: by_job[job_id].keep_bytes for job_id in again}, keep_for=keep_for)
    within_quota = held | again
    live = make_live(
        connection,
        [one.verified for one in arrived if one.job_id in within_quota],
        job_statuses=["uploading"],
    )
    committed = set(live.values())
    overtaken = within_quota - committed
    settle(connection, customer_id, dict.fromkeys(overtaken, 0), keep_for=timedelta(0))
    connection.execute(
        text("UPDATE jobs SET status = 'queued', updated_at = clock_timestamp() WHERE id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(job_id) for job_id in committed]},
    )
    record(
        connection,
        [
            Change(run, operation, "", customer_id, job_id, one.verified.object_id, None, one.after, one.size_bytes)
            for job_id, one in by_job.items()
            if job_id in committed
        ],
    )
    customer = lock_customer(connection, customer_id)
    reasons = lost | dict.fromkeys(overtaken, _TAKEN_OVER) | _lost(connection, list(overtaken))
    for one in lapsed:
        if one.job_id not in again:
            reasons[one.job_id] = "the reservation lapsed, and " + (
                customer.over_quota(one.size_bytes + one.keep_bytes, one.keep_bytes)
                if customer.disabled_at is None
                else f"API key {customer.label} was disabled"
            )
    return reasons


_TAKEN_OVER = "another run took this job over; its work was undone"


def _lost(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Of jobs that were being uploaded those that are not any more, and why."""
    if not job_ids:
        return {}
    rows = connection.execute(
        text(
            "SELECT w.id, j.id IS NULL OR j.deleted_at IS NOT NULL AS deleted "
            "  FROM unnest(CAST(:ids AS uuid[])) AS w (id) LEFT JOIN jobs j ON j.id = w.id "
            " WHERE j.id IS NULL OR j.deleted_at IS NOT NULL OR j.status <> 'uploading'"
        ),
        {"ids": [str(one) for one in job_ids]},
    )
    return {row.id: "the job was deleted while it was uploaded" if row.deleted else _TAKEN_OVER for row in rows}


def fail_jobs(connection: Connection, customer_id: int, reasons: dict[UUID, str]) -> None:
    """Uploads that will not be finished: the jobs fail with their reason, quota and keys are released."""
    lock_customer(connection, customer_id)
    settle(connection, customer_id, dict.fromkeys(reasons, 0), keep_for=timedelta(0))
    connection.execute(
        text(
            "UPDATE jobs j SET status = 'failed', error_message = r.reason, updated_at = clock_timestamp() "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[])) AS r (id, reason) "
            " WHERE j.id = r.id AND j.status = 'uploading'"
        ),
        {"ids": [str(job_id) for job_id in reasons], "reasons": list(reasons.values())},
    )
    release_pending(connection, list(reasons))


def find_job(connection: Connection, job_id: UUID, *, api_key: str | None = None) -> JobRow:
    """The job, if it is this customer's (another's does not exist for them).

    Raises:
        NotFoundError: no such key, or no such job of that key.
        RefusedError: the key is disabled.
    """
    customer = require_enabled(find_customer(connection, api_key)) if api_key is not None else None
    row = connection.execute(
        text(
            "SELECT id, api_key_id, status, filename, error_message, deleted_at, hold FROM jobs "
            " WHERE id = CAST(:id AS uuid) AND (CAST(:key AS bigint) IS NULL OR api_key_id = :key)"
        ),
        {"id": str(job_id), "key": customer.id if customer else None},
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"no job {job_id}" + (f" of key {customer.label}" if customer else ""))
    return JobRow(**row._mapping)


def require_readable(job: JobRow) -> JobRow:
    """The same job, if its files may be handed out.

    Raises:
        RefusedError: it is in the trash, failed, cleaned up, or still being uploaded.
    """
    if job.deleted_at is not None:
        raise RefusedError(f"job {job.id} was deleted on {job.deleted_at:%Y-%m-%d}; run undelete-jobs to get it back")
    if job.status in ("failed", "cleaned_up"):
        raise RefusedError(f"job {job.id} is {job.status}" + (f": {job.error_message}" if job.error_message else ""))
    if job.status == "uploading":
        raise RefusedError(f"job {job.id} is still being uploaded; try again when its status is queued")
    return job


def content_hash(connection: Connection, job_id: UUID, object_id: UUID | None) -> str:
    """The SHA-256 of one object, or of the job's video where none is named; empty where it is gone."""
    found = connection.execute(
        text(
            "SELECT sha256 FROM stored_objects WHERE id = CAST(:object AS uuid) "
            "UNION ALL "
            "SELECT source_file_hash FROM jobs WHERE id = CAST(:job AS uuid) AND CAST(:object AS uuid) IS NULL"
        ),
        {"object": str(object_id) if object_id else None, "job": str(job_id)},
    ).scalar()
    return str(found or "")


def list_outputs(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, tuple[Output, ...]]:
    """What there is of each job, by kind."""
    rows = connection.execute(
        text(
            "SELECT job_id, kind, count(*) AS files, sum(size_bytes)::bigint AS size_bytes FROM stored_objects "
            " WHERE job_id = ANY (CAST(:ids AS uuid[])) AND state = 'live' GROUP BY job_id, kind ORDER BY kind"
        ),
        {"ids": [str(job_id) for job_id in job_ids]},
    )
    outputs: dict[UUID, tuple[Output, ...]] = {}
    for row in rows:
        outputs[row.job_id] = (*outputs.get(row.job_id, ()), Output(row.kind, row.files, row.size_bytes))
    return outputs


def meet_known(
    connection: Connection, customer_id: int, hashes: Sequence[str]
) -> dict[str, tuple[KnownJob, tuple[Output, ...]]]:
    """Jobs that have these videos already, with their outputs, noted as asked for; not those that have to be healed.

    Raises:
        RefusedError: the key is disabled.
    """
    require_enabled(read_customer(connection, customer_id))
    known = {sha256: job for sha256, job in find_known(connection, customer_id, hashes).items() if not job.healable}
    job_ids = [job.job_id for job in known.values()]
    touch(connection, job_ids)
    outputs = list_outputs(connection, job_ids) if job_ids else {}
    return {sha256: (job, outputs.get(job.job_id, ())) for sha256, job in known.items()}


def note_sources(connection: Connection, sources: Sequence[tuple[UUID, UUID]]) -> None:
    """Note from where videos of these jobs were brought: the job, and a digest of its source.

    Nobody waits for the disk: what a crash of the server loses of it is a figure of a report.
    """
    connection.execute(
        text(
            "INSERT INTO source_hits (job_id, source) "
            "SELECT h.* FROM unnest(CAST(:jobs AS uuid[]), CAST(:sources AS uuid[])) h, "
            "  (SELECT set_config('synchronous_commit', 'off', true)) s"
        ),
        {"jobs": [str(job) for job, _ in sources], "sources": [str(source) for _, source in sources]},
    )


def note_progress(connection: Connection, job_id: UUID) -> None:
    """Somebody works at a job: it is not stuck."""
    connection.execute(
        text("UPDATE jobs SET updated_at = clock_timestamp() WHERE id = CAST(:id AS uuid)"), {"id": str(job_id)}
    )


def complete_job(connection: Connection, job: JobRow) -> None:
    """All outputs are in: the job is `completed`, and the room that was held for them is given back."""
    held = connection.execute(
        text("SELECT id FROM reservations WHERE api_key_id = :key AND job_id = CAST(:job AS uuid)"),
        {"key": job.api_key_id, "job": str(job.id)},
    ).scalars()
    settle(connection, job.api_key_id, dict.fromkeys(held, 0), keep_for=timedelta(0))
    done = connection.execute(
        text(
            # What tier-jobs and compress-jobs were through with has new objects.
            "UPDATE jobs SET status = 'completed', updated_at = clock_timestamp(), tier = 'hot', compressed_at = NULL, "
            "       completed_at = coalesce(completed_at, clock_timestamp()) "
            " WHERE id = CAST(:id AS uuid) AND deleted_at IS NULL "
            "   AND status IN ('queued', 'processing', 'transcoding', 'completed')"
        ),
        {"id": str(job.id)},
    )
    if done.rowcount == 0:
        raise OvertakenError(f"job {job.id} was failed or deleted meanwhile; its outputs were not taken in")
