"""A platform that has grown: other customers' jobs and objects, as many as are wanted, none of them due for anything.

They lie in locations of their own, which hold nothing in any store. Customers and locations have numbers from `OTHERS`
on, so that a small world fits in beside them and can be told apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from tests.benchmarks.stocking import settle

OTHERS = 1001
"""The first customer, and the location that nearly everything lies in. What a world makes has smaller numbers."""
BIG_PLACE, COLD_PLACE = "crowded", "crowded-cold"
LOG_MONTHS = 16
LARGE = 500
"""Rows from which on a table counts as one that grows."""


@dataclass(frozen=True)
class Size:
    """How large; objects a job has are its original, five outputs, and segments."""

    jobs: int
    objects_a_job: int
    customers: int

    @property
    def objects(self) -> int:
        """About so many rows: a few jobs failed, or are through with everything."""
        return self.jobs * self.objects_a_job


# In the order of time, as rows come in. The first customers have most: n^3 of a random number. Jobs are completed, but
# for 4 in 100 that are cleaned up, 2 in 1000 in the trash (the first customer's), and some forty at work and forty that
# failed lately, however many there are. What was completed is compressed and, if old, cold.
_CUSTOMERS = """
INSERT INTO api_keys (id, label, key_hash, storage_quota_bytes) OVERRIDING SYSTEM VALUE
SELECT :others + n, 'crowd-' || n, repeat(md5('key ' || n), 2), CASE n % 3 WHEN 0 THEN 1::bigint << 50 END
  FROM generate_series(0, :customers - 1) n
"""
_PLACES = """
INSERT INTO locations (id, name, store, bucket, prefix, tier) OVERRIDING SYSTEM VALUE
VALUES (:others, :big, :big, 'elsewhere', '', 'hot'), (:others + 1, :cold, :cold, 'elsewhere', 'cold', 'cold')
"""
_JOBS = """
INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash, reprocess, hold, created_at, updated_at,
                  completed_at, last_accessed_at, deleted_at, purge_after, tier, compressed_at)
SELECT id, api_key_id, status, 'film ' || n || '.mp4', repeat(md5('source ' || n - (n % 50 = 10)::int), 2), n % 50 = 10,
       CASE WHEN n % 1000 = 7 THEN 'a court asked for it' END, created_at,
       CASE WHEN status IN ('completed', 'cleaned_up') THEN created_at + interval '1 hour'
            ELSE clock_timestamp() - interval '1 hour' END,
       CASE WHEN status = 'completed' THEN created_at + interval '1 hour' END,
       CASE WHEN n % 3 = 0 THEN created_at + random() * (clock_timestamp() - created_at) END,
       CASE WHEN n % 500 = 3 AND status = 'completed' THEN clock_timestamp() - interval '1 day' END,
       CASE WHEN n % 500 = 3 AND status = 'completed' THEN clock_timestamp() + interval '6 days' END,
       CASE WHEN created_at < clock_timestamp() - interval '180 days' THEN 'cold' ELSE 'hot' END,
       CASE WHEN status = 'completed' THEN created_at + interval '2 hours' END
  FROM (SELECT n, gen_random_uuid() AS id, CASE WHEN n % 500 = 3 THEN :others
                    ELSE :others + floor(:customers * power(random(), 3))::bigint END AS api_key_id,
               clock_timestamp() - interval '700 days' * (1 - n::float / :jobs) - interval '2 days' AS created_at,
               CASE WHEN n % (:jobs / 40) = 0
                    THEN (ARRAY['uploading', 'queued', 'processing', 'transcoding'])[1 + n / (:jobs / 40) % 4]
                    WHEN n % (:jobs / 40) = 1 THEN 'failed' WHEN n % 100 IN (1, 2, 4, 5) THEN 'cleaned_up'
                    ELSE 'completed' END AS status
          FROM generate_series(1, :jobs) n) made ORDER BY n
"""
_OBJECTS = """
INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, sha256,
                            codec, etag, state, trashed_state, url_expires_at, created_at, verified_at)
