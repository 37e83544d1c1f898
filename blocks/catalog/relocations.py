"""Intents: a second writing of an object, committed before its bytes, swapped in under a generation check.

`open` → `swapped` → `done`, or `open` → `failed` → `done`. An open intent names bytes that are being written, a swapped
one the old bytes, which stay until the last URL for them has ended; `failed` is given up, its bytes may be there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from blocks.catalog.customers import lock_customer
from blocks.catalog.locations import IN_USE

SWEEPS = ("compress-jobs", "tier-jobs", "migrate-storage")
"""Operations whose runs hold the lock of every location that they write to."""
MOST = 200_000
"""Intents that one run finishes: memory stays bounded, and the next run takes the rest."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be written, for the row that was read with this generation."""

    id: UUID
    object_id: UUID
    generation: int
    location_id: int
    key: str
    codec: str = "identity"


@dataclass(frozen=True, slots=True)
class Proved:
    """The bytes under an intent's key are there, and decode to the object's content."""

    intent_id: UUID
    etag: str | None
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Movable:
    """Which rows may be swapped: those in these states, and those of jobs on hold only if their bytes are lost."""

    states: tuple[str, ...] = ("live",)
    even_on_hold: bool = False


LIVE = Movable()
LIVE_OR_TRASHED = Movable(("live", "trashed"))
UNSOUND = Movable(("missing", "corrupt"), even_on_hold=True)
LIVE_OR_LOST = Movable(("live", "missing", "corrupt"), even_on_hold=True)
"""What a backup brings back: a row may still say that bytes are there which are not."""


_MAY_MOVE = """
   o.state = ANY (:states) AND (o.state <> 'trashed' OR o.trashed_state = 'live')
   AND (:even_on_hold OR j.hold IS NULL)
"""


def open_intents(
    connection: Connection, intents: Sequence[Intent], *, movable: Movable, operation: str, rule: str, run: str
) -> set[UUID]:
    """Name the keys that are about to be written; returns the intents whose rows are still what was read."""
    if not intents:
        return set()
    rows = connection.execute(
        text(
            f"WITH places AS MATERIALIZED ({IN_USE}) "
            "INSERT INTO relocations "
            "  (id, object_id, generation, operation, rule, run, location_id, key, codec, job_id, api_key_id) "
            "SELECT w.id, o.id, o.generation, :operation, :rule, :run, w.location_id, w.key, w.codec, o.job_id, "
            "       o.api_key_id "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:objects AS uuid[]), CAST(:generations AS bigint[]), "
            "              CAST(:locations AS bigint[]), CAST(:keys AS text[]), CAST(:codecs AS text[])) "
            "    AS w (id, object_id, generation, location_id, key, codec) "
            "  JOIN stored_objects o ON o.id = w.object_id AND o.generation = w.generation "
            f" JOIN jobs j ON j.id = o.job_id JOIN places p ON p.id = w.location_id WHERE {_MAY_MOVE} RETURNING id"
        ),
        {
            "operation": operation,
            "rule": rule,
            "run": run,
            "states": list(movable.states),
            "even_on_hold": movable.even_on_hold,
            "ids": [str(one.id) for one in intents],
            "objects": [str(one.object_id) for one in intents],
            "generations": [one.generation for one in intents],
            "locations": [one.location_id for one in intents],
            "keys": [one.key for one in intents],
            "codecs": [one.codec for one in intents],
        },
    )
    return set(rows.scalars())


