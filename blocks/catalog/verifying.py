"""Which objects were verified longest ago, what was seen, and where else hurt content still is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text


def oldest_verified(connection: Connection, location_id: int, *, kinds: Sequence[str], most: int) -> list[UUID]:
    """The live objects that were verified longest ago."""
    rows = connection.execute(
        text(
            "SELECT id FROM stored_objects WHERE location_id = :location AND state = 'live' "
            "   AND (:all_kinds OR kind = ANY (:kinds)) ORDER BY verified_at NULLS FIRST LIMIT :most"
        ),
        {"location": location_id, "all_kinds": not kinds, "kinds": list(kinds), "most": most},
    )
    return list(rows.scalars())


def oldest_corrupt(connection: Connection, location_id: int, *, kinds: Sequence[str], most: int) -> list[UUID]:
    """Objects of a place that were found to be corrupt: they may be what they were again."""
    rows = connection.execute(
        text(
            # The index of both, by its own predicate.
            "SELECT id FROM stored_objects WHERE location_id = :location AND state IN ('missing', 'corrupt') "
            "   AND state = 'corrupt' AND (:all_kinds OR kind = ANY (:kinds)) ORDER BY id LIMIT :most"
        ),
        {"location": location_id, "all_kinds": not kinds, "kinds": list(kinds), "most": most},
    )
    return list(rows.scalars())


def count_live(connection: Connection, location_id: int, *, kinds: Sequence[str]) -> int:
    """The live objects of a place, from the totals and what has changed since."""
    count: int = connection.execute(
        text(
            "SELECT coalesce(sum(objects), 0)::bigint FROM ("
            "  SELECT location_id, state, kind, objects FROM storage_totals "
            "  UNION ALL SELECT location_id, state, kind, objects FROM storage_changes) AS stored "
            " WHERE location_id = :location AND state = 'live' AND (:all_kinds OR kind = ANY (:kinds))"
        ),
        {"location": location_id, "all_kinds": not kinds, "kinds": list(kinds)},
    ).scalar_one()
    return count


def count_unsound(connection: Connection, location_id: int) -> int:
    """Objects of a place that are known to be missing or corrupt."""
    count: int = connection.execute(
        text("SELECT count(*) FROM stored_objects WHERE location_id = :location AND state IN ('missing', 'corrupt')"),
        {"location": location_id},
    ).scalar_one()
    return count


def note_verified(connection: Connection, object_ids: Sequence[UUID]) -> None:
    """These were read and are what their rows say; book-keeping, so that no generation rises."""
    connection.execute(
        text(
            "UPDATE stored_objects SET verified_at = clock_timestamp() WHERE id = ANY (CAST(:ids AS uuid[])) "
            "   AND state = 'live'"
        ),
        {"ids": [str(one) for one in object_ids]},
    )


@dataclass(frozen=True, slots=True)
class Twin:
    """Another live object with the same content."""

    sha256: str
    job_id: UUID
    customer: str
    key: str
    location: str


def find_twins(connection: Connection, hashes: Sequence[str]) -> list[Twin]:
    """The oldest live object with each of these contents, whoever owns it."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT ON (o.sha256) o.sha256, o.job_id, k.label, o.key, l.name FROM stored_objects o "
            "  JOIN api_keys k ON k.id = o.api_key_id JOIN locations l ON l.id = o.location_id "
            " WHERE o.sha256 = ANY (:hashes) AND o.state = 'live' ORDER BY o.sha256, o.created_at"
        ),
        {"hashes": list(hashes)},
    )
    return [Twin(*row) for row in rows]
