"""Which jobs a policy may want to move or compress, each found by an index of its own, and their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from blocks.catalog.content import CONTENT, Content
from blocks.catalog.due import HELD_TOLD
from blocks.catalog.selection import JobFilter

MOST_JOBS = 50_000
"""Jobs of one run: memory stays bounded, and the next run takes the rest."""


@dataclass(frozen=True)
class Wanted:
    """Which objects of a job are meant: in these locations, of these kinds (None: all) or under these names.

    `codec` is the one they are stored in now, where that matters; `states` are those that may be moved.
    """

    location_ids: tuple[int, ...]
    kinds: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    codec: str | None = None
    at_least_bytes: int = 0
    states: tuple[str, ...] = ("live",)


@dataclass(frozen=True, slots=True)
class KindSum:
    """The live objects of one kind of a job in one location, bytes as stored.

    `billed_bytes` counts each object as at least the smallest that is billed, `wanted_*` those that are meant.
    """

    kind: str
    location_id: int
    objects: int
    stored_bytes: int
    billed_bytes: int
    since: datetime
    wanted_objects: int = 0
    wanted_bytes: int = 0


@dataclass(frozen=True)
class IdleJob:
    """A completed job that nobody asked for lately, with what it stores."""

    id: UUID
    customer_id: int
    customer: str
    hold: str | None
    tier: str
    completed_at: datetime
    last_accessed_at: datetime | None
    sums: tuple[KindSum, ...]

    @property
    def idle_since(self) -> datetime:
        """When it was completed or last asked for, whichever is later."""
        return max(self.completed_at, self.last_accessed_at or self.completed_at)


# The jobs first, by their index and bounded; their objects afterwards. Those on hold apart, and only to be told: they
# stay due, and would leave no room for others.
_IDLE = """
WITH idle AS MATERIALIZED (
    (SELECT id, api_key_id, hold, tier, completed_at, last_accessed_at FROM jobs
      WHERE status = 'completed' AND deleted_at IS NULL AND {which} AND hold IS NULL
        AND greatest(completed_at, last_accessed_at) <= :idle_before AND completed_at <= :completed_before
      ORDER BY greatest(completed_at, last_accessed_at) LIMIT :most)
    UNION ALL
    (SELECT id, api_key_id, hold, tier, completed_at, last_accessed_at FROM jobs
      WHERE hold IS NOT NULL AND status = 'completed' AND deleted_at IS NULL AND {which}
        AND greatest(completed_at, last_accessed_at) <= :idle_before AND completed_at <= :completed_before
      LIMIT :held)
)
SELECT j.id, j.api_key_id, k.label, j.hold, j.tier, j.completed_at, j.last_accessed_at, o.*
  FROM idle j JOIN api_keys k ON k.id = j.api_key_id
  LEFT JOIN LATERAL (
    SELECT s.kind, s.location_id, count(*) AS objects, sum(s.stored_bytes)::bigint AS stored_bytes,
           sum(greatest(s.stored_bytes, :smallest_billed))::bigint AS billed_bytes,
           max(coalesce(s.relocated_at, s.created_at)) AS since,
           count(*) FILTER (WHERE {wanted}) AS wanted_objects,
           coalesce(sum(s.stored_bytes) FILTER (WHERE {wanted}), 0)::bigint AS wanted_bytes
      FROM stored_objects s WHERE s.job_id = j.id AND s.state = 'live' GROUP BY s.kind, s.location_id) o ON true
 ORDER BY j.api_key_id, j.id
"""
_MEANT = "(:all_kinds OR s.kind = ANY (:kinds) OR s.name = ANY (:names))"
_WANTED = f"""
    s.location_id = ANY (:locations) AND s.state = ANY (:states)
    AND (s.state <> 'trashed' OR s.trashed_state = 'live')
    AND {_MEANT}
    AND (CAST(:codec AS text) IS NULL OR s.codec = :codec) AND s.stored_bytes >= :at_least
