"""Where catalog and store disagree: what the catalog expects, and the changes that are provable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.customers import lock_customer


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


@dataclass(frozen=True, slots=True)
class Fenced:
    """A row as it was read: it is changed only if it is still that."""

    id: UUID
    generation: int


def expected_in_range(connection: Connection, location_id: int, first: UUID, last: UUID) -> list[ExpectedObject]:
    """Every row of the jobs from `first` to `last`, both included."""
    rows = connection.execute(
        text(
            "SELECT id, api_key_id, key, state, trashed_state, stored_bytes, etag, generation "
            "  FROM stored_objects WHERE job_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) "
            "   AND location_id = :location"
        ),
        {"location": location_id, "first": str(first), "last": str(last)},
    )
    return [ExpectedObject(*row) for row in rows]


def count_rows(connection: Connection, location_id: int) -> int:
    """All rows of a place."""
    count: int = connection.execute(
        text("SELECT count(*) FROM stored_objects WHERE location_id = :location"), {"location": location_id}
    ).scalar_one()
    return count


def named_keys(connection: Connection, location_id: int, keys: Sequence[str]) -> set[str]:
    """Which of these keys some row or unfinished intent names at this moment."""
    rows = connection.execute(
        text(
            "SELECT key FROM stored_objects WHERE location_id = :location AND key = ANY (:keys) "
            "UNION SELECT key FROM relocations "
            "       WHERE location_id = :location AND key = ANY (:keys) AND state IN ('open', 'failed') "
            "UNION SELECT old_key FROM relocations "
            "       WHERE old_location_id = :location AND old_key = ANY (:keys) AND state = 'swapped'"
        ),
        {"location": location_id, "keys": list(keys)},
    )
    return set(rows.scalars())


def owner_ids(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The customers that these jobs belong to."""
    rows = connection.execute(
        text("SELECT id, api_key_id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(one) for one in job_ids]},
    )
    return {row.id: row.api_key_id for row in rows}


def labels(connection: Connection) -> dict[int, str]:
    """All customers by id."""
    return {row.id: row.label for row in connection.execute(text("SELECT id, label FROM api_keys"))}


@dataclass(frozen=True, slots=True)
class Content:
    """What a row says its bytes are."""

    id: UUID
    job_id: UUID
    customer_id: int
    kind: str
    name: str
    key: str
    sha256: str
    size_bytes: int
    stored_bytes: int
    codec: str
    generation: int
    state: str

    @property
    def unsound(self) -> bool:
        """Whether its bytes are known to be missing or corrupt."""
        return self.state in ("missing", "corrupt")


_CONTENT = "id, job_id, api_key_id, kind, name, key, sha256, size_bytes, stored_bytes, codec, generation, state"


def content_of(connection: Connection, object_ids: Sequence[UUID]) -> dict[UUID, Content]:
    """What these rows say; those that are gone are not among them."""
    rows = connection.execute(
        text(f"SELECT {_CONTENT} FROM stored_objects WHERE id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(one) for one in object_ids]},
    )
    return {row.id: Content(*row) for row in rows}


# A trashed row stays in the trash, and remembers what it will be when it comes out.
_SET_STATE = text(
    """
WITH changed AS (
    UPDATE stored_objects o
       SET state = CASE o.state WHEN 'trashed' THEN o.state ELSE :state END,
           trashed_state = CASE o.state WHEN 'trashed' THEN :state END,
           generation = o.generation + 1,
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
SELECT id FROM changed
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
    )
    return set(rows.scalars())


def record_orphans(connection: Connection, removed: Sequence[tuple[str, int]], *, run: str) -> None:
    """Append objects that no row named and that were removed: key and bytes of each."""
    if removed:
        connection.execute(
            text(
                "INSERT INTO operation_log (run, operation, rule, job_id, before, bytes) "
                "SELECT :run, 'remove-orphan', 'orphan_grace_hours', CAST(substring(o.key FROM :job_in_key) AS uuid), "
                "       jsonb_build_object('key', o.key), o.size "
                "  FROM unnest(CAST(:keys AS text[]), CAST(:sizes AS bigint[])) AS o (key, size)"
            ),
            {
                "run": run,
                "job_in_key": "^[a-z]+/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/",
                "keys": [key for key, _ in removed],
                "sizes": [size for _, size in removed],
            },
        )
