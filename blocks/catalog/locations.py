"""Where objects live, and which catalog a bucket belongs to.

Locations that share a store, bucket and prefix and differ in their storage class are one *shelf*: their objects lie in
one listing, and whoever looks through one of them looks through all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.customers import storable
from blocks.errors import NotFoundError, RefusedError
from blocks.units import shown


@dataclass(frozen=True)
class Place:
    """A row of `locations`; `shelf` holds the ids of all locations in the same bucket and prefix, its own among them.

    `price_per_gib_month` is in the operator's own currency. `moved_to` is where new files go instead.
    """

    id: int
    name: str
    store: str
    bucket: str
    prefix: str
    storage_class: str
    tier: str
    price_per_gib_month: Decimal | None
    needs_restore: bool
    serves_urls: bool
    moved_to: int | None
    capabilities: dict[str, Any] | None
    shelf: tuple[int, ...]


@dataclass(frozen=True)
class Declaration:
    """What an operator says of a location; None leaves what was said before."""

    tier: str | None = None
    price_per_gib_month: float | None = None
    needs_restore: bool | None = None
    serves_urls: bool | None = None


@dataclass(frozen=True)
class Identity:
    """Which catalog this is; a restore raises the epoch."""

    catalog_id: UUID
    epoch: int

    def as_text(self) -> str:
        """What the bucket's marker holds."""
        return f"{self.catalog_id} {self.epoch}\n"


RANK = {"hot": 0, "warm": 1, "cold": 2}
"""The tiers, the hottest first."""

_SELECT = """
SELECT l.id, l.name, l.store, l.bucket, l.prefix, l.storage_class, l.tier, l.price_per_gib_month, l.needs_restore,
       l.serves_urls, l.moved_to, l.capabilities,
       (SELECT array_agg(s.id ORDER BY s.id) FROM locations s
         WHERE (s.store, s.bucket, s.prefix) = (l.store, l.bucket, l.prefix)) AS shelf
  FROM locations l
"""


def find_place(connection: Connection, name: str) -> Place:
    """The location of this name.

    Raises:
        NotFoundError: it was never declared.
        RefusedError: it was retired.
    """
    row = None
    if storable(name):
        row = connection.execute(text(f"{_SELECT} WHERE l.name = :name"), {"name": name}).one_or_none()
    if row is None:
        known = ", ".join(place.name for place in list_places(connection)) or "none yet"
        raise NotFoundError(
            f"no location {shown(name)} in the catalog; there are: {known}. For a new store run the flow probe-store"
        )
    place = _place(row)
    if connection.execute(text("SELECT retired_at FROM locations WHERE id = :id"), {"id": place.id}).scalar():
        went = f"; its new files go to {place_name(connection, place.moved_to)}" if place.moved_to is not None else ""
        raise RefusedError(f"location {name} is retired{went}; run the flow probe-store to take it into use again")
    return place


def inbox_name(connection: Connection, name: str) -> str:
    """Which location takes the new files of this one: itself, or where it was migrated, be it retired by now or not.

    Raises:
        NotFoundError: it was never declared.
    """
    if not storable(name):
        return find_place(connection, name).name
    found: str | None = connection.execute(
        text("SELECT coalesce(t.name, l.name) FROM locations l LEFT JOIN locations t ON t.id = l.moved_to "
             " WHERE l.name = :name"),
        {"name": name},
    ).scalar()  # fmt: skip
    return found or find_place(connection, name).name


def same_place(
    connection: Connection, *, store: str, bucket: str, prefix: str, storage_class: str, but: str
) -> str | None:
    """Another location that is the very same place, retired or not: there is one of each."""
    return connection.execute(
        text("SELECT name FROM locations WHERE (store, bucket, prefix, storage_class) "
             "     = (:store, :bucket, :prefix, :class) AND name <> :but"),
        {"store": store, "bucket": bucket, "prefix": prefix, "class": storage_class, "but": but},
    ).scalar()  # fmt: skip


def place_name(connection: Connection, location_id: int) -> str:
    """The name of a location."""
    name: str = connection.execute(text("SELECT name FROM locations WHERE id = :id"), {"id": location_id}).scalar_one()
    return name