"""
_TO_TIER = text(_IDLE.format(which="tier = ANY (:tiers)", wanted="false"))
_TO_COMPRESS = text(_IDLE.format(which="compressed_at IS NULL", wanted=_WANTED))


def jobs_to_tier(
    connection: Connection,
    *,
    tiers: Sequence[str],
    idle_before: datetime,
    completed_before: datetime,
    smallest_billed: int,
    most: int = MOST_JOBS,
) -> list[IdleJob]:
    """Jobs that tier-jobs has brought no further than these tiers; by customer and id."""
    return _idle(
        connection,
        _TO_TIER,
        {
            "tiers": list(tiers),
            "idle_before": idle_before,
            "completed_before": completed_before,
            "smallest_billed": smallest_billed,
            "most": most,
            "held": HELD_TOLD,
        },
    )


def jobs_to_compress(
    connection: Connection, wanted: Wanted, *, idle_before: datetime, completed_before: datetime, most: int = MOST_JOBS
) -> list[IdleJob]:
    """Jobs that compress-jobs is not through with; by customer and id."""
    bounds = {"idle_before": idle_before, "completed_before": completed_before, "most": most, "held": HELD_TOLD}
    return _idle(connection, _TO_COMPRESS, bounds | {"smallest_billed": 0} | _parameters(wanted))


def _idle(connection: Connection, statement: TextClause, parameters: dict[str, object]) -> list[IdleJob]:
    jobs: list[IdleJob] = []
    sums: list[KindSum] = []
    last: tuple[UUID, Any] | None = None

    def close() -> None:
        if last is not None:
            columns: Any = (*last[1], tuple(sums))
            jobs.append(IdleJob(*columns))

    for row in connection.execute(statement, parameters):
        if last is None or row[0] != last[0]:
            close()
            last, sums = (row[0], tuple(row)[:7]), []
        if row[7] is not None:
            sums.append(KindSum(*row[7:]))
    close()
    return jobs


@dataclass(frozen=True, slots=True)
class MovedBefore:
    """An object that an earlier try of the same run has moved: where it was, and its bytes as stored before and now."""

    object_id: UUID
    job_id: UUID
    name: str
    old_location_id: int
    old_key: str
    before_bytes: int
    after_bytes: int


def moved_before(
    connection: Connection, job_ids: Sequence[UUID], wanted: Wanted, *, run: str, since: datetime
) -> list[MovedBefore]:
    """What this run has moved of these jobs since then; the old bytes are still there, so that the intents are too."""
    rows = connection.execute(
        text(
            "SELECT s.id, s.job_id, s.name, r.old_location_id, r.old_key, r.old_stored_bytes, s.stored_bytes "
            "  FROM relocations r JOIN stored_objects s "
            "    ON s.id = r.object_id AND s.location_id = r.location_id AND s.key = r.key "
            # The index relocations_by_job wants its predicate word for word.
            " WHERE r.job_id = ANY (CAST(:ids AS uuid[])) AND r.state <> 'done' AND r.state = 'swapped' "
            f"  AND r.run = :run AND r.created_at >= :since AND r.old_location_id = ANY (:locations) AND {_MEANT} "
            " ORDER BY s.job_id, s.id"
        ),
        {"ids": [str(one) for one in job_ids], "run": run, "since": since} | _parameters(wanted),
    )
    return [MovedBefore(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class PlacedJob:
    """A job with objects in the places that are looked at."""

    id: UUID
    customer_id: int
    customer: str
    hold: str | None
    objects: int
    stored_bytes: int


_OF_CHOSEN = """
    AND s.job_id IN (SELECT f.id FROM jobs f
                      WHERE (CAST(:customer AS bigint) IS NULL OR f.api_key_id = :customer)
                        AND (CAST(:before AS timestamptz) IS NULL OR f.created_at <= :before))
