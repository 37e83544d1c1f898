"""A catalog that comes from a backup: fenced from what ran before, and frozen until somebody confirms it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.checks import keep_checks
from blocks.catalog.due import UNDER_WAY
from blocks.errors import FrozenCatalogError

GENERATIONS_AN_EPOCH = 2**32
"""More than a catalog ever hands out in one: what is changed after a restore is never taken for what was changed in the
catalog that it replaced, or in another restore of the same backup."""

UNSEEN = timedelta(minutes=10)
"""How long before a transaction ends the log may say that it did something."""


@dataclass(frozen=True)
class Freeze:
    """Since when, and from which backup; `claims_pending` where buckets still carry an older epoch."""

    since: datetime
    restored_from: str
    claims_pending: bool

    def refusal(self) -> FrozenCatalogError:
        """Why nothing is removed, and the way out."""
        return FrozenCatalogError(
            f"the catalog was restored from backup {self.restored_from} at {self.since:%Y-%m-%d %H:%M} UTC, and nobody "
            "has confirmed it yet: nothing is removed or moved in any store; look at the restore's report, then run "
            "confirm-restore"
            + (
                " with take_over_buckets: its buckets are not its own yet, so that no backup is made either"
                if self.claims_pending
                else ""
            )
        )


def read_freeze(connection: Connection) -> Freeze | None:
    """None for a catalog that was never restored, or that somebody confirmed."""
    row = connection.execute(
        text("SELECT frozen_since, restored_from, claims_pending FROM catalog_identity WHERE frozen_since IS NOT NULL")
    ).one_or_none()
    return Freeze(*row) if row else None


def require_thawed(connection: Connection) -> None:
    """Refuse to remove anything while the catalog is frozen.

    Raises:
        FrozenCatalogError: it is.
    """
    if (freeze := read_freeze(connection)) is not None:
        raise freeze.refusal()


def freeze(connection: Connection, *, backup: str, epoch: int, run: str) -> None:
    """Make a restored catalog one that nothing is removed by: another epoch, no work under way, no question open.

    What intents named is nobody's from now on: the bytes carry their row's id and hash, and a reconciliation finds out
    by reading them whose they are.
    """
    connection.execute(
        text(
            "UPDATE catalog_identity SET epoch = :epoch, frozen_since = clock_timestamp(), restored_from = :backup, "
            "       claims_pending = true"
        ),
        {"epoch": epoch, "backup": backup},
    )
    _set_generations(connection, epoch)
    connection.execute(text("UPDATE approvals SET state = 'overtaken' WHERE state = 'asked'"))
    ended = connection.execute(text("UPDATE relocations SET state = 'done' WHERE state <> 'done'")).rowcount
    connection.execute(
        text(
            "INSERT INTO operation_log (run, operation, rule, after) VALUES (:run, 'restore', :backup, "
            "       jsonb_build_object('epoch', CAST(:epoch AS int), 'intents_ended', CAST(:ended AS int)))"
        ),
        {"run": run, "backup": backup, "epoch": epoch, "ended": ended},
    )


def thaw(connection: Connection, seen: Freeze, *, run: str) -> bool:
    """Somebody confirmed what they saw: what is due is removed again. False if it is another restore by now."""
    changed = connection.execute(
        text(
            "UPDATE catalog_identity SET frozen_since = NULL, confirmed_at = clock_timestamp() "
            " WHERE frozen_since = :since AND restored_from = :backup"
        ),
        {"since": seen.since, "backup": seen.restored_from},
    ).rowcount
    if not changed:
        return False
    # What is in the trash again gets all of its time: it may have been brought back after the backup.
    connection.execute(
        text(
            "UPDATE jobs SET purge_after = clock_timestamp() + (purge_after - deleted_at) "
            " WHERE deleted_at IS NOT NULL AND status <> 'cleaned_up'"
        )
    )
    # So does what was under way when the backup was made: it went on, and its bytes may be whole.
    connection.execute(text(f"UPDATE jobs SET updated_at = clock_timestamp() WHERE {UNDER_WAY}"))
    connection.execute(text("UPDATE stored_objects SET created_at = clock_timestamp() WHERE state = 'pending'"))
    written = text("INSERT INTO operation_log (run, operation) VALUES (:run, 'confirm-restore')")
    connection.execute(written, {"run": run})
    return True


@dataclass(frozen=True)
class Obligations:
    """What a catalog is bound to: jobs on hold with the reason, jobs that were erased for good since a moment, and
    disabled keys by their hashes, and since when. And how backups and drills went since that moment.

    `unknown` names what it could not be asked.
    """

    holds: dict[UUID, str]
    erased: list[UUID]
    disabled: dict[str, datetime]
    checks: list[dict[str, Any]]
    unknown: tuple[str, ...] = ()


def jobs_on_hold(connection: Connection) -> dict[UUID, str]:
    """Every one, with its reason."""
    return {row.id: row.hold for row in connection.execute(text("SELECT id, hold FROM jobs WHERE hold IS NOT NULL"))}


def disabled_keys(connection: Connection) -> dict[str, datetime]:
    """By their hashes: the same secrets are to be refused, whatever number a key has in a backup."""
    rows = connection.execute(text("SELECT key_hash, disabled_at FROM api_keys WHERE disabled_at IS NOT NULL"))
    return {row.key_hash: row.disabled_at for row in rows}


def keep_obligations(connection: Connection, kept: Obligations, *, run: str) -> None:
    """What forbade something in the catalog that is replaced forbids it in the restored one; what had been erased since
    the backup is written down.

    Holds that were released since, and keys that were enabled again, stay as the backup has them.
    """
    connection.execute(
        text(
            "UPDATE jobs j SET hold = k.hold FROM unnest(CAST(:ids AS uuid[]), CAST(:holds AS text[])) AS k (id, hold) "
            " WHERE j.id = k.id AND j.hold IS DISTINCT FROM k.hold"
        ),
        {"ids": [str(one) for one in kept.holds], "holds": list(kept.holds.values())},
    )
    connection.execute(
        text(
            "INSERT INTO operation_log (run, operation, rule, job_id) "
            "SELECT :run, 'erase', 'before the restore', id FROM unnest(CAST(:ids AS uuid[])) AS k (id) "
            # What was written down shortly before the backup is in it already.
            " WHERE id NOT IN (SELECT job_id FROM operation_log WHERE operation = 'erase' AND job_id = ANY "
            "                  (CAST(:ids AS uuid[])))"
        ),
        {"run": run, "ids": [str(one) for one in kept.erased]},
    )
    connection.execute(
        text(
            "UPDATE api_keys a SET disabled_at = k.since "
            "  FROM unnest(CAST(:keys AS text[]), CAST(:since AS timestamptz[])) AS k (hash, since) "
            " WHERE a.key_hash = k.hash AND a.disabled_at IS NULL"
        ),
        {"keys": list(kept.disabled), "since": list(kept.disabled.values())},
    )
    keep_checks(connection, kept.checks)


def orphans_since(connection: Connection) -> datetime | None:
    """When a restore of this catalog was confirmed: nothing counts as an orphan for longer than that."""
    at: datetime | None = connection.execute(text("SELECT confirmed_at FROM catalog_identity")).scalar_one()
    return at


def set_epoch(connection: Connection, epoch: int) -> None:
    """A bucket turned out to carry a later epoch than the one that was chosen."""
    connection.execute(text("UPDATE catalog_identity SET epoch = :epoch WHERE epoch < :epoch"), {"epoch": epoch})
    _set_generations(connection, epoch)


def _set_generations(connection: Connection, epoch: int) -> None:
    connection.execute(
        text("SELECT setval('generations', greatest(last_value, :first)) FROM generations"),
        {"first": epoch * GENERATIONS_AN_EPOCH},
    )


def claims_done(connection: Connection) -> None:
    """Every bucket carries this epoch now."""
    connection.execute(text("UPDATE catalog_identity SET claims_pending = false"))


@dataclass(frozen=True)
class NewerJob:
    """A job that the catalog has and the backup does not."""

    id: UUID
    customer: str
    created_at: datetime
    hold: str | None
    objects: int
    size_bytes: int


def newer_keys(connection: Connection, since: datetime) -> dict[str, datetime]:
    """API keys that were made after a moment, by label: the catalog has them, and the backup does not."""
    rows = connection.execute(
        text("SELECT label, created_at FROM api_keys WHERE created_at > :since ORDER BY label"), {"since": since}
    )
    return {row.label: row.created_at for row in rows}


def newer_jobs(connection: Connection, since: datetime, limit: int) -> tuple[list[NewerJob], int, int, int]:
    """Jobs made after a moment, newest first, up to `limit`; and how many jobs, objects and bytes there are in all."""
    rows = connection.execute(
        text(
            # The jobs first, and then what they have: together they were planned for all jobs.
            "SELECT j.id, k.label, j.created_at, j.hold, o.objects, o.size_bytes "
            "  FROM (SELECT id, api_key_id, created_at, hold FROM jobs WHERE created_at > :since "
            "         ORDER BY created_at DESC LIMIT :limit) j JOIN api_keys k ON k.id = j.api_key_id "
            "  CROSS JOIN LATERAL (SELECT count(*) AS objects, coalesce(sum(size_bytes), 0)::bigint AS size_bytes "
            "                        FROM stored_objects s WHERE s.job_id = j.id) o ORDER BY j.created_at DESC"
        ),
        {"since": since, "limit": limit},
    )
    found = [NewerJob(*row) for row in rows]
    total = connection.execute(
        text(
            "SELECT (SELECT count(*) FROM jobs WHERE created_at > :since), count(*), "
            "       coalesce(sum(stored_bytes), 0)::bigint FROM stored_objects WHERE created_at > :since"
        ),
        {"since": since},
    ).one()
    return found, total[0], total[1], total[2]


def deleted_since(connection: Connection, since: datetime) -> dict[UUID, datetime]:
    """Jobs that were deleted after a moment, and still are, newest first: in a restored catalog they live again."""
    rows = connection.execute(
        text(
            "WITH trashed AS MATERIALIZED (SELECT job_id FROM operation_log WHERE at > :since AND operation = 'trash') "
            "SELECT DISTINCT j.id, j.deleted_at FROM trashed t JOIN jobs j ON j.id = t.job_id "
            " WHERE j.deleted_at > :since AND j.created_at <= :since ORDER BY j.deleted_at DESC, j.id"
        ),
        {"since": since},
    )
    return {row.id: row.deleted_at for row in rows}


def erased_since(connection: Connection, since: datetime) -> list[UUID]:
    """Jobs that were erased for good after a moment: a restore brings their rows back, so they must be erased anew."""
    rows = connection.execute(
        text(
            # By time alone: an index of jobs has them sorted already, and would be read for that all through.
            "WITH erased AS MATERIALIZED (SELECT job_id FROM operation_log WHERE at > :since AND operation = 'erase') "
            "SELECT DISTINCT job_id FROM erased WHERE job_id IS NOT NULL"
        ),
        {"since": since},
    )
    return list(rows.scalars())
