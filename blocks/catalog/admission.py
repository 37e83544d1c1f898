"""Letting bytes in: duplicates first, then quota, then the rows that name the keys (invariants 2, 3 and 5).

Every function runs inside a transaction that touches one customer, and locks that customer's row first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.block import CatalogDatabase
from blocks.catalog.customers import Customer, lock_customer, require_enabled
from blocks.catalog.objects import NewObject, insert_pending, release_pending

ABANDONED = "the upload was abandoned: its reservation had lapsed when the same video arrived again"


@dataclass(frozen=True)
class Arrival:
    """A video that wants in: its bytes are hashed, nothing is written yet."""

    filename: str
    original: NewObject
    reserve_bytes: int
    lifetime: timedelta


@dataclass(frozen=True)
class KnownJob:
    """A job that has this video already. `healable` when the original's bytes are known to be missing or corrupt."""

    job_id: UUID
    status: str
    object_id: UUID | None
    generation: int | None
    healable: bool
    created_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True)
class Admission:
    """What became of each arrival, by its job id: a partition."""

    customer: Customer
    admitted: frozenset[UUID] = frozenset()
    known: dict[UUID, KnownJob] = field(default_factory=dict)
    refused: dict[UUID, str] = field(default_factory=dict)


def find_known(connection: Connection, customer_id: int, hashes: Sequence[str]) -> dict[str, KnownJob]:
    """Jobs that can be handed out for these hashes; abandoned uploads are not among them."""
    rows = connection.execute(
        text(
            # The index's own predicate, word for word, or the planner cannot use it.
            "SELECT j.source_file_hash, j.id AS job_id, j.status, o.id AS object_id, o.generation, "
            "       coalesce(o.state IN ('missing', 'corrupt'), false) AS healable, j.created_at, j.completed_at "
            "  FROM jobs j LEFT JOIN stored_objects o "
            "    ON o.job_id = j.id AND o.kind = 'original' AND o.state <> 'purging' "
            " WHERE j.api_key_id = :key AND j.source_file_hash = ANY (:hashes) "
            "   AND j.source_file_hash IS NOT NULL AND NOT j.reprocess AND j.deleted_at IS NULL "
            "   AND j.status NOT IN ('failed', 'cleaned_up') "
            "   AND (j.status <> 'uploading' OR EXISTS (SELECT 1 FROM reservations r "
            "        WHERE r.job_id = j.id AND r.expires_at > clock_timestamp()))"
        ),
        {"key": customer_id, "hashes": list(hashes)},
    )
    return {row.source_file_hash: KnownJob(*row[1:]) for row in rows}


