"""Catalogs and stores of a size, filled fast: real objects with their rows and a known drift, or rows alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from blocks.catalog import CatalogDatabase, drift
from blocks.object_store.transfer import put_bytes
from blocks.policies import IntegrityPolicy
from tasks.drift.judge import plan_repairs, put_together
from tasks.drift.reconcile import look_through, plan_ranges
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import Bench, say, timed

A_JOB = 20
"""Objects a job has."""
CONTENT = b"sixteen bytes it"
MISSING, ORPHANS, MISMATCHED = 10, 10, 5
DUE_EACH = 2
NO_GRACE = timedelta(seconds=-5)
"""Whatever was written up to now is past it: SeaweedFS dates objects itself."""


@dataclass(frozen=True)
class Stocked:
    """A catalog with real objects; `known` are all disagreements of the two, as what it is and its key."""

    catalog: CatalogDatabase
    location: OpenLocation
    known: frozenset[tuple[str, str]]

    def reconcile(self) -> float:
        """Seconds of finding and planning with our own functions, side by side as the flow does; checked after it."""
        policy = IntegrityPolicy()
        plans = []

        def work() -> None:
            parts = in_parallel(
                lambda part: look_through(self.catalog, self.location, policy, part, grace=NO_GRACE),
                plan_ranges(self.catalog, self.location, policy),
                threads=policy.parallel_listings,
            )
            (found,) = put_together(self.catalog, [(self.location, parts)])
            plans.append((found, plan_repairs([found], self.catalog.transaction(drift.labels))))

        took = timed(work)
        ((found, plan),) = plans
        seen = [(one.what, one.key) for one in found.findings]
        if len(seen) != len(self.known) or set(seen) != self.known or found.counters:
            raise RuntimeError(f"{len(seen)} findings and {found.counters}, {len(self.known)} were expected")
        if len(plan.items) != len(self.known) or plan.objects != ORPHANS + MISSING:
            raise RuntimeError(plan.summary())
        return took


def stock(bench: Bench, name: str, objects: int) -> Stocked:
    """Really write so many objects, and fill a catalog with their rows; both sides have what the other has not."""
    catalog = bench.catalog(name)
    location = bench.location(catalog)
    say(f"writing {objects:,} objects")
    known = known_drift(objects, name)
    missing = {key for what, key in known if what == "missing"}
    orphans = [key for what, key in known if what == "orphan"]
    jobs = new_jobs(name, objects // A_JOB)
    took = timed(lambda: put_all(location, [*(key for key in keys_of(jobs) if key not in missing), *orphans]))
    say(f"{objects / took:,.0f} objects/s")
    etag = put_bytes(location.store, "probe/etag", CONTENT, {}).etag
    add_customers(catalog)
    fill_rows(catalog, location, jobs, etag=etag)
    mismatched = [key for what, key in known if what == "mismatch"]
    catalog.transaction(
        lambda c: c.execute(
            text("UPDATE stored_objects SET stored_bytes = stored_bytes + 1 WHERE key = ANY (:keys)"),
            {"keys": mismatched},
        )
    )
    settle(catalog)
    return Stocked(catalog, location, known)


def known_drift(objects: int, seed: str) -> frozenset[tuple[str, str]]:
    """Which objects of a stock are not written, are written differently, or are nobody's; the same in every process."""
    keys = keys_of(new_jobs(seed, objects // A_JOB))
    chosen = random.Random(seed).sample(keys, MISSING + MISMATCHED + ORPHANS)
    return frozenset(
        [("missing", key) for key in chosen[:MISSING]]
        + [("mismatch", key) for key in chosen[MISSING : MISSING + MISMATCHED]]
        + [("orphan", key + ".orphan") for key in chosen[MISSING + MISMATCHED :]]
    )


def new_jobs(seed: int | str, number: int) -> list[UUID]:
    """Ids at random, as the platform's are; the same for the same seed."""
    chance = random.Random(f"jobs {seed}")
    return [UUID(int=chance.getrandbits(128), version=4) for _ in range(number)]


def keys_of(jobs: Sequence[UUID]) -> list[str]:
    """Where the jobs' segments lie."""
    return [f"processed/{job}/720p/segments/{number:04d}.ts" for job in jobs for number in range(A_JOB)]


def put_all(location: OpenLocation, keys: Iterable[str]) -> None:
    """Write small objects, many at a time."""
    in_parallel(lambda key: put_bytes(location.store, key, CONTENT, {}), list(keys), threads=32)


def add_customers(catalog: CatalogDatabase) -> None:
    """Ten customers."""
    fill(
        catalog,
        "INSERT INTO api_keys (label, key_hash) "
        "SELECT 'crowd-' || n, lpad(to_hex(n), 64, '0') FROM generate_series(1, 10) n",
    )


def fill_rows(
    catalog: CatalogDatabase,
    location: OpenLocation,
    jobs: Sequence[UUID],
    *,
    job_status: str = "completed",
    state: str = "live",
    etag: str | None = None,
) -> None:
    """The rows of these jobs and of their segments."""
    fill(
        catalog,
        "INSERT INTO jobs (id, api_key_id, status, filename) "
        "SELECT id, 1 + n % 10, :status, 'film.mp4' FROM unnest(CAST(:jobs AS uuid[])) WITH ORDINALITY j (id, n)",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, etag, state) "
        "SELECT gen_random_uuid(), j.id, j.api_key_id, 'hls_720p', p.name, :location, 'processed/' || j.id || '/' "
        "  || p.name, :size, :size, repeat(md5(j.id || p.name), 2), :etag, :state "
        "  FROM jobs j, (SELECT '720p/segments/' || lpad(n::text, 4, '0') || '.ts' AS name "
        "                  FROM generate_series(0, :last) n) p WHERE j.id = ANY (CAST(:jobs AS uuid[]))",
        jobs=[str(job) for job in jobs], status=job_status, state=state, etag=etag, location=location.place.id,
        size=len(CONTENT), last=A_JOB - 1,
    )  # fmt: skip


def grown(bench: Bench, name: str, objects: int) -> CatalogDatabase:
    """A catalog of so many rows, none of which is due: jobs that are kept, in the trash, failed lately, or at work."""
    say(f"filling a catalog with {objects:,} objects")
    catalog = bench.catalog(name)
    location = bench.location(catalog)
    add_customers(catalog)
    fill(
        catalog,
        # Neither foreign keys nor the counters' triggers, which take most of the time of a million rows.
        "SET LOCAL session_replication_role = replica",
        "INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash, deleted_at, purge_after) "
        "SELECT gen_random_uuid(), 1 + n % 10, CASE n % 20 WHEN 1 THEN 'failed' WHEN 2 THEN 'processing' "
        "  ELSE 'completed' END, 'film.mp4', lpad(to_hex(n), 64, '0'), "
        "  CASE n % 20 WHEN 3 THEN clock_timestamp() END, "
        "  CASE n % 20 WHEN 3 THEN clock_timestamp() + interval '7 days' END FROM generate_series(1, :jobs) n",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state, trashed_state) "
        "SELECT gen_random_uuid(), j.id, j.api_key_id, CASE n WHEN 1 THEN 'original' ELSE 'hls_720p' END, "
        "  'file ' || n, :location, 'processed/' || j.id || '/file-' || n, 1000, 1000, repeat(md5(j.id || n::text), 2),"
        "  CASE WHEN j.deleted_at IS NULL THEN 'live' ELSE 'trashed' END, "
        "  CASE WHEN j.deleted_at IS NOT NULL THEN 'live' END FROM jobs j, generate_series(1, :each) n",
        "INSERT INTO reservations (id, api_key_id, job_id, bytes, expires_at) "
        "SELECT gen_random_uuid(), api_key_id, id, 1, clock_timestamp() + interval '1 day' FROM jobs "
        " WHERE status = 'processing'",
        "UPDATE api_keys k SET storage_reserved_bytes = "
        "  (SELECT count(*) FROM reservations r WHERE r.api_key_id = k.id), storage_used_bytes = "
        "  (SELECT sum(size_bytes) FROM stored_objects o WHERE o.api_key_id = k.id AND o.state = 'live')",
        "SELECT recount_storage()",
        jobs=objects // A_JOB, each=A_JOB, location=location.place.id,
    )  # fmt: skip
    settle(catalog)
    return catalog