SELECT gen_random_uuid(), j.id, j.api_key_id, f.kind, f.name,
       CASE WHEN j.tier = 'cold' AND f.kind <> 'metadata' THEN :others + 1 ELSE :others END,
       'processed/' || j.id || '/' || f.name, 1000 + f.n, 1000 + f.n,
       CASE WHEN f.n = 1 THEN j.source_file_hash ELSE repeat(md5(j.id || f.name), 2) END,
       CASE WHEN f.kind IN ('metadata', 'transcript_txt') THEN 'zstd' ELSE 'identity' END, md5(j.id || f.name),
       CASE WHEN j.status = 'uploading' THEN 'pending' WHEN j.status = 'cleaned_up' THEN 'purging'
            WHEN j.deleted_at IS NOT NULL THEN 'trashed' ELSE f.state END,
       CASE WHEN j.deleted_at IS NOT NULL THEN f.state END,
       j.last_accessed_at, j.updated_at, j.updated_at + (clock_timestamp() - j.updated_at) * random()
  FROM jobs j CROSS JOIN LATERAL (
    SELECT n, CASE n WHEN 1 THEN 'original' WHEN 2 THEN 'video_720p' WHEN 3 THEN 'audio' WHEN 4 THEN 'transcript_txt'
                     WHEN 5 THEN 'metadata' ELSE 'hls_720p' END AS kind,
           CASE n WHEN 1 THEN 'raw/video_original.mp4' WHEN 2 THEN '720p/video_720p.mp4' WHEN 3 THEN 'audio/audio.mp3'
                  WHEN 4 THEN 'transcription/transcript.txt' WHEN 5 THEN 'metadata.json'
                  WHEN 6 THEN '720p/segments/playlist.m3u8'
                  ELSE '720p/segments/segment_' || lpad(n::text, 4, '0') || '.ts' END AS name,
           CASE WHEN random() < 2.0 / :jobs THEN 'missing' WHEN random() < 2.0 / :jobs THEN 'corrupt' ELSE 'live'
                END AS state
      FROM generate_series(1, CASE WHEN j.status = 'completed' THEN :each ELSE 1 END) n) f
 WHERE j.status <> 'cleaned_up' OR hashtext(j.id::text) % (:jobs / 1000) = 0
