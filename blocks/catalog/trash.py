"""Deleting jobs in two steps: into the trash and out of it, and from there for good.

Every function runs inside a transaction that touches one customer, and locks that customer's row first. Each returns a
partition: what was done, and what was not with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.admission import end_lapsed, settle
from blocks.catalog.customers import lock_customer
from blocks.catalog.objects import Extent, release_jobs, release_pending
from blocks.catalog.tables import UNFINISHED


@dataclass
class Changed:
    """What became of each job that was asked for."""

    done: dict[UUID, Extent] = field(default_factory=dict)
    skipped: dict[UUID, str] = field(default_factory=dict)


def trash_jobs(
    connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, keep: timedelta, run: str, rule: str
) -> Changed:
    """Mark jobs deleted and their objects trashed: unreadable and off the quota at once, recoverable for `keep`."""
    changed, free = Changed(), []
    for job in _locked(connection, customer_id, job_ids, changed):
        if job.hold is not None:
            changed.skipped[job.id] = f"on hold: {job.hold}"
        elif job.status == "cleaned_up":
            changed.skipped[job.id] = "cleaned up already"
        elif job.deleted_at is not None:
            changed.skipped[job.id] = f"in the trash since {job.deleted_at:%Y-%m-%d}"
        else:
            free.append(job.id)
    if not free:
        return changed
    end_reservations(connection, customer_id, free)
    release_pending(connection, free, run=run, rule=rule)
    connection.execute(
        text(
            "UPDATE jobs SET deleted_at = clock_timestamp(), purge_after = clock_timestamp() + :keep, "
            # An upload that is cut off here has nothing that could be brought back.
            "       error_message = CASE status WHEN 'uploading' THEN 'deleted while it was uploaded' "
            "                                   ELSE error_message END, "
            "       status = CASE status WHEN 'uploading' THEN 'failed' ELSE status END "
            " WHERE id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in free], "keep": keep},
    )
    changed.done = dict.fromkeys(free, Extent()) | _move(connection, _TRASH, free, run, rule)
    return changed


def undelete_jobs(connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, run: str) -> Changed:
    """Bring jobs back out of the trash, each that still fits into the quota; the objects are again what they were."""
    changed, back = Changed(), []
    rows = _locked(connection, customer_id, job_ids, changed)
    sizes = _trashed_sizes(connection, [row.id for row in rows])
    # What lapsed is not only left out of the sum: whoever held it has to ask again, as what comes back takes its room.
    end_lapsed(connection, customer_id)
    customer = lock_customer(connection, customer_id)
    taken, hashes = 0, set()
    for job in rows:
        size = sizes.get(job.id, 0)
        if job.status == "cleaned_up":
            changed.skipped[job.id] = "its files are removed already; nothing can bring them back but a backup"
        elif job.deleted_at is None:
            changed.skipped[job.id] = "not in the trash"
        elif (twin := _live_twin(connection, job)) is not None:
            changed.skipped[job.id] = f"job {twin} has the same video; delete that one first"
        elif job.source_file_hash in hashes and not job.reprocess and job.status != "failed":
            changed.skipped[job.id] = "another of these jobs has the same video, and came back"
        elif size and customer.quota_bytes is not None and size + taken > (customer.free_bytes or 0):
            changed.skipped[job.id] = customer.over_quota(size + taken)
        else:
            back.append(job.id)
            taken += size
            if job.source_file_hash is not None and not job.reprocess and job.status != "failed":
                hashes.add(job.source_file_hash)
    if not back:
        return changed
    connection.execute(
        # Touched now: a job that comes back is not at once stuck, or failed for too long.
        text(
            "UPDATE jobs SET deleted_at = NULL, purge_after = NULL, updated_at = clock_timestamp() "
            " WHERE id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in back]},
    )
    changed.done = dict.fromkeys(back, Extent()) | _move(connection, _UNTRASH, back, run, "")
    return changed


def claim_trashed(
    connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, due_at: datetime | None, run: str, rule: str
) -> Changed:
    """Give up trashed jobs for good, if their date has come by `due_at` (None: whatever their date)."""
    changed, due = Changed(), []
    for job in _locked(connection, customer_id, job_ids, changed):
        if job.hold is not None:
            changed.skipped[job.id] = f"on hold: {job.hold}"
        elif job.deleted_at is None:
            changed.skipped[job.id] = "not in the trash any more"
        elif job.status == "cleaned_up" and due_at is not None:
            changed.skipped[job.id] = "cleaned up already"
        elif due_at is not None and job.purge_after > due_at:
            changed.skipped[job.id] = f"kept until {job.purge_after:%Y-%m-%d %H:%M} UTC"
        else:
            due.append(job.id)
    _clean_up(connection, due, changed, run, rule)
    return changed


def claim_failed(
    connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, failed_before: datetime, run: str, rule: str
) -> Changed:
    """Give up the files of jobs that failed before a time."""
    changed, due = Changed(), []
    for job in _locked(connection, customer_id, job_ids, changed):
        if job.status != "failed" or job.deleted_at is not None or job.updated_at > failed_before:
            changed.skipped[job.id] = "changed meanwhile"
        elif job.hold is not None:
            changed.skipped[job.id] = f"on hold: {job.hold}"
        else:
            due.append(job.id)
    end_reservations(connection, customer_id, due)
    _clean_up(connection, due, changed, run, rule)
    return changed


def fail_stuck(
    connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, idle_since: datetime, run: str, rule: str
) -> Changed:
    """Jobs without progress since a time fail with that as their reason; an upload whose reservation lives goes on."""
    changed, stuck = Changed(), []
    for job in _locked(connection, customer_id, job_ids, changed):
        if job.deleted_at is not None or job.updated_at > idle_since or job.status not in UNFINISHED:
            changed.skipped[job.id] = "changed meanwhile"
        elif job.hold is not None:
            changed.skipped[job.id] = f"on hold: {job.hold}"
        elif job.status == "uploading" and job.reserved:
            changed.skipped[job.id] = "its upload is still under way"
        else:
            stuck.append(job.id)
    if not stuck:
        return changed
    end_reservations(connection, customer_id, stuck)
    released = release_pending(connection, stuck, run=run, rule=rule)
    connection.execute(
        text(
            "WITH failed AS ("
            "  UPDATE jobs SET status = 'failed', updated_at = clock_timestamp(), error_message = "
            "         format('no progress while %s since %s UTC', status, "
            "                to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')) "
            "   WHERE id = ANY (CAST(:ids AS uuid[])) RETURNING id, api_key_id, error_message) "
            "INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, after) "
            "SELECT :run, 'fail', :rule, api_key_id, id, "
            "       jsonb_build_object('status', 'failed', 'because', error_message) FROM failed"
        ),
        {"ids": [str(one) for one in stuck], "run": run, "rule": rule},
    )
    changed.done = dict.fromkeys(stuck, Extent()) | released
    return changed


@dataclass(frozen=True)
class Held:
    """A job's hold before, empty for none, and whether its files were given up before: a hold keeps nothing of that."""

    before: str
    too_late: bool