def reserved_until(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """When the reservations of uploads under way end; whoever uploads may lengthen its own."""
    rows = connection.execute(
        text(
            "SELECT job_id, max(expires_at) AS expires_at FROM reservations "
            " WHERE job_id = ANY (CAST(:ids AS uuid[])) GROUP BY job_id"
        ),
        {"ids": [str(job_id) for job_id in job_ids]},
    )
    return {row.job_id: row.expires_at for row in rows}


def admit(
    connection: Connection,
    customer_id: int,
    arrivals: Sequence[Arrival],
    *,
    reprocess: bool,
    release: UUID | None = None,
) -> Admission:
    """Sort arrivals into admitted, known and refused; the admitted have their job, reservation and pending row.

    `release` is a reservation that made room for these bytes until now, and ends here.

    Raises:
        RefusedError: the key is disabled.
    """
    require_enabled(lock_customer(connection, customer_id))
    if release is not None:
        settle(connection, customer_id, {release: 0}, keep_for=timedelta(0))
    known: dict[UUID, KnownJob] = {}
    fresh: list[Arrival] = []
    if reprocess:
        fresh = list(arrivals)
    else:
        existing = find_known(connection, customer_id, [arrival.original.sha256 for arrival in arrivals])
        leaders: dict[str, Arrival] = {}
        for arrival in arrivals:
            if (job := existing.get(arrival.original.sha256)) is not None:
                known[arrival.original.job_id] = job
            elif (leader := leaders.setdefault(arrival.original.sha256, arrival)) is not arrival:
                # The same bytes twice in one run: the second is a duplicate of the first.
                original = leader.original
                known[arrival.original.job_id] = KnownJob(original.job_id, "uploading", original.id, 1, healable=False)
            else:
                fresh.append(arrival)
        _fail_abandoned(connection, customer_id, [arrival.original.sha256 for arrival in fresh])
        touch(connection, [job.job_id for job in existing.values()])
    admitted = reserve(
        connection,
        customer_id,
        [(a.original.job_id, a.original.job_id, a.reserve_bytes, a.lifetime) for a in fresh],
    )
    customer = lock_customer(connection, customer_id)
    entering = [arrival for arrival in fresh if arrival.original.job_id in admitted]
    _insert_jobs(connection, customer_id, entering, reprocess=reprocess)
    insert_pending(connection, customer_id, [arrival.original for arrival in entering])
    refused = {
        arrival.original.job_id: customer.over_quota(
            arrival.reserve_bytes, arrival.reserve_bytes - arrival.original.size_bytes
        )
        for arrival in fresh
        if arrival.original.job_id not in admitted
    }
    if release is not None:
        _name_job_of_form(connection, release, [*(arrival.original.job_id for arrival in entering), *_ids(known)])
    # A duplicate of a refused video is refused with it.
    for job_id, job in list(known.items()):
        if job.job_id in refused:
            refused[job_id] = refused[job.job_id]
            del known[job_id]
    return Admission(customer, admitted, known, refused)


def _ids(known: dict[UUID, KnownJob]) -> list[UUID]:
    return [job.job_id for job in known.values()]


def _name_job_of_form(connection: Connection, upload_id: UUID, job_ids: Sequence[UUID]) -> None:
    """The form whose reservation made room is the job's from here on: an erasure finds it, whatever is killed later."""
    if job_ids:
        connection.execute(
            text(
                "UPDATE uploads SET result_job_id = CAST(:job AS uuid) "
                " WHERE id = CAST(:id AS uuid) AND status = 'open'"
            ),
            {"job": str(job_ids[0]), "id": str(upload_id)},
        )


def reserve(
    connection: Connection, customer_id: int, wanted: Sequence[tuple[UUID, UUID | None, int, timedelta]]
) -> frozenset[UUID]:
    """Reserve (id, job, bytes, lifetime) in order, each that still fits; returns the ids that were admitted."""
    if not wanted:
        return frozenset()
    ids, jobs, sizes, lifetimes = zip(*wanted, strict=True)
    admitted = connection.execute(
        text(
            "SELECT reserve_storage(:key, CAST(:ids AS uuid[]), CAST(:jobs AS uuid[]), CAST(:sizes AS bigint[]), "
            "CAST(:lifetimes AS interval[]))"
        ),
        {
            "key": customer_id,
            "ids": [str(one) for one in ids],
            "jobs": [str(job) if job else None for job in jobs],
            "sizes": list(sizes),
            "lifetimes": list(lifetimes),
        },
    ).scalar_one()
    return frozenset(_uuids(admitted))


def end_lapsed(connection: Connection, customer_id: int) -> None:
    """End reservations past their time, as every admission does first: who held one has to ask again."""
    connection.execute(text("SELECT reserve_storage(:key, '{}', '{}', '{}', '{}')"), {"key": customer_id})


def reserve_now(
    catalog: CatalogDatabase, customer_id: int, reservation: UUID, size_bytes: int, lasts: timedelta
) -> bool:
    """Reserve in a transaction of its own; False where it does not fit.

    One statement that commits itself: the key's lock is held for the server's work, and for no trip over the network.
    """
    admitted: bool = catalog.single_statement(
        lambda connection: connection.execute(
            text("SELECT reserve_storage_now(:key, CAST(:id AS uuid), NULL, :size, :lasts)"),
            {"key": customer_id, "id": str(reservation), "size": size_bytes, "lasts": lasts},
        ).scalar_one()
    )
    return admitted


def settle(connection: Connection, customer_id: int, keep: dict[UUID, int], *, keep_for: timedelta) -> frozenset[UUID]:
    """Shrink each reservation to what is to be kept, 0 ends it; returns those that had not lapsed and gone."""
    if not keep:
        return frozenset()
    found = connection.execute(
        text("SELECT settle_reservations(:key, CAST(:ids AS uuid[]), CAST(:keep AS bigint[]), :keep_for)"),
        {"key": customer_id, "ids": [str(one) for one in keep], "keep": list(keep.values()), "keep_for": keep_for},
    ).scalar_one()
    return frozenset(_uuids(found))


def _fail_abandoned(connection: Connection, customer_id: int, hashes: Sequence[str]) -> None:
    """Fail `uploading` jobs whose reservation has lapsed, so that these videos can come in again."""
    failed = connection.execute(
        text(
            "UPDATE jobs j SET status = 'failed', error_message = :why, updated_at = clock_timestamp() "
            " WHERE j.api_key_id = :key AND j.source_file_hash = ANY (:hashes) "
            "   AND j.source_file_hash IS NOT NULL AND NOT j.reprocess AND j.deleted_at IS NULL "
            "   AND j.status NOT IN ('failed', 'cleaned_up') AND j.status = 'uploading' "
            "   AND NOT EXISTS (SELECT 1 FROM reservations r WHERE r.job_id = j.id "
            "                      AND r.expires_at > clock_timestamp()) RETURNING j.id"
        ),
        {"key": customer_id, "hashes": list(hashes), "why": ABANDONED},
    ).scalars()
    release_pending(connection, list(failed))


def _insert_jobs(connection: Connection, customer_id: int, arrivals: Sequence[Arrival], *, reprocess: bool) -> None:
    if not arrivals:
        return
    connection.execute(
        text(
            "INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash, reprocess) "
            "SELECT n.id, :key, 'uploading', n.filename, n.hash, :reprocess "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:hashes AS text[])) "
            "    AS n (id, filename, hash)"
        ),
        {
            "key": customer_id,
            "ids": [str(arrival.original.job_id) for arrival in arrivals],
            "names": [arrival.filename for arrival in arrivals],
            "hashes": [arrival.original.sha256 for arrival in arrivals],
            "reprocess": reprocess,
        },
    )


def touch(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Note that somebody asked for these jobs; to the minute, so that a run of thousands does not write each again."""
    if job_ids:
        connection.execute(
            text(
                "UPDATE jobs SET last_accessed_at = clock_timestamp() WHERE id = ANY (CAST(:ids AS uuid[])) "
                "   AND coalesce(last_accessed_at < clock_timestamp() - interval '1 minute', true)"
            ),
            {"ids": [str(job_id) for job_id in job_ids]},
        )


def _uuids(array: object) -> list[UUID]:
    # psycopg2 gives a uuid[] back as its text form.
    if isinstance(array, str):
        return [UUID(one) for one in array.strip("{}").split(",") if one]
    return [one if isinstance(one, UUID) else UUID(str(one)) for one in array]  # type: ignore[attr-defined]  # a list
