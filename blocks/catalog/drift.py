"""Where catalog and store disagree: what the catalog expects, and the changes that are provable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.customers import lock_customer
from blocks.catalog.due import UNDER_WAY
from blocks.catalog.moving import start_over


@dataclass(frozen=True, slots=True)
class ExpectedObject:
    """A row as a reconciliation needs it, read before the listing that it is held against."""

    id: UUID
    customer_id: int
    key: str
    state: str
    trashed_state: str | None
    stored_bytes: int
    etag: str | None
    generation: int
    location_id: int = 0


@dataclass(frozen=True, slots=True)
class Fenced:
    """A row as it was read: it is changed only if it is still that."""

    id: UUID
    generation: int


def expected_in_range(
    connection: Connection, location_ids: Sequence[int], first: UUID, last: UUID
) -> list[ExpectedObject]:
    """Every row of the jobs from `first` to `last`, both included, and every key of theirs that an intent names."""
    rows = connection.execute(
        text(
            "SELECT id, api_key_id, key, state, trashed_state, stored_bytes, etag, generation, location_id "
            "  FROM stored_objects WHERE job_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) "
            "   AND location_id = ANY (:locations) "
            # Bytes on their way in or out: their presence says nothing, nor does their absence. `state <> 'done'` is
            # the predicate of the index relocations_by_job, word for word.
            "UNION ALL "
            "SELECT object_id, coalesce(api_key_id, 0), key, 'pending', NULL, 0, NULL, generation, location_id "
            "  FROM relocations WHERE job_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) "
            "   AND state <> 'done' AND state IN ('open', 'failed') AND location_id = ANY (:locations) "
            "UNION ALL "
            "SELECT object_id, coalesce(api_key_id, 0), old_key, 'purging', NULL, 0, NULL, generation, old_location_id "
            "  FROM relocations WHERE job_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) "
            "   AND state <> 'done' AND state = 'swapped' AND old_location_id = ANY (:locations)"
        ),
        {"locations": list(location_ids), "first": str(first), "last": str(last)},
    )
    return [ExpectedObject(*row) for row in rows]


def count_rows(connection: Connection, location_ids: Sequence[int]) -> int:
    """All rows of a shelf."""
    count: int = connection.execute(
        text("SELECT count(*) FROM stored_objects WHERE location_id = ANY (:locations)"),
        {"locations": list(location_ids)},
    ).scalar_one()
    return count


def unsound_keys(connection: Connection, limit: int) -> tuple[list[str], int]:
    """Keys of rows whose bytes are missing or corrupt, up to `limit`, and how many there are in all."""
    unsound = "FROM stored_objects WHERE state IN ('missing', 'corrupt')"
    keys = connection.execute(text(f"SELECT key {unsound} ORDER BY location_id, id LIMIT :limit"), {"limit": limit})
    return list(keys.scalars()), connection.execute(text(f"SELECT count(*) {unsound}")).scalar_one()


def pending_keys(connection: Connection, location_ids: Sequence[int], limit: int) -> list[tuple[str, int]]:
    """Of a restored catalog: keys and bytes of rows that were being written at the backup, up to `limit`."""
    rows = connection.execute(
        text(
            "SELECT key, stored_bytes FROM stored_objects "
            " WHERE state = 'pending' AND location_id = ANY (:locations) "
            "   AND created_at < (SELECT frozen_since FROM catalog_identity) ORDER BY created_at LIMIT :limit"
        ),
        {"locations": list(location_ids), "limit": limit},
    )
    return [(row.key, row.stored_bytes) for row in rows]


def count_unfinished(connection: Connection) -> int:
    """Of a restored catalog: jobs that were under way when the backup was made, and that nobody was at since."""
    count: int = connection.execute(
        text(
            f"SELECT count(*) FROM jobs WHERE {UNDER_WAY} "
            "   AND updated_at < (SELECT frozen_since FROM catalog_identity)"
        )
    ).scalar_one()
    return count


def named_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Which of these keys some row or unfinished intent names at this moment, in whatever place.

    Keys hold ids, so that two places share one only where they are the same bucket under two names: then nothing in it
    is anybody's to remove.
    """
    rows = connection.execute(
        text(
            # By place, since that is how the indexes begin.
            "WITH places AS (SELECT array_agg(id) AS ids FROM locations) "
            "SELECT o.key FROM places, stored_objects o WHERE o.location_id = ANY (places.ids) AND o.key = ANY (:keys) "
            "UNION SELECT r.key FROM places, relocations r "
            "       WHERE r.location_id = ANY (places.ids) AND r.key = ANY (:keys) AND r.state IN ('open', 'failed') "
            "UNION SELECT r.old_key FROM places, relocations r "
            "       WHERE r.old_location_id = ANY (places.ids) AND r.old_key = ANY (:keys) AND r.state = 'swapped'"
        ),
        {"keys": list(keys)},
    )
    return set(rows.scalars())