def hold_jobs(connection: Connection, job_ids: Sequence[UUID], *, reason: str | None, run: str) -> dict[UUID, Held]:
    """Put jobs on hold, or release them where `reason` is None; returns each that was found.

    A hold touches no bytes and no counter, so that no customer's row is locked. It takes back an erasure that had not
    come to its job: nobody expects one any more when the hold is released.
    """
    rows = connection.execute(
        text(
            "WITH was AS (SELECT id, hold FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE), "
            "now_held AS (UPDATE jobs j SET hold = :reason, erase_requested_at = CASE "
            "               WHEN CAST(:reason AS text) IS NULL OR status = 'cleaned_up' THEN erase_requested_at END "
            "              FROM was WHERE j.id = was.id "
            "             RETURNING j.id, j.api_key_id, was.hold AS before, j.status), "
            "logged AS (INSERT INTO operation_log (run, operation, api_key_id, job_id, before, after) "
            "           SELECT :run, CASE WHEN CAST(:reason AS text) IS NULL THEN 'release-hold' ELSE 'hold' END, "
            "                  api_key_id, id, jsonb_build_object('hold', before), "
            "                  jsonb_build_object('hold', CAST(:reason AS text)) FROM now_held "
            "            WHERE before IS DISTINCT FROM :reason) "
            "SELECT id, coalesce(before, '') AS before, status = 'cleaned_up' AS too_late FROM now_held"
        ),
        {"ids": [str(one) for one in job_ids], "reason": reason, "run": run},
    )
    return {row.id: Held(row.before, row.too_late) for row in rows}


