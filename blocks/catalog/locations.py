"""Where objects live, and which catalog a bucket belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.errors import NotFoundError


@dataclass(frozen=True)
class Place:
    """A row of `locations`."""

    id: int
    name: str
    store: str
    bucket: str
    prefix: str
    storage_class: str
    tier: str
    needs_restore: bool
    capabilities: dict[str, Any] | None


@dataclass(frozen=True)
class Identity:
    """Which catalog this is; a restore raises the epoch."""

    catalog_id: UUID
    epoch: int

    def as_text(self) -> str:
        """What the bucket's marker holds."""
        return f"{self.catalog_id} {self.epoch}\n"


_COLUMNS = "id, name, store, bucket, prefix, storage_class, tier, needs_restore, capabilities"


def find_place(connection: Connection, store_name: str) -> Place:
    """The location of a store block.

    Raises:
        NotFoundError: the store was never declared.
    """
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM locations WHERE name = :name"), {"name": store_name}
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"no location {store_name!r} in the catalog; run the flow probe-store for this store first")
    return Place(**row._mapping)


def list_places(connection: Connection) -> list[str]:
    """The names of all declared locations, in the order of their ids."""
    return list(connection.execute(text("SELECT name FROM locations ORDER BY id")).scalars())


def declare_place(
    connection: Connection, *, store_name: str, bucket: str, prefix: str, capabilities: dict[str, Any]
) -> Place:
    """Write down a store's location with what the probe found; a location that moved is refused by its unique name."""
    row = connection.execute(
        text(
            "INSERT INTO locations AS l (name, store, bucket, prefix, capabilities, probed_at) "
            "VALUES (:name, :name, :bucket, :prefix, CAST(:capabilities AS jsonb), clock_timestamp()) "
            "ON CONFLICT (name) DO UPDATE SET capabilities = excluded.capabilities, probed_at = excluded.probed_at "
            f"RETURNING {_COLUMNS}"
        ),
        {"name": store_name, "bucket": bucket, "prefix": prefix, "capabilities": _json(capabilities)},
    ).one()
    return Place(**row._mapping)


def read_identity(connection: Connection) -> Identity:
    """The catalog's id and epoch."""
    row = connection.execute(text("SELECT catalog_id, epoch FROM catalog_identity")).one()
    return Identity(**row._mapping)


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