"""


def jobs_in_places(
    connection: Connection, wanted: Wanted, chosen: JobFilter, *, after: tuple[int, UUID], most: int = MOST_JOBS
) -> list[PlacedJob]:
    """Jobs with such objects, in order of customer and id, behind `after`."""
    # Few jobs of many are found by themselves, and not among everything that lies there.
    filtered = chosen.customer_id is not None or chosen.created_before is not None
    rows = connection.execute(
        text(
            "SELECT j.id, j.api_key_id, k.label, j.hold, p.objects, p.stored_bytes "
            "  FROM (SELECT s.api_key_id, s.job_id, count(*) AS objects, sum(s.stored_bytes)::bigint AS stored_bytes "
            f"         FROM stored_objects s WHERE {_WANTED} "
            "           AND (s.api_key_id, s.job_id) > (:after_key, CAST(:after_job AS uuid)) "
            "           AND (CAST(:ids AS uuid[]) IS NULL OR s.job_id = ANY (CAST(:ids AS uuid[]))) "
            f"          {_OF_CHOSEN if filtered else ''} "
            "         GROUP BY s.api_key_id, s.job_id) p "
            "  JOIN jobs j ON j.id = p.job_id JOIN api_keys k ON k.id = j.api_key_id "
            " ORDER BY j.api_key_id, j.id LIMIT :most"
        ),
        _parameters(wanted)
        | {
            "ids": None if chosen.job_ids is None else [str(one) for one in chosen.job_ids],
            "after_key": after[0],
            "after_job": str(after[1]),
            "most": most,
        }
        | ({"customer": chosen.customer_id, "before": chosen.created_before} if filtered else {}),
    )
    return [PlacedJob(*row) for row in rows]


def still_idle(connection: Connection, job_ids: Sequence[UUID], idle_before: datetime) -> list[UUID]:
    """Those of these jobs that nobody asked for since, or deleted."""
    rows = connection.execute(
        text(
            "SELECT id FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND deleted_at IS NULL "
            "   AND greatest(completed_at, last_accessed_at) <= :idle_before"
        ),
        {"ids": [str(one) for one in job_ids], "idle_before": idle_before},
    )
    return list(rows.scalars())


def objects_of(connection: Connection, job_ids: Sequence[UUID], wanted: Wanted) -> list[Content]:
    """The rows that are meant of these jobs, in order of customer, job and name."""
    rows = connection.execute(
        text(
            f"SELECT {CONTENT} FROM stored_objects s WHERE s.job_id = ANY (CAST(:ids AS uuid[])) AND {_WANTED} "
            " ORDER BY s.api_key_id, s.job_id, s.name"
        ),
        _parameters(wanted) | {"ids": [str(one) for one in job_ids]},
    )
    return [Content(*row) for row in rows]


def unmovable(connection: Connection, location_id: int) -> list[tuple[str, int]]:
    """How many rows of a place have no sound bytes that could be moved, by their state."""
    rows = connection.execute(
        text(
            # Each kind by an index of its own: what is sound is not looked at.
            "SELECT state, count(*) FROM ("
            "  SELECT state FROM stored_objects WHERE location_id = :location AND state IN ('missing', 'corrupt') "
            "  UNION ALL "
            "  SELECT state FROM stored_objects WHERE location_id = :location AND state = 'pending' "
            "  UNION ALL "
            "  SELECT state FROM stored_objects WHERE location_id = :location AND state = 'purging' "
            "  UNION ALL "
            "  SELECT trashed_state FROM stored_objects "
            "   WHERE location_id = :location AND state = 'trashed' AND trashed_state <> 'live') AS unsound "
            " GROUP BY 1 ORDER BY 1"
        ),
        {"location": location_id},
    )
    return [(row[0], row[1]) for row in rows]


def sample_keys(
    connection: Connection,
    job_ids: Sequence[UUID],
    *,
    places: Sequence[int],
    kinds: Sequence[str],
    but: Sequence[str],
    most: int,
) -> list[tuple[int, str, int]]:
    """Location, key and stored bytes of some live objects of these kinds and places, the largest of each job."""
    rows = connection.execute(
        text(
            "SELECT location_id, key, stored_bytes FROM ("
            "  SELECT DISTINCT ON (job_id) location_id, key, stored_bytes FROM stored_objects "
            "   WHERE job_id = ANY (CAST(:ids AS uuid[])) AND kind = ANY (:kinds) AND name <> ALL (:but) "
            "     AND state = 'live' AND codec = 'identity' AND location_id = ANY (:places) "
            "   ORDER BY job_id, stored_bytes DESC) largest LIMIT :most"
        ),
        {
            "ids": [str(one) for one in job_ids],
            "places": list(places),
            "kinds": list(kinds),
            "but": list(but),
            "most": most,
        },
    )
    return [(row.location_id, row.key, row.stored_bytes) for row in rows]


# What was in the trash meanwhile was not moved, nor was what a job got since.
_AS_PLANNED = """
    id = ANY (CAST(:ids AS uuid[])) AND hold IS NULL AND deleted_at IS NULL AND updated_at <= :planned_at
    AND greatest(completed_at, last_accessed_at) <= :idle_before