def request_erasure(connection: Connection, customer_id: int, job_ids: Sequence[UUID]) -> None:
    """Write down that these jobs are to leave nothing behind, before anything of them goes."""
    lock_customer(connection, customer_id)
    connection.execute(
        text(
            "UPDATE jobs SET erase_requested_at = coalesce(erase_requested_at, clock_timestamp()) "
            " WHERE id = ANY (CAST(:ids AS uuid[])) AND api_key_id = :customer AND hold IS NULL"
        ),
        {"ids": [str(one) for one in job_ids], "customer": customer_id},
    )


def erase_jobs(connection: Connection, customer_id: int, job_ids: Sequence[UUID], *, run: str) -> tuple[UUID, ...]:
    """Remove the rows of jobs whose bytes are gone: names, hashes, forms. Only the log stays, with no name in it.

    Returns the jobs that are gone; one with an object left stays, for the next try.
    """
    # Figures that are being written at this moment were read before: they would bring the names back.
    connection.execute(text("LOCK TABLE analytics.snapshots IN ROW EXCLUSIVE MODE"))
    lock_customer(connection, customer_id)
    ids = [str(one) for one in job_ids]
    gone = (
        connection.execute(
            text(
                "SELECT j.id FROM jobs j WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.api_key_id = :customer "
                "   AND j.hold IS NULL "
                "   AND NOT EXISTS (SELECT 1 FROM stored_objects o WHERE o.job_id = j.id) FOR UPDATE"
            ),
            {"ids": ids, "customer": customer_id},
        )
        .scalars()
        .all()
    )
    end_reservations(connection, customer_id, gone)
    # Their keys lie below the jobs' own folders, which are empty by now.
    connection.execute(
        text(
            # What is on its way at this moment, or was when no answer came, arrives after it was looked for: cleanup
            # removes it once more.
            "UPDATE relocations SET state = CASE WHEN state IN ('open', 'failed') THEN 'failed' ELSE 'done' END "
            " WHERE state <> 'done' AND job_id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in gone]},
    )
    connection.execute(
        text(
            "DELETE FROM uploads WHERE job_id = ANY (CAST(:ids AS uuid[])) "
            "    OR result_job_id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in gone]},
    )
    # What figures tell of a single job: its file's name in lists, and where it was brought from.
    for table in ("analytics.notable_jobs", "job_sources", "job_duplicates", "source_hits"):
        connection.execute(
            text(f"DELETE FROM {table} WHERE job_id = ANY (CAST(:ids AS uuid[]))"), {"ids": [str(one) for one in gone]}
        )
    # Nor does a hash of the video stay, unless somebody else has it.
    connection.execute(
        text(
            "DELETE FROM shared_sources s USING jobs j WHERE j.id = ANY (CAST(:ids AS uuid[])) "
            "   AND s.sha256 = j.source_file_hash "
            "   AND NOT EXISTS (SELECT 1 FROM stored_objects o WHERE o.sha256 = s.sha256 AND o.kind = 'original')"
        ),
        {"ids": [str(one) for one in gone]},
    )
    # The name of a customer's own file is the customer's.
    connection.execute(
        text(
            "UPDATE operation_log SET before = before - 'name' "
            " WHERE job_id = ANY (CAST(:ids AS uuid[])) AND operation = 'purge'"
        ),
        {"ids": [str(one) for one in gone]},
    )
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) RETURNING id, api_key_id) "
            "INSERT INTO operation_log (run, operation, rule, api_key_id, job_id) "
            "SELECT :run, 'erase', 'purge_now', api_key_id, id FROM gone"
        ),
        {"ids": [str(one) for one in gone], "run": run},
    )
    return tuple(gone)


def end_reservations(connection: Connection, customer_id: int, job_ids: Sequence[UUID]) -> None:
    """Give back the quota that was held for these jobs."""
    held = connection.execute(
        text("SELECT id FROM reservations WHERE api_key_id = :key AND job_id = ANY (CAST(:ids AS uuid[]))"),
        {"key": customer_id, "ids": [str(one) for one in job_ids]},
    ).scalars()
    settle(connection, customer_id, dict.fromkeys(held, 0), keep_for=timedelta(0))


