"""Rows of an example catalog, a day at a time: as the flows would have left them, with no bytes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class ExampleJob:
    """A video that came in; `source` is what its content is told by: equal ones have equal hashes."""

    id: str
    api_key_id: int
    filename: str
    source: str
    size_bytes: int
    at: datetime


# kind, name, share of the source's size, bytes beside that
_OUTPUTS = """(VALUES
    ('original', 'raw/video_original.mp4', 1.0, 0), ('video_360p', '360p/video_360p.mp4', 0.22, 0),
    ('video_720p', '720p/video_720p.mp4', 0.55, 0), ('audio', 'audio/audio.mp3', 0.04, 0),
    ('transcript_txt', 'transcription/transcript.txt', 0, 31000),
    ('transcript_srt', 'transcription/transcript.srt', 0, 47000),
    ('transcript_vtt', 'transcription/transcript.vtt', 0, 46000),
    ('transcript_json', 'transcription/transcript.json', 0, 260000),
    ('metadata', 'metadata.json', 0, 3800), ('hls_720p', '720p/segments/playlist.m3u8', 0, 5200),
    ('hls_720p', '720p/segments/segment_0000.ts', 0.3, 0), ('hls_720p', '720p/segments/segment_0001.ts', 0.28, 0)
    ) AS p (kind, name, share, beside)"""


def add_customer(connection: Connection, label: str, key_hash: str, quota_bytes: int | None, at: datetime) -> int:
    """A key; returns its id."""
    added: int = connection.execute(
        text(
            "INSERT INTO api_keys (label, key_hash, storage_quota_bytes, created_at) "
            "VALUES (:label, :hash, :quota, :at) RETURNING id"
        ),
        {"label": label, "hash": key_hash, "quota": quota_bytes, "at": at},
    ).scalar_one()
    return added


def add_location(connection: Connection, name: str, tier: str, storage_class: str, like: str) -> None:
    """A class of another location's bucket, for what is idle."""
    connection.execute(
        text(
            "INSERT INTO locations (name, store, bucket, prefix, storage_class, tier, capabilities, probed_at) "
            "SELECT :name, store, bucket, prefix, :class, :tier, capabilities, probed_at FROM locations "
            " WHERE name = :like ON CONFLICT (name) DO NOTHING"
        ),
        {"name": name, "tier": tier, "class": storage_class, "like": like},
    )


def add_log_months(connection: Connection, start: date, months: int) -> None:
    """Room in the log for what was done in so many months from a day on."""
    connection.execute(text("SELECT create_log_partitions(:start, :months)"), {"start": start, "months": months})


def wait_for_no_disk(connection: Connection) -> None:
    """For this transaction: an example that a crash of the server loses is made again."""
    connection.execute(text("SET LOCAL synchronous_commit = off"))


def analyze(connection: Connection) -> None:
    """Count for the planner, as autovacuum would, had the days that are played taken as long."""
    connection.execute(text("ANALYZE jobs, stored_objects, operation_log, job_totals, age_totals"))


def add_jobs(connection: Connection, jobs: Sequence[ExampleJob], *, run: str) -> None:
    """Completed jobs with all their outputs, in the hot location, and the log of it."""
    given = {
        "ids": [one.id for one in jobs], "keys": [one.api_key_id for one in jobs],
        "names": [one.filename for one in jobs], "sources": [one.source for one in jobs],
        "sizes": [one.size_bytes for one in jobs], "times": [one.at for one in jobs], "run": run,
    }  # fmt: skip
    connection.execute(
        text(
            "WITH came AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS bigint[]), CAST(:names AS text[]), "
            "    CAST(:sources AS text[]), CAST(:sizes AS bigint[]), CAST(:times AS timestamptz[])) "
            "    AS c (id, key, filename, source, size, at)), "
            "made AS (INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash, created_at, updated_at, "
            "    completed_at) SELECT id, key, 'completed', filename, repeat(md5(source), 2), at, at, "
            "    at + interval '20 minutes' FROM came), "
            "sources AS (INSERT INTO source_hits SELECT id, CAST(md5(filename) AS uuid) FROM came), "
            "stored AS (INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, "
            "    stored_bytes, sha256, state, created_at, verified_at) "
            "    SELECT CAST(md5(c.id || p.name) AS uuid), c.id, c.key, p.kind, p.name, "
            "           (SELECT min(id) FROM locations), 'processed/' || c.id || '/' || p.name, "
            "           (c.size * p.share + p.beside)::bigint, (c.size * p.share + p.beside)::bigint, "
            "           CASE p.kind WHEN 'original' THEN repeat(md5(c.source), 2) "
            f"             ELSE repeat(md5(c.source || p.name), 2) END, 'live', c.at, c.at FROM came c, {_OUTPUTS} "
            "    RETURNING id, job_id, api_key_id, kind, name, stored_bytes, created_at) "
            "INSERT INTO operation_log (at, run, operation, api_key_id, job_id, object_id, after, bytes) "
            "SELECT created_at, :run, CASE kind WHEN 'original' THEN 'ingest' ELSE 'register' END, api_key_id, "
            "       job_id, id, jsonb_build_object('name', name), stored_bytes FROM stored"
        ),
        given,
    )


def bring_again(connection: Connection, jobs: Sequence[str], at: datetime) -> None:
    """The same videos from somewhere else, which sent nothing."""
    connection.execute(
        text("INSERT INTO source_hits SELECT j, gen_random_uuid() FROM unnest(CAST(:jobs AS uuid[])) j"),
        {"jobs": list(jobs)},
    )
    read_jobs(connection, jobs, at)