# One statement: what is locked, what is changed and what is written down are the same rows. Both versions of a row that
# somebody touched while the lock was waited for are judged anew, so that its URL's end is the one that was committed.
_SWAP = text(
    f"""
WITH wanted AS (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:etags AS text[]), CAST(:sizes AS bigint[]))
        AS w (id, etag, stored_bytes)
), locked AS MATERIALIZED (
    SELECT r.id AS intent_id, r.operation, r.rule, r.run, r.location_id, r.key, r.codec, w.etag, w.stored_bytes,
           o.id, o.job_id, o.state AS old_state, o.location_id AS old_location_id, o.key AS old_key,
           o.codec AS old_codec, o.stored_bytes AS old_stored_bytes,
           greatest(o.url_expires_at, u.until, clock_timestamp()) + :keep AS release_after
      FROM wanted w JOIN relocations r ON r.id = w.id
      JOIN stored_objects o ON o.id = r.object_id JOIN jobs j ON j.id = o.job_id
      LEFT JOIN unnest(CAST(:streams AS uuid[]), CAST(:kinds AS text[]), CAST(:untils AS timestamptz[]))
        AS u (job_id, kind, until) ON u.job_id = o.job_id AND u.kind = o.kind
     WHERE r.state = 'open' AND o.generation = r.generation AND o.api_key_id = :customer AND {_MAY_MOVE}
     ORDER BY o.id FOR NO KEY UPDATE OF r, o
), moved AS (
    UPDATE stored_objects o
       SET location_id = l.location_id, key = l.key, codec = l.codec, stored_bytes = l.stored_bytes, etag = l.etag,
           state = CASE o.state WHEN 'trashed' THEN o.state ELSE 'live' END, generation = nextval('generations'),
           verified_at = clock_timestamp(), relocated_at = clock_timestamp()
      FROM locked l WHERE o.id = l.id
), swapped AS (
    -- An intent that cleanup gave up has no bytes any more, whoever wakes up late: it is not open.
    UPDATE relocations r
       SET state = 'swapped', old_location_id = l.old_location_id, old_key = l.old_key,
           old_stored_bytes = l.old_stored_bytes, release_after = l.release_after
      FROM locked l WHERE r.id = l.intent_id
), logged AS (
    INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes)
    SELECT l.run, l.operation, l.rule, :customer, l.job_id, l.id,
           jsonb_build_object('state', l.old_state, 'location', b.name, 'key', l.old_key, 'codec', l.old_codec,
               'stored_bytes', l.old_stored_bytes),
           jsonb_build_object('state', CASE l.old_state WHEN 'trashed' THEN 'trashed' ELSE 'live' END,
               'location', a.name, 'key', l.key, 'codec', l.codec, 'stored_bytes', l.stored_bytes), l.stored_bytes
      FROM locked l JOIN locations b ON b.id = l.old_location_id JOIN locations a ON a.id = l.location_id
)
-- What is locked is moved: nobody else could change it since.
SELECT intent_id FROM locked
"""
)


def swap(
    connection: Connection,
    customer_id: int,
    proved: Sequence[Proved],
    *,
    movable: Movable,
    keep: timedelta,
    playlists: Collection[tuple[UUID, str, str]] = (),
) -> set[UUID]:
    """Point one customer's rows at their new bytes; returns the intents whose rows were still the ones that were read.

    The old bytes stay for `keep` after the last URL for them. `playlists` are job, kind and playlist's name of every
    stream among the rows: the URLs of its segments are noted on the playlist's row. Nobody's counter moves.
    """
    if not proved:
        return set()
    lock_customer(connection, customer_id)
    # Locked first, so that what the next statement is told is final: nobody makes a URL for a segment meanwhile.
    streams = _lock_playlists(connection, playlists) if playlists else []
    rows = connection.execute(
        _SWAP,
        {
            "customer": customer_id,
            "ids": [str(one.intent_id) for one in proved],
            "etags": [one.etag for one in proved],
            "sizes": [one.stored_bytes for one in proved],
            "states": list(movable.states),
            "even_on_hold": movable.even_on_hold,
            "keep": keep,
            "streams": [str(row.job_id) for row in streams],
            "kinds": [row.kind for row in streams],
            "untils": [row.url_expires_at for row in streams],
        },
    )
    return set(rows.scalars())


def _lock_playlists(connection: Connection, playlists: Collection[tuple[UUID, str, str]]) -> Sequence[Row[Any]]:
    return connection.execute(
        text(
            "SELECT p.job_id, p.kind, p.url_expires_at "
            "  FROM unnest(CAST(:jobs AS uuid[]), CAST(:names AS text[])) AS w (job_id, name) "
            "  JOIN stored_objects p ON p.job_id = w.job_id AND p.name = w.name AND p.state <> 'purging' "
            " ORDER BY p.id FOR NO KEY UPDATE OF p"
        ),
        {"jobs": [str(job_id) for job_id, _, _ in playlists], "names": [name for _, _, name in playlists]},
    ).all()