def add_due(catalog: CatalogDatabase, jobs: int, *, each: int = DUE_EACH) -> None:
    """Jobs that failed eight days ago, with some objects each, whose bytes nobody has."""
    fill(
        catalog,
        "WITH due AS (INSERT INTO jobs (id, api_key_id, status, filename, error_message, updated_at) "
        "  SELECT gen_random_uuid(), 1 + n % 10, 'failed', 'film.mp4', 'no such codec', "
        "    clock_timestamp() - interval '8 days' FROM generate_series(1, :jobs) n RETURNING id, api_key_id) "
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) SELECT gen_random_uuid(), id, api_key_id, 'hls_720p', 'file ' || n, "
        "  (SELECT min(id) FROM locations), 'processed/' || id || '/file-' || n, 1000, 1000, "
        "  repeat(md5(id || n::text), 2), 'live' FROM due, generate_series(1, :each) n",
        jobs=jobs, each=each,
    )  # fmt: skip


def settle(catalog: CatalogDatabase) -> None:
    """Statistics and visibility as autovacuum would leave them, and nothing left to write back."""
    with catalog.direct_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def count(catalog: CatalogDatabase, query: str) -> int:
    """A number that the catalog answers with."""
    return int(catalog.transaction(lambda connection: connection.execute(text(query)).scalar_one()))