def read_jobs(connection: Connection, jobs: Sequence[str], at: datetime) -> None:
    """Somebody asked for these."""
    connection.execute(
        text("UPDATE jobs SET last_accessed_at = :at WHERE id = ANY (CAST(:jobs AS uuid[])) AND deleted_at IS NULL"),
        {"jobs": list(jobs), "at": at},
    )


def trash_older(connection: Connection, customer_id: int, before: datetime, at: datetime, *, run: str) -> None:
    """A customer's old jobs go to the trash."""
    connection.execute(
        text(
            "WITH gone AS (UPDATE jobs SET deleted_at = :at, "
            "    purge_after = CAST(:at AS timestamptz) + interval '7 days' "
            "    WHERE api_key_id = :key AND created_at < :before AND deleted_at IS NULL RETURNING id), "
            "moved AS (UPDATE stored_objects o SET state = 'trashed', trashed_state = 'live' FROM gone g "
            "    WHERE o.job_id = g.id AND o.state = 'live' RETURNING o.*) "
            "INSERT INTO operation_log (at, run, operation, rule, api_key_id, job_id, object_id, bytes) "
            "SELECT :at, :run, 'trash', 'delete-jobs', api_key_id, job_id, id, stored_bytes FROM moved"
        ),
        {"key": customer_id, "before": before, "at": at, "run": run},
    )


def purge_trash(connection: Connection, at: datetime, *, run: str) -> None:
    """What is past its date in the trash goes for good."""
    connection.execute(
        text(
            "WITH due AS (UPDATE jobs SET status = 'cleaned_up' WHERE purge_after <= :at AND deleted_at IS NOT NULL "
            "    AND status <> 'cleaned_up' RETURNING id), "
            "gone AS (DELETE FROM stored_objects o USING due d WHERE o.job_id = d.id RETURNING o.*) "
            "INSERT INTO operation_log (at, run, operation, rule, api_key_id, job_id, object_id, bytes) "
            "SELECT :at, :run, o.operation, o.rule, api_key_id, job_id, id, stored_bytes "
            "  FROM gone, (VALUES ('release', 'trash_days'), ('purge', '')) AS o (operation, rule)"
        ),
        {"at": at, "run": run},
    )


def compress_texts(connection: Connection, completed_before: datetime, at: datetime, *, run: str) -> None:
    """Texts of old jobs, at about a fifth of their size."""
    connection.execute(
        text(
            "WITH due AS (UPDATE jobs SET compressed_at = :at WHERE status = 'completed' AND deleted_at IS NULL "
            "    AND compressed_at IS NULL AND greatest(completed_at, last_accessed_at) <= :before RETURNING id), "
            "done AS (UPDATE stored_objects o SET codec = 'zstd', stored_bytes = greatest(1, o.size_bytes / 5), "
            "    generation = nextval('generations') FROM due d WHERE o.job_id = d.id AND o.state = 'live' "
            "    AND (o.kind LIKE 'transcript%' OR o.kind = 'metadata' OR o.name LIKE '%.m3u8') RETURNING o.*) "
            "INSERT INTO operation_log (at, run, operation, rule, api_key_id, job_id, object_id, bytes) "
            "SELECT :at, :run, 'compress-jobs', 'after_days', api_key_id, job_id, id, stored_bytes FROM done"
        ),
        {"before": completed_before, "at": at, "run": run},
    )


def move_idle(
    connection: Connection, tier: str, colder_than: Sequence[str], idle_before: datetime, at: datetime, *, run: str
) -> None:
    """What is large of idle jobs, to the location of a colder tier."""
    connection.execute(
        text(
            "WITH due AS (UPDATE jobs SET tier = :tier WHERE status = 'completed' AND deleted_at IS NULL "
            "    AND tier = ANY (:from) AND greatest(completed_at, last_accessed_at) <= :before RETURNING id), "
            "done AS (UPDATE stored_objects o SET location_id = (SELECT id FROM locations WHERE tier = :tier), "
            "    generation = nextval('generations'), relocated_at = :at FROM due d WHERE o.job_id = d.id "
            "    AND o.state = 'live' AND o.stored_bytes > 1000000 RETURNING o.*) "
            "INSERT INTO operation_log (at, run, operation, rule, api_key_id, job_id, object_id, bytes) "
            "SELECT :at, :run, 'tier-jobs', :rule, api_key_id, job_id, id, stored_bytes FROM done"
        ),
        {"tier": tier, "from": list(colder_than), "before": idle_before, "at": at, "run": run,
         "rule": f"{tier}_after_days"},
    )  # fmt: skip


def note_check(connection: Connection, what: str, backup: str, at: datetime, *, ok: bool, seconds: float, size: int,
               because: str = "") -> None:  # fmt: skip
    """A backup or a drill, and how it went."""
    connection.execute(
        text(
            "INSERT INTO backup_checks (at, what, backup, ok, seconds, bytes, because) "
            "VALUES (:at, :what, :backup, :ok, :seconds, :size, :because)"
        ),
        {"at": at, "what": what, "backup": backup, "ok": ok, "seconds": seconds, "size": size, "because": because},
    )


def note_finding(
    connection: Connection, operation: str, finding: str, at: datetime, *, objects: int, size: int = 0,
    oldest_at: datetime | None = None,
) -> None:  # fmt: skip
    """What a run found in the hot location."""
    connection.execute(
        text(
            "INSERT INTO findings (at, run, operation, location, finding, objects, size_bytes, oldest_at) "
            "SELECT :at, 'example', :operation, (SELECT name FROM locations ORDER BY id LIMIT 1), :finding, :objects, "
            "       :size, :oldest"
        ),
        {"at": at, "operation": operation, "finding": finding, "objects": objects, "size": size, "oldest": oldest_at},
    )