"""
_REST = (
    "INSERT INTO reservations (id, api_key_id, job_id, bytes, expires_at) "
    "SELECT id, api_key_id, id, 1000, clock_timestamp() + interval '2 days' FROM jobs "
    " WHERE status IN ('uploading', 'queued', 'processing', 'transcoding')",
    "INSERT INTO uploads (id, api_key_id, location_id, key, filename, size_bytes, status, result_job_id, created_at, "
    "                     expires_at) "
    "SELECT gen_random_uuid(), api_key_id, :others, 'temp/' || id || '/blob', filename, 1001, "
    "       CASE WHEN status = 'uploading' THEN 'open' ELSE 'completed' END, id, created_at, "
    "       CASE WHEN status = 'uploading' THEN clock_timestamp() + interval '2 days' ELSE created_at END "
    "  FROM jobs WHERE hashtext(id::text) % 5 = 0 OR status = 'uploading'",
    # What was moved within the last month: done, but for what URLs still point at.
    "INSERT INTO relocations (id, object_id, generation, operation, location_id, key, state, old_location_id, old_key, "
    "                         release_after, created_at, job_id, api_key_id) "
    "SELECT gen_random_uuid(), id, 1, 'tier-jobs', location_id, key, "
    "       CASE WHEN hashtext(id::text) % 400 = 0 THEN 'swapped' ELSE 'done' END, :others, key || '.old', "
    "       clock_timestamp() + interval '2 days', clock_timestamp() - random() * interval '29 days', job_id, "
    "       api_key_id "
    "  FROM stored_objects WHERE hashtext(id::text) % 20 = 0",
    "INSERT INTO operation_log (at, run, operation, rule, api_key_id, job_id, object_id, after, bytes) "
    "SELECT created_at, 'run ' || date_trunc('hour', created_at), CASE kind WHEN 'original' THEN 'ingest' "
    "       WHEN 'audio' THEN 'bulk-download' ELSE 'register' END, '', api_key_id, job_id, "
    # Some lines are about a job, and not about one of its objects.
    "       CASE WHEN kind <> 'audio' THEN id END, jsonb_build_object('state', 'live', 'key', key), stored_bytes "
    "  FROM stored_objects WHERE created_at > date_trunc('month', now() - interval '12 months') ORDER BY created_at",
    "INSERT INTO job_sources SELECT id, md5(id::text)::uuid FROM jobs",
    "INSERT INTO job_duplicates SELECT id, 1 FROM jobs WHERE hashtext(id::text) % 50 = 0",
    "INSERT INTO source_hits SELECT id, gen_random_uuid() FROM jobs WHERE hashtext(id::text) % 100 = 0",
    "INSERT INTO analytics.snapshots (day, taken_at, run, time_zone, catalog_id) "
    "SELECT current_date - 1, now() - interval '1 day', '', 'UTC', catalog_id FROM catalog_identity",
    # Lists of each customer, as many as there are jobs in all.
    "INSERT INTO analytics.notable_jobs (day, list, api_key_id, rank, customer, job_id, filename, tier, objects, "
    "                                    size_bytes, stored_bytes, created_at) "
    "SELECT current_date - 1 - n::int % 30, 'largest', api_key_id, n, 'crowd', id, filename, tier, 1, 1, 1, created_at "
    "  FROM (SELECT *, row_number() OVER (PARTITION BY api_key_id) AS n FROM jobs) j",
    "UPDATE api_keys k SET storage_used_bytes = o.used, storage_reserved_bytes = coalesce(r.bytes, 0) "
    "  FROM (SELECT api_key_id, sum(size_bytes) FILTER (WHERE state IN ('live', 'missing', 'corrupt')) AS used "
    "          FROM stored_objects GROUP BY 1) o LEFT JOIN (SELECT api_key_id, sum(bytes) AS bytes FROM reservations "
    "         GROUP BY 1) r ON r.api_key_id = o.api_key_id WHERE k.id = o.api_key_id AND o.used IS NOT NULL",
)


def settle_in(catalog: CatalogDatabase, size: Size, *, times: int = 1) -> float:
    """Fill an empty catalog; returns the seconds it took. The planner is told of `times` as many rows as there are."""
    started = time.perf_counter()
    given = {
        "others": OTHERS, "customers": size.customers, "jobs": size.jobs, "each": size.objects_a_job,
        "big": BIG_PLACE, "cold": COLD_PLACE,
    }  # fmt: skip

    def fill(connection: Connection) -> None:
        connection.execute(text("SELECT setseed(0.5)"))
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
        connection.execute(
            text("SELECT create_log_partitions((current_date - interval '13 months')::date, :months)"),
            {"months": LOG_MONTHS},
        )
        # Neither foreign keys nor the counters' triggers, which take most of the time.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        with _without_indexes(connection):
            for statement in (_CUSTOMERS, _PLACES, _JOBS, _OBJECTS, *_REST):
                used = {name: value for name, value in given.items() if f":{name}" in statement}
                connection.execute(text(statement), used)
        connection.execute(text("SELECT recount_storage()"))
        # What a world makes by itself is told apart from the crowd, and from what it brings along.
        for table in ("api_keys", "locations", "findings", "backup_checks"):
            connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN id RESTART WITH {OTHERS // 2}")

    catalog.transaction(fill)
    settle(catalog)
    if times > 1:
        catalog.transaction(lambda connection: _pretend(connection, times))
    return time.perf_counter() - started


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """Indexes of the two largest tables are made afterwards, in one pass each; what holds a constraint stays."""
    indexes = connection.execute(
        text(
            "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            " WHERE i.indrelid IN ('jobs'::regclass, 'stored_objects'::regclass) "
            "   AND NOT EXISTS (SELECT 1 FROM pg_constraint p WHERE p.conindid = i.indexrelid)"
        )
    ).all()
    for name, _ in indexes:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    yield
    for _, made in indexes:
        connection.exec_driver_sql(made.replace("%", "%%"))
    connection.exec_driver_sql("ANALYZE jobs, stored_objects")


def _pretend(connection: Connection, times: int) -> None:
    """Rows a page are a statistic, and the planner multiplies the pages by it: with more of them it plans for more."""
    crowded = (
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f" WHERE n.nspname IN ('public', 'analytics') AND c.relkind = 'r' AND c.reltuples >= {LARGE}"
    )
    for (table,) in connection.exec_driver_sql(f"SELECT CAST(oid AS regclass) FROM ({crowded}) c").all():
        connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    connection.exec_driver_sql(
        f"UPDATE pg_class SET reltuples = reltuples * {times} WHERE oid IN ({crowded}) "
        f"    OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN ({crowded}))"
    )
