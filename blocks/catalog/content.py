"""What rows say of their bytes: what is there, where, and what it decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Content:
    """What a row says its bytes are."""

    id: UUID
    job_id: UUID
    customer_id: int
    kind: str
    name: str
    location_id: int
    key: str
    sha256: str
    size_bytes: int
    stored_bytes: int
    codec: str
    generation: int
    state: str
    etag: str | None

    @property
    def unsound(self) -> bool:
        """Whether its bytes are known to be missing or corrupt."""
        return self.state in ("missing", "corrupt")


CONTENT = (
    "s.id, s.job_id, s.api_key_id, s.kind, s.name, s.location_id, s.key, s.sha256, s.size_bytes, s.stored_bytes, "
    "s.codec, s.generation, s.state, s.etag"
)
"""Its columns, of `stored_objects s`."""


def content_of(connection: Connection, object_ids: Sequence[UUID]) -> dict[UUID, Content]:
    """What these rows say; those that are gone are not among them."""
    rows = connection.execute(
        text(f"SELECT {CONTENT} FROM stored_objects s WHERE s.id = ANY (CAST(:ids AS uuid[]))"),
        {"ids": [str(one) for one in object_ids]},
    )
    return {row.id: Content(*row) for row in rows}


def metadata_after(connection: Connection, after: UUID, location_ids: Sequence[int], *, limit: int) -> list[Content]:
    """Metadata objects in these places that have bytes or should have, in id order from `after` on."""
    rows = connection.execute(
        text(
            f"SELECT {CONTENT} FROM stored_objects s WHERE s.kind = 'metadata' AND s.id > CAST(:after AS uuid) "
            "   AND s.state IN ('live', 'missing', 'corrupt') AND s.location_id = ANY (:places) "
            " ORDER BY s.id LIMIT :limit"
        ),
        {"after": str(after), "places": list(location_ids), "limit": limit},
    )
    return [Content(*row) for row in rows]