def owner_ids(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The customers that these jobs belong to."""
    rows = connection.execute(
        text("SELECT id, api_key_id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(one) for one in job_ids]},
    )
    return {row.id: row.api_key_id for row in rows}


def unsound_jobs(connection: Connection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these jobs that have objects whose bytes are missing or corrupt."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT job_id FROM stored_objects "
            " WHERE job_id = ANY (CAST(:ids AS uuid[])) AND state IN ('missing', 'corrupt')"
        ),
        {"ids": [str(one) for one in job_ids]},
    )
    return set(rows.scalars())


def labels(connection: Connection) -> dict[int, str]:
    """All customers by id."""
    return {row.id: row.label for row in connection.execute(text("SELECT id, label FROM api_keys"))}


# A trashed row stays in the trash, and remembers what it will be when it comes out.
_SET_STATE = text(
    """
WITH changed AS (
    UPDATE stored_objects o
       SET state = CASE o.state WHEN 'trashed' THEN o.state ELSE :state END,
           trashed_state = CASE o.state WHEN 'trashed' THEN :state END,
           generation = nextval('generations'),
           -- The ETag that was written down is not what the store says: it is compared no more.
           etag = CASE :state WHEN 'live' THEN NULL ELSE o.etag END,
           verified_at = CASE :state WHEN 'live' THEN clock_timestamp() ELSE o.verified_at END
      FROM unnest(CAST(:ids AS uuid[]), CAST(:generations AS bigint[])) AS w (id, generation), stored_objects was
     WHERE o.id = w.id AND o.generation = w.generation AND was.id = o.id AND o.api_key_id = :customer
       AND o.state IN ('live', 'missing', 'corrupt', 'trashed')
    RETURNING o.id, o.job_id, o.api_key_id, o.key, o.stored_bytes, coalesce(was.trashed_state, was.state) AS before
), logged AS (
    INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes)
    SELECT :run, 'mark', :rule, api_key_id, job_id, id, jsonb_build_object('state', before, 'key', key),
           jsonb_build_object('state', CAST(:state AS text)), stored_bytes
      FROM changed
)
SELECT id, job_id, before FROM changed
"""
)


def mark(
    connection: Connection, customer_id: int, objects: Sequence[Fenced], *, state: str, run: str, rule: str
) -> set[UUID]:
    """Say of objects that they are `live`, `missing` or `corrupt`; returns those that nobody changed meanwhile."""
    if not objects:
        return set()
    lock_customer(connection, customer_id)
    rows = connection.execute(
        _SET_STATE,
        {
            "ids": [str(one.id) for one in objects],
            "generations": [one.generation for one in objects],
            "customer": customer_id,
            "state": state,
            "run": run,
            "rule": rule,
        },
    ).all()
    if back := {row.job_id for row in rows if state == "live" != row.before}:
        start_over(connection, sorted(back), asked=False)
    return {row.id for row in rows}


_FOLLOW = text(
    """
WITH changed AS (
    UPDATE stored_objects o
       SET location_id = w.location_id, relocated_at = clock_timestamp(), generation = nextval('generations')
      FROM unnest(CAST(:ids AS uuid[]), CAST(:generations AS bigint[]), CAST(:places AS bigint[]))
        AS w (id, generation, location_id), stored_objects was
     WHERE o.id = w.id AND o.generation = w.generation AND was.id = o.id AND o.api_key_id = :customer
       AND o.state IN ('live', 'trashed')
    RETURNING o.id, o.job_id, o.api_key_id, o.key, o.stored_bytes, was.location_id AS before, o.location_id AS after
), logged AS (
    INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes)
    SELECT :run, 'follow-transition', 'transition_days', c.api_key_id, c.job_id, c.id,
           jsonb_build_object('location', b.name, 'key', c.key), jsonb_build_object('location', a.name), c.stored_bytes
      FROM changed c JOIN locations b ON b.id = c.before JOIN locations a ON a.id = c.after
)
SELECT id FROM changed
"""
)


def follow_classes(connection: Connection, customer_id: int, moved: Mapping[Fenced, int], *, run: str) -> set[UUID]:
    """Rows whose objects the server moved to another storage class get the location of that class."""
    if not moved:
        return set()
    lock_customer(connection, customer_id)
    rows = connection.execute(
        _FOLLOW,
        {
            "ids": [str(one.id) for one in moved],
            "generations": [one.generation for one in moved],
            "places": list(moved.values()),
            "customer": customer_id,
            "run": run,
        },
    )
    return set(rows.scalars())
