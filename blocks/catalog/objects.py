"""The life of an object's row: pending, live, released. Every change is fenced by `generation` (invariant 6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from blocks.catalog.locations import IN_USE, gone_out_of_use


@dataclass(frozen=True)
class NewObject:
    """A row to be: what will lie under `key`. Bytes may be written once it is committed as `pending`."""

    id: UUID
    job_id: UUID
    kind: str
    name: str
    location_id: int
    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Verified:
    """Bytes that are under their key and proved to be the expected ones."""

    object_id: UUID
    etag: str | None
    generation: int = 1


@dataclass(frozen=True)
class Released:
    """Bytes that may go: their row is `purging`."""

    object_id: UUID
    location_id: int
    key: str
    job_id: UUID
    stored_bytes: int


def insert_pending(connection: Connection, customer_id: int, objects: Sequence[NewObject]) -> None:
    """Name the keys that are about to be written.

    Raises:
        RefusedError: their location was retired since it was opened.
    """
    if not objects:
        return
    inserted = connection.execute(
        text(
            f"WITH places AS MATERIALIZED ({IN_USE}) "
            "INSERT INTO stored_objects "
            "  (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, sha256, state) "
            "SELECT n.id, n.job_id, :customer, n.kind, n.name, n.location_id, n.key, n.size, n.size, n.sha256, "
            "       'pending' "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:jobs AS uuid[]), CAST(:kinds AS text[]), "
            "              CAST(:names AS text[]), CAST(:locations AS bigint[]), CAST(:keys AS text[]), "
            "              CAST(:sizes AS bigint[]), "
            "              CAST(:hashes AS text[])) "
            "    AS n (id, job_id, kind, name, location_id, key, size, sha256) JOIN places p ON p.id = n.location_id"
        ),
        {
            "customer": customer_id,
            "ids": [str(new.id) for new in objects],
            "jobs": [str(new.job_id) for new in objects],
            "kinds": [new.kind for new in objects],
            "names": [new.name for new in objects],
            "locations": [new.location_id for new in objects],
            "keys": [new.key for new in objects],
            "sizes": [new.size_bytes for new in objects],
            "hashes": [new.sha256 for new in objects],
        },
    )
    if inserted.rowcount != len(objects):
        raise gone_out_of_use()


def make_live(connection: Connection, verified: Sequence[Verified], *, job_statuses: Sequence[str]) -> dict[UUID, UUID]:
    """Pending rows become live where nobody touched them and their job still stands as expected.

    Returns the job of each object that became live; the others were overtaken.
    """
    if not verified:
        return {}
    rows = connection.execute(
        text(
            "UPDATE stored_objects o SET state = 'live', etag = w.etag, generation = nextval('generations'), "
            "       verified_at = clock_timestamp() "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:generations AS bigint[]), CAST(:etags AS text[])) "
            "    AS w (id, generation, etag), jobs j "
            " WHERE o.id = w.id AND o.generation = w.generation AND o.state = 'pending' "
            "   AND j.id = o.job_id AND j.status = ANY (:statuses) AND j.deleted_at IS NULL "
            "RETURNING o.id, o.job_id"
        ),
        {
            "ids": [str(one.object_id) for one in verified],
            "generations": [one.generation for one in verified],
            "etags": [one.etag for one in verified],
            "statuses": list(job_statuses),
        },
    )
    return {row.id: row.job_id for row in rows}


# Whatever the reason, a row is released in one way: new state, generation and the log's entry are one statement.
# Both sides of the join are limited: one alone made PostgreSQL read the whole table for the other.
_RELEASE = """
WITH released AS (
    UPDATE stored_objects o
       SET state = 'purging', trashed_state = NULL, generation = nextval('generations')
      FROM stored_objects was
     WHERE was.id = o.id AND {which}
    RETURNING o.id, o.job_id, o.api_key_id, o.key, o.location_id, o.stored_bytes, was.state
), logged AS (
    INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes)
    SELECT :run, 'release', :rule, api_key_id, job_id, id, jsonb_build_object('state', state, 'key', key),
           jsonb_build_object('state', 'purging'), stored_bytes
      FROM released
)
SELECT job_id, count(*) AS objects, sum(stored_bytes)::bigint AS stored_bytes FROM released GROUP BY job_id
"""
_OF_JOBS = "o.job_id = ANY (CAST(:ids AS uuid[])) AND was.job_id = ANY (CAST(:ids AS uuid[]))"
_RELEASE_PENDING = text(_RELEASE.format(which=f"{_OF_JOBS} AND o.state = 'pending'"))
_RELEASE_SINGLE = text(_RELEASE.format(which="o.id = ANY (CAST(:ids AS uuid[])) AND o.state = 'pending'"))
_RELEASE_ALL = text(_RELEASE.format(which=f"{_OF_JOBS} AND o.state <> 'purging'"))


@dataclass(frozen=True)
class Extent:
    """How much something is: objects, and their bytes as stored."""

    objects: int = 0
    stored_bytes: int = 0

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.objects + other.objects, self.stored_bytes + other.stored_bytes)


def release_pending(
    connection: Connection, job_ids: Sequence[UUID], *, run: str = "", rule: str = "given_up"
) -> dict[UUID, Extent]:
    """Give up what was being written for these jobs: the rows keep their keys until the bytes are gone."""
    return _release(connection, _RELEASE_PENDING, job_ids, run, rule)


def release_objects(
    connection: Connection, object_ids: Sequence[UUID], *, run: str = "", rule: str = "given_up"
) -> dict[UUID, Extent]:
    """Give up single objects that are still pending."""
    return _release(connection, _RELEASE_SINGLE, object_ids, run, rule)


def release_jobs(connection: Connection, job_ids: Sequence[UUID], *, run: str, rule: str) -> dict[UUID, Extent]:
    """Give up everything of these jobs, in whatever state it is; the caller has seen that it may."""
    return _release(connection, _RELEASE_ALL, job_ids, run, rule)


def _release(
    connection: Connection, statement: TextClause, ids: Sequence[UUID], run: str, rule: str
) -> dict[UUID, Extent]:
    if not ids:
        return {}
    rows = connection.execute(statement, {"ids": [str(one) for one in ids], "run": run, "rule": rule})
    return {row.job_id: Extent(row.objects, row.stored_bytes) for row in rows}


def find_released(
    connection: Connection, location_id: int, *, after: UUID, limit: int, job_ids: Sequence[UUID] | None = None
) -> list[Released]:
    """Rows in this place whose bytes may go, in id order from `after` on; of some jobs, or of all."""
    rows = connection.execute(
        _FIND_RELEASED if job_ids is None else _FIND_RELEASED_OF_JOBS,
        {
            "location": location_id,
            "after": str(after),
            "limit": limit,
            "ids": [str(one) for one in job_ids or ()],
        },
    )
    return [Released(*row) for row in rows]


# A backup that runs copies the metadata objects its snapshot saw; a catalog that was restored removes nothing until
# somebody confirms it. Both are asked once a statement.
_MAY_GO = (
    "(kind <> 'metadata' OR NOT (SELECT backup_is_running())) AND (SELECT frozen_since IS NULL FROM catalog_identity)"
)
_FIND_RELEASED = text(
    "SELECT id, location_id, key, job_id, stored_bytes FROM stored_objects "
    f" WHERE location_id = :location AND state = 'purging' AND id > CAST(:after AS uuid) AND {_MAY_GO} "
    " ORDER BY id LIMIT :limit"
)
_FIND_RELEASED_OF_JOBS = text(
    "SELECT id, location_id, key, job_id, stored_bytes FROM stored_objects "
    " WHERE job_id = ANY (CAST(:ids AS uuid[])) AND location_id = :location AND state = 'purging' "
    f"   AND id > CAST(:after AS uuid) AND {_MAY_GO} ORDER BY id LIMIT :limit"
)


def forget_released(connection: Connection, object_ids: Sequence[UUID], *, run: str = "") -> set[UUID]:
    """Drop the rows of bytes that are gone; the log remembers their keys, which are never written again.

    Returns those that were still there: what two runs removed at once is one run's.
    """
    if not object_ids:
        return set()
    rows = connection.execute(
        text(
            "WITH gone AS (DELETE FROM stored_objects "
            "   WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'purging' RETURNING *) "
            "INSERT INTO operation_log (run, operation, api_key_id, job_id, object_id, before, bytes) "
            "SELECT :run, 'purge', api_key_id, job_id, id, "
            "       jsonb_build_object('state', state, 'name', name, 'key', key), "
            # What was given up before it was proved never came in, as far as figures go: it does not go out either.
            "       CASE WHEN verified_at IS NULL THEN 0 ELSE stored_bytes END FROM gone "
            "RETURNING object_id"
        ),
        {"ids": [str(object_id) for object_id in object_ids], "run": run},
    )
    return set(rows.scalars())


GONE_AT_ONCE = 10_000
"""Rows that are dropped in one transaction, which others may wait for."""


def forget_gone(connection: Connection, location_id: int) -> int:
    """Drop rows of a location whose bucket is gone, where all that they wait for is that their bytes are; how many.

    No more than some thousands: to be called until none is left, each time in a transaction of its own.
    """
    found = text(f"SELECT id FROM stored_objects WHERE location_id = :id AND state = :state LIMIT {GONE_AT_ONCE}")
    pending = connection.execute(found, {"id": location_id, "state": "pending"}).scalars().all()
    release_objects(connection, pending, rule="gone")
    released = connection.execute(found, {"id": location_id, "state": "purging"}).scalars().all()
    return len(forget_released(connection, released))


@dataclass(frozen=True)
class ExistingOutput:
    """An object that a job has under a name."""

    id: UUID
    state: str
    sha256: str
    generation: int


def find_named(connection: Connection, job_id: UUID) -> dict[str, ExistingOutput]:
    """A job's objects by name."""
    rows = connection.execute(
        text(
            "SELECT id, name, state, sha256, generation FROM stored_objects "
            " WHERE job_id = CAST(:job AS uuid) AND state <> 'purging'"
        ),
        {"job": str(job_id)},
    )
    return {row.name: ExistingOutput(row.id, row.state, row.sha256, row.generation) for row in rows}


def find_used_names(connection: Connection, job_id: UUID, names: Collection[str]) -> frozenset[str]:
    """Those of these names whose first key was given out already, to a writing that was released since.

    In a catalog that was restored any of them may have been, after the backup: it knows nothing of the bytes there.
    """
    if connection.execute(text("SELECT epoch > 1 FROM catalog_identity")).scalar_one():
        return frozenset(names)
    rows = connection.execute(
        text(
            "SELECT name FROM stored_objects WHERE job_id = CAST(:job AS uuid) AND state = 'purging' "
            " UNION SELECT before ->> 'name' FROM operation_log "
            "  WHERE job_id = CAST(:job AS uuid) AND operation = 'purge'"
        ),
        {"job": str(job_id)},
    )
    return frozenset(names) & frozenset(rows.scalars())