def _locked(connection: Connection, customer_id: int, job_ids: Sequence[UUID], changed: Changed) -> list[Any]:
    """The jobs of this customer, locked in id order; the others are skipped."""
    lock_customer(connection, customer_id)
    rows = connection.execute(
        text(
            "SELECT j.id, j.status, j.hold, j.deleted_at, j.purge_after, j.updated_at, j.source_file_hash, "
            "       j.reprocess, j.api_key_id, EXISTS (SELECT 1 FROM reservations r WHERE r.job_id = j.id "
            "                                AND r.expires_at > clock_timestamp()) AS reserved "
            "  FROM jobs j WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.api_key_id = :customer "
            " ORDER BY j.id FOR UPDATE"
        ),
        {"ids": [str(one) for one in job_ids], "customer": customer_id},
    ).all()
    found = {row.id for row in rows}
    changed.skipped |= {one: "no such job" for one in job_ids if one not in found}
    return list(rows)


# The state an object had, so that undo is exact; one statement, so that log and rows agree.
_MOVE = """
WITH moved AS (
    UPDATE stored_objects o SET {to}, generation = nextval('generations')
      FROM stored_objects was
     WHERE was.id = o.id AND {which}
       -- Both sides of the join are limited: one alone made PostgreSQL read the whole table for the other.
       AND o.job_id = ANY (CAST(:ids AS uuid[])) AND was.job_id = ANY (CAST(:ids AS uuid[]))
    RETURNING o.id, o.job_id, o.api_key_id, o.key, o.stored_bytes, was.state AS before, o.state AS after
), logged AS (
    INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes)
    SELECT :run, '{operation}', :rule, api_key_id, job_id, id, jsonb_build_object('state', before, 'key', key),
           jsonb_build_object('state', after), stored_bytes
      FROM moved
)
SELECT job_id, count(*) AS objects, sum(stored_bytes)::bigint AS stored_bytes FROM moved GROUP BY job_id
"""
_TRASH = text(
    _MOVE.format(
        to="state = 'trashed', trashed_state = o.state",
        which="o.state IN ('live', 'missing', 'corrupt')",
        operation="trash",
    )
)
_UNTRASH = text(
    _MOVE.format(to="state = o.trashed_state, trashed_state = NULL", which="o.state = 'trashed'", operation="undelete")
)


def _move(connection: Connection, statement: Any, job_ids: Sequence[UUID], run: str, rule: str) -> dict[UUID, Extent]:
    rows = connection.execute(statement, {"ids": [str(one) for one in job_ids], "run": run, "rule": rule})
    return {row.job_id: Extent(row.objects, row.stored_bytes) for row in rows}


def _clean_up(connection: Connection, job_ids: Sequence[UUID], changed: Changed, run: str, rule: str) -> None:
    if not job_ids:
        return
    connection.execute(
        text(
            "UPDATE jobs SET status = 'cleaned_up', updated_at = clock_timestamp() "
            " WHERE id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in job_ids]},
    )
    changed.done = dict.fromkeys(job_ids, Extent()) | release_jobs(connection, job_ids, run=run, rule=rule)


def _trashed_sizes(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    rows = connection.execute(
        text(
            "SELECT job_id, sum(size_bytes)::bigint AS size FROM stored_objects "
            " WHERE job_id = ANY (CAST(:ids AS uuid[])) AND state = 'trashed' GROUP BY job_id"
        ),
        {"ids": [str(one) for one in job_ids]},
    )
    return {row.job_id: row.size for row in rows}


def _live_twin(connection: Connection, job: Any) -> UUID | None:
    """The job that took this one's place for its video, under the customer's lock."""
    if job.source_file_hash is None or job.reprocess or job.status == "failed":
        return None
    twin: UUID | None = connection.execute(
        text(
            "SELECT id FROM jobs WHERE api_key_id = :customer AND source_file_hash = :hash "
            "   AND source_file_hash IS NOT NULL AND NOT reprocess AND deleted_at IS NULL "
            "   AND status NOT IN ('failed', 'cleaned_up')"
        ),
        {"customer": job.api_key_id, "hash": job.source_file_hash},
    ).scalar()
    return twin
