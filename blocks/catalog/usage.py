"""Who stores how much of what, summed by PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class KindUsage:
    """What one customer stores of one kind; sizes in bytes, as content and as stored."""

    customer: str
    kind: str
    objects: int
    size_bytes: int
    stored_bytes: int


def usage_by_kind(connection: Connection, customers: list[str] | None = None) -> list[KindUsage]:
    """One row a customer and kind, of what counts against quotas; for these labels, or for all."""
    rows = connection.execute(
        text(
            "SELECT k.label AS customer, o.kind, count(*) AS objects, sum(o.size_bytes)::bigint AS size_bytes, "
            "       sum(o.stored_bytes)::bigint AS stored_bytes "
            "  FROM api_keys k JOIN stored_objects o ON o.api_key_id = k.id "
            " WHERE o.state IN ('live', 'missing', 'corrupt') "
            "   AND (CAST(:labels AS text[]) IS NULL OR k.label = ANY (:labels)) "
            " GROUP BY k.label, o.kind ORDER BY k.label, o.kind"
        ),
        {"labels": customers},
    )
    return [KindUsage(**row._mapping) for row in rows]