def store_name(connection: Connection, location_id: int) -> str:
    """The store block that reaches a location."""
    name: str = connection.execute(text("SELECT store FROM locations WHERE id = :id"), {"id": location_id}).scalar_one()
    return name


def list_places(connection: Connection) -> list[Place]:
    """All locations in use, in the order of their ids."""
    return [_place(row) for row in connection.execute(text(f"{_SELECT} WHERE l.retired_at IS NULL ORDER BY l.id"))]


def stored_in(connection: Connection) -> dict[int, tuple[int, int]]:
    """Objects and stored bytes of each location that has any, from the totals and what has changed since."""
    rows = connection.execute(
        text(
            "SELECT location_id, sum(objects)::bigint, sum(stored_bytes)::bigint FROM ("
            "  SELECT location_id, objects, stored_bytes FROM storage_totals "
            "  UNION ALL SELECT location_id, objects, stored_bytes FROM storage_changes "
            # What counts against nobody is in no total; there is little of it.
            "  UNION ALL SELECT location_id, 1, stored_bytes FROM stored_objects WHERE state = 'pending' "
            "  UNION ALL SELECT location_id, 1, stored_bytes FROM stored_objects WHERE state = 'purging') AS stored "
            " GROUP BY location_id HAVING sum(objects) > 0"
        )
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def place_of_tier(connection: Connection, tier: str) -> Place:
    """The location that objects are brought to for a tier: the oldest one that new files may go to.

    Raises:
        NotFoundError: none is declared.
    """
    for place in list_places(connection):
        if place.tier == tier and place.moved_to is None and place.serves_urls and not place.needs_restore:
            return place
    raise NotFoundError(
        f"no location of the tier {tier} that serves URLs is declared; declare one with the flow probe-store"
    )


def declare_place(
    connection: Connection,
    *,
    name: str,
    store: str,
    bucket: str,
    prefix: str,
    storage_class: str = "",
    capabilities: dict[str, Any],
    said: Declaration = Declaration(),
) -> Place:
    """Write down a location with what the probe found; what was said of it before stays unless it is said anew."""
    connection.execute(
        text(
            "INSERT INTO locations AS l (name, store, bucket, prefix, storage_class, capabilities, probed_at, tier, "
            "       price_per_gib_month, needs_restore, serves_urls) "
            "VALUES (:name, :store, :bucket, :prefix, :class, CAST(:capabilities AS jsonb), clock_timestamp(), "
            "        coalesce(:tier, 'hot'), :price, coalesce(:restore, false), coalesce(:serves, true)) "
            "ON CONFLICT (name) DO UPDATE SET capabilities = excluded.capabilities, probed_at = excluded.probed_at, "
            "       tier = coalesce(:tier, l.tier), price_per_gib_month = coalesce(:price, l.price_per_gib_month), "
            "       needs_restore = coalesce(:restore, l.needs_restore), retired_at = NULL, "
            "       serves_urls = coalesce(:serves, l.serves_urls)"
        ),
        {
            "name": name,
            "store": store,
            "bucket": bucket,
            "prefix": prefix,
            "class": storage_class,
            "capabilities": json.dumps(capabilities),
            "tier": said.tier,
            "price": said.price_per_gib_month,
            "restore": said.needs_restore,
            "serves": said.serves_urls,
        },
    )
    return find_place(connection, name)


def send_new_files(connection: Connection, source_ids: list[int], target_id: int) -> None:
    """From now on new files go to the target, wherever they were going before."""
    connection.execute(
        text(
            "UPDATE locations SET moved_to = CASE WHEN id = :target THEN NULL ELSE :target END "
            # Whoever sent its files to one of these sends them straight on: no chain, and no circle.
            " WHERE id = :target OR id = ANY (:sources) OR moved_to = ANY (:sources)"
        ),
        {"sources": source_ids, "target": target_id},
    )


IN_USE = "SELECT id FROM locations WHERE id = ANY (CAST(:locations AS bigint[])) AND retired_at IS NULL FOR SHARE"
"""Locations that something is about to be written to: none of them can be retired until the transaction ends."""


def require_in_use(connection: Connection, location_id: int) -> None:
    """See that a location is not retired; to be asked again once something was written there without a row.

    Raises:
        RefusedError: it is.
    """
    used = "SELECT 1 FROM locations WHERE id = :id AND retired_at IS NULL"
    if connection.execute(text(used), {"id": location_id}).one_or_none() is None:
        raise gone_out_of_use()


def gone_out_of_use() -> RefusedError:
    """Why nothing is written into a location that was open before it was retired, as a service keeps it."""
    return RefusedError("the location was retired since it was opened, and takes no new files: open it anew")


def require_no_rows(connection: Connection, place: Place, *, gone: bool = False) -> None:
    """See that no row names something in a location. Where it is `gone`, those may that only wait for its bytes to be.

    Raises:
        RefusedError: one does.
    """
    # In the index's own order: where everything was moved away, statistics still tell of rows in plenty, and the
    # planner would look for the first of them all through the table.
    kept = "AND state NOT IN ('pending', 'purging')" if gone else ""
    held = connection.execute(
        text(f"SELECT key FROM stored_objects WHERE location_id = :id {kept} ORDER BY key LIMIT 1"), {"id": place.id}
    ).scalar()
    if held is not None:
        rows, _ = stored_in(connection).get(place.id, (1, 0))
        if gone:
            counted = text(f"SELECT count(*) FROM stored_objects WHERE location_id = :id {kept}")
            rows = connection.execute(counted, {"id": place.id}).scalar_one()
            raise RefusedError(
                f"{rows} objects of customers are on record in location {place.name}: where they are lost for good, "
                "delete their jobs, and run this again once the next cleanup has given the trash up"
            )
        raise RefusedError(f"location {place.name} still holds {rows} objects: migrate-storage moves them")


def retire(connection: Connection, place: Place, *, gone: bool = False) -> None:
    """No longer look after a location that holds nothing; whoever is writing into it is waited for.

    Where its bucket is `gone`, intents that name something in it have nothing left to remove, and are done.

    Raises:
        RefusedError: rows or unfinished intents still name something in it.
    """
    connection.execute(text("SELECT 1 FROM locations WHERE id = :id FOR UPDATE"), {"id": place.id})
    require_no_rows(connection, place)
    if gone:
        connection.execute(
            text(
                "WITH done AS (UPDATE relocations SET state = 'done' "
                "   WHERE (location_id = :id AND state IN ('open', 'failed')) "
                "      OR (old_location_id = :id AND state = 'swapped') RETURNING 1) "
                "INSERT INTO operation_log (run, operation, rule, after) "
                "SELECT '', 'retire', 'gone', jsonb_build_object('location', CAST(:name AS text), 'copies', count(*)) "
                "  FROM done"
            ),
            {"id": place.id, "name": place.name},
        )
    left: int = connection.execute(
        text(
            "SELECT count(*) FROM relocations WHERE (location_id = :id AND state IN ('open', 'failed')) "
            "   OR (old_location_id = :id AND state = 'swapped')"
        ),
        {"id": place.id},
    ).scalar_one()
    if left:
        raise RefusedError(
            f"location {place.name} still holds {left} old copies: cleanup removes them when the last URL has ended"
        )
    forms: int = connection.execute(
        text("SELECT count(*) FROM uploads WHERE location_id = :id AND status = 'open'"), {"id": place.id}
    ).scalar_one()
    if forms:
        raise RefusedError(f"location {place.name} still has {forms} open upload forms; cleanup closes them")
    if place.moved_to is None and place.tier == "hot":
        raise RefusedError(f"new files still go to location {place.name}: run migrate-storage with new_files first")
    connection.execute(text("UPDATE locations SET retired_at = clock_timestamp() WHERE id = :id"), {"id": place.id})


def restore_first(what: str, place: str) -> RefusedError:
    """Why something cannot be read where it lies, and the way out."""
    return RefusedError(
        f"{what} lies in {place}, which must restore it first: have the server restore it (on AWS: aws s3api "
        "restore-object), and when that is done run rehydrate-job with restored"
    )


def read_identity(connection: Connection) -> Identity:
    """The catalog's id and epoch."""
    row = connection.execute(text("SELECT catalog_id, epoch FROM catalog_identity")).one()
    return Identity(**row._mapping)


def _place(row: Any) -> Place:
    return Place(**{**row._mapping, "shelf": tuple(row.shelf)})