"""


def mark_tiered(
    connection: Connection, job_ids: Sequence[UUID], tier: str, *, idle_before: datetime, planned_at: datetime
) -> None:
    """tier-jobs is through with these jobs, as far as this tier, but for those that changed or were asked for since."""
    connection.execute(
        text(f"UPDATE jobs SET tier = :tier WHERE tier <> :tier AND {_AS_PLANNED}"),
        {"ids": [str(one) for one in job_ids], "tier": tier, "idle_before": idle_before, "planned_at": planned_at},
    )


def mark_compressed(
    connection: Connection, job_ids: Sequence[UUID], *, idle_before: datetime, planned_at: datetime
) -> None:
    """compress-jobs is through with these jobs, but for those that changed or were asked for since."""
    connection.execute(
        text(f"UPDATE jobs SET compressed_at = clock_timestamp() WHERE {_AS_PLANNED}"),
        {"ids": [str(one) for one in job_ids], "idle_before": idle_before, "planned_at": planned_at},
    )


def forget_marks(
    connection: Connection, what: Literal["tier", "compressed_at"], *, after: UUID, most: int = 10_000
) -> UUID | None:
    """Of the next jobs by id: as if the flow had never looked at them. Returns the last of them, None at the end."""
    new = {"tier": "'hot'", "compressed_at": "NULL"}[what]
    last: UUID | None = connection.execute(
        text(
            "WITH next AS MATERIALIZED (SELECT id FROM jobs WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :most), "
            f"changed AS (UPDATE jobs j SET {what} = {new} FROM next "
            f"             WHERE j.id = next.id AND j.{what} IS DISTINCT FROM {new}) "
            "SELECT id FROM next ORDER BY id DESC LIMIT 1"
        ),
        {"after": str(after), "most": most},
    ).scalar()
    return last


def start_over(connection: Connection, job_ids: Sequence[UUID], *, asked: bool) -> None:
    """These jobs have something hot or decompressed again: the nightly flows look at them anew when they are idle.

    `asked` says that somebody wants them now, and not that they were mended.
    """
    connection.execute(
        text(
            # Touched: a run that planned before this is not through with them. One under way made no progress by it.
            "UPDATE jobs SET tier = 'hot', compressed_at = NULL, "
            "       updated_at = CASE status WHEN 'completed' THEN clock_timestamp() ELSE updated_at END, "
            "       last_accessed_at = CASE WHEN :asked THEN clock_timestamp() ELSE last_accessed_at END "
            " WHERE id = ANY (CAST(:ids AS uuid[]))"
        ),
        {"ids": [str(one) for one in job_ids], "asked": asked},
    )


def _parameters(wanted: Wanted) -> dict[str, object]:
    return {
        "locations": list(wanted.location_ids),
        "all_kinds": wanted.kinds is None,
        "kinds": list(wanted.kinds or ()),
        "names": list(wanted.names),
        "codec": wanted.codec,
        "at_least": wanted.at_least_bytes,
        "states": list(wanted.states),
    }