def give_up_intents(connection: Connection, intent_ids: Sequence[UUID]) -> set[UUID]:
    """Give up intents that were not swapped; returns those whose bytes are surely nobody's.

    Somebody else may have done so before: a cleanup, or an erasure of the job while its bytes were on their way.
    """
    wanted = {"ids": [str(one) for one in intent_ids]}
    connection.execute(
        text("UPDATE relocations SET state = 'failed' WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'open'"), wanted
    )
    rows = connection.execute(
        text(
            "SELECT r.id FROM relocations r WHERE r.id = ANY (CAST(:ids AS uuid[])) AND r.state IN ('failed', 'done') "
            "   AND NOT EXISTS (SELECT 1 FROM stored_objects o WHERE o.location_id = r.location_id AND o.key = r.key)"
        ),
        wanted,
    )
    return set(rows.scalars())


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An intent that somebody has to finish: the bytes under `location_id` and `key` may go."""

    id: UUID
    state: str
    location_id: int
    key: str
    stored_bytes: int = 0


def find_unfinished(
    connection: Connection,
    *,
    now: datetime,
    abandoned_before: datetime | None,
    location_ids: Sequence[int] | None = None,
    of_sweeps: bool = False,
) -> list[Unfinished]:
    """Intents nobody works on any more, and old bytes whose last URL has ended, in these places or in all.

    With `of_sweeps` the caller holds the locks of the places: whoever began a sweep's intent there is gone.
    """
    rows = connection.execute(
        text(
            "SELECT id, state, old_location_id AS place, old_key AS at, coalesce(old_stored_bytes, 0) FROM relocations "
            " WHERE state = 'swapped' AND release_after <= :now AND (:anywhere OR old_location_id = ANY (:places)) "
            # The bytes that a backup's snapshot points at stay until it has copied them.
            "   AND NOT ((SELECT backup_is_running()) AND EXISTS (SELECT 1 FROM stored_objects o "
            "            WHERE o.id = relocations.object_id AND o.kind = 'metadata')) "
            "UNION ALL "
            "SELECT id, state, location_id, key, 0 FROM relocations "
            " WHERE state IN ('open', 'failed') AND (:anywhere OR location_id = ANY (:places)) "
            "   AND (state = 'failed' OR created_at <= CAST(:before AS timestamptz) "
            "        OR (:of_sweeps AND operation = ANY (:sweeps))) "
            f"LIMIT {MOST}"
        ),
        {
            "now": now,
            "before": abandoned_before,
            "anywhere": location_ids is None,
            "places": list(location_ids or ()),
            "of_sweeps": of_sweeps,
            "sweeps": list(SWEEPS),
        },
    )
    return [Unfinished(*row) for row in rows]


def claim_unfinished(connection: Connection, intents: Sequence[Unfinished]) -> set[UUID]:
    """Make sure that the bytes these intents are about are nobody's; others were swapped or finished meanwhile."""
    # An open one is given up first: from here on its writer cannot swap it in.
    rows = connection.execute(
        text(
            "UPDATE relocations r SET state = CASE r.state WHEN 'open' THEN 'failed' ELSE r.state END "
            "  FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[])) AS w (id, state) "
            # What was failed or is failed now: the same bytes are meant.
            " WHERE r.id = w.id AND (r.state = w.state OR (w.state = 'open' AND r.state = 'failed')) RETURNING r.id"
        ),
        {"ids": [str(one.id) for one in intents], "states": [one.state for one in intents]},
    )
    return set(rows.scalars())


def finish_intents(connection: Connection, intents: Sequence[Unfinished], *, run: str) -> None:
    """The bytes are gone: nothing is left to do."""
    connection.execute(
        text(
            "WITH gone AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[]), "
            "                 CAST(:keys AS text[]), CAST(:sizes AS bigint[])) AS g (id, state, key, size)), "
            "done AS (UPDATE relocations r SET state = 'done' FROM gone WHERE r.id = gone.id AND r.state <> 'done' "
            "         RETURNING r.id, r.object_id, r.job_id, r.api_key_id) "
            "INSERT INTO operation_log (run, operation, rule, object_id, job_id, api_key_id, before, bytes) "
            "SELECT :run, 'remove-old-bytes', CASE g.state WHEN 'swapped' THEN 'relocated' ELSE 'given_up' END, "
            "       d.object_id, d.job_id, d.api_key_id, jsonb_build_object('key', g.key), g.size "
            "  FROM done d JOIN gone g ON g.id = d.id"
        ),
        {
            "run": run,
            "ids": [str(one.id) for one in intents],
            "states": [one.state for one in intents],
            "keys": [one.key for one in intents],
            "sizes": [one.stored_bytes for one in intents],
        },
    )


def forget_done(connection: Connection, before: datetime) -> int:
    """Drop intents that were done before a time; the log remembers them. Returns how many."""
    return connection.execute(
        text("DELETE FROM relocations WHERE state = 'done' AND created_at <= :before"), {"before": before}
    ).rowcount
