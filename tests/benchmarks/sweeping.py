"""Rows reconcile, delete, growth and memory: what sweeps cost, how that grows with the catalog, and what they hold."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from blocks.catalog import CatalogDatabase, drift
from blocks.embedded import Stack
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import put_bytes
from blocks.policies import MIB, AccessPolicy, IntegrityPolicy, RetentionPolicy
from tasks.access import issue_download_url
from tasks.cleanup import apply_cleanup, find_due
from tasks.cleanup_plan import plan_cleanup
from tasks.parallel import in_parallel
from tasks.purging import purge_released
from tasks.reconcile import look_through, plan_ranges, plan_repairs, put_together
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import Bench, Measured, below, compare, say, timed

LISTED, DELETED = 100_000, 10_000
A_JOB = 20
"""Objects a job has."""
CONTENT = b"sixteen bytes it"
MISSING, ORPHANS, MISMATCHED = 10, 10, 5
SIZES = (10_000, 100_000, 1_000_000)
DUE_JOBS, DUE_EACH = 500, 2
URLS = 200
MOST_LISTED = 200_000
"""Real objects in the memory row: they take about two minutes to write."""
MEMORY_RUNS = 2
"""Peaks of equal runs differ by a percent: more runs would say nothing more."""
LIMIT_MIB, FLAT = 500.0, 1.5
NO_GRACE = timedelta(seconds=-5)
"""Whatever was written up to now is past it: SeaweedFS dates objects itself."""
RULES = RetentionPolicy(scratch_days=365)
"""What other runs left on this machine's disk stays."""


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
            found = put_together(self.catalog, self.location, parts)
            plans.append((found, plan_repairs([found], self.catalog.transaction(drift.labels))))

        took = timed(work)
        ((found, plan),) = plans
        seen = [(one.what, one.key) for one in found.findings]
        if len(seen) != len(self.known) or set(seen) != self.known or found.counters:
            raise RuntimeError(f"{len(seen)} findings and {found.counters}, {len(self.known)} were expected")
        if len(plan.items) != len(self.known) or plan.objects != ORPHANS:
            raise RuntimeError(plan.summary())
        return took


def reconcile(bench: Bench) -> Measured:
    """100,000 objects against the catalog, and exactly the drift that there is."""
    stocked = stock(bench, "reconcile", LISTED)
    return compare(
        "reconcile", "s5cmd ls", 1.3,
        ours=lambda _: stocked.reconcile(),
        theirs=lambda _: bench.s5cmd("ls", "s3://videos/reconcile/*"),
        pairs=bench.pairs, amount=LISTED, unit="objects/s",
    )  # fmt: skip


def delete(bench: Bench) -> Measured:
    """10,000 released objects: bytes, rows and log, with an outcome for every key. Only the removal is timed."""
    catalog = bench.catalog("deletion")
    location = bench.location(catalog)
    add_customers(catalog)

    def ours(number: int) -> float:
        jobs = new_jobs(number, DELETED // A_JOB)
        put_all(location, keys_of(jobs))
        fill_rows(catalog, location, jobs, job_status="cleaned_up", state="purging")
        results = []
        took = timed(lambda: results.append(purge_released(catalog, location, None, run=f"run {number}")))
        (result,) = results
        left = count(catalog, "SELECT count(*) FROM stored_objects")
        logged = count(catalog, f"SELECT count(*) FROM operation_log WHERE run = 'run {number}'")
        there = sum(1 for _ in list_prefix(location.store, "processed"))
        if result.failed or (result.objects, logged, left, there) != (DELETED, DELETED, 0, 0):
            raise RuntimeError(f"{result.objects} gone, {len(result.failed)} failed, {left} rows, {there} objects left")
        return took

    def theirs(number: int) -> float:
        # Under the same prefix in a folder of its own, so that keys are as long and folders as deep.
        put_all(location, [f"rm/{key}" for key in keys_of(new_jobs(-1 - number, DELETED // A_JOB))])
        took = bench.s5cmd("rm", "s3://videos/deletion/rm/*")
        if any(True for _ in list_prefix(location.store, "rm")):
            raise RuntimeError("s5cmd left objects")
        return took

    return compare(
        "delete", "s5cmd rm", 2.0, ours=ours, theirs=theirs, pairs=bench.pairs, amount=DELETED, unit="objects/s"
    )


def growth_cleanup(bench: Bench) -> list[Measured]:
    """The same 500 failed jobs due in catalogs of 10⁴, 10⁵ and 10⁶ rows: found, planned and removed."""
    catalogs = [grown(bench, f"cleanup_{size}", size) for size in SIZES]
    locations = [bench.location(catalog) for catalog in catalogs]
    runs = []
    for number in range(bench.pairs + 1):
        seconds = []
        for catalog, location in zip(catalogs, locations, strict=True):
            add_due(catalog, DUE_JOBS)
            seconds.append(timed(lambda at=(catalog, location): clean_up(*at, DUE_JOBS)))  # type: ignore[misc]  # bound here
        say(f"growth-cleanup {number}: {', '.join(f'{1000 * one:.0f} ms' for one in seconds)}")
        if number:
            runs.append(seconds)
    return flat("growth-cleanup", runs)


def growth_url(bench: Bench) -> list[Measured]:
    """A download URL for one of a catalog's jobs, at random, in catalogs of 10⁴, 10⁵ and 10⁶ rows."""
    catalogs = [grown(bench, f"url_{size}", size) for size in SIZES]
    locations = [bench.location(catalog) for catalog in catalogs]
    chance, access, runs = random.Random(1), AccessPolicy(), []
    for number in range(bench.pairs + 1):
        medians = []
        for catalog, location in zip(catalogs, locations, strict=True):
            jobs = catalog.transaction(
                lambda c: c.execute(
                    text("SELECT id, api_key_id FROM jobs WHERE status = 'completed' AND deleted_at IS NULL")
                ).all()
            )
            asked = [chance.choice(jobs) for _ in range(URLS)]
            seconds = [
                timed(
                    lambda job=job, at=(catalog, location): issue_download_url(  # type: ignore[misc]  # bound here
                        *at, access, api_key=str(job.api_key_id), job_id=job.id, kind="original"
                    )
                )
                for job in asked
            ]
            medians.append(statistics.median(seconds))
        say(f"growth-url {number}: {', '.join(f'{1000 * one:.2f} ms' for one in medians)}")
        if number:
            runs.append(medians)
    return flat("growth-url", runs)


def flat(row: str, runs: Sequence[Sequence[float]]) -> list[Measured]:
    """Each larger size's time over the smallest's."""
    return [
        below(f"{row}, time at {size:,} rows over {SIZES[0]:,}", FLAT, [run[place] / run[0] for run in runs], "×")
        for place, size in enumerate(SIZES)
        if place
    ]


def growth_reconcile(bench: Bench) -> Measured:
    """Time a row at 10⁵ over that at 10⁴: a reconciliation is linear.

    Both sides are real; a million real objects would take longer to write than all the other rows together.
    """
    small, large = stock(bench, "linear_small", SIZES[0]), stock(bench, "linear_large", SIZES[1])
    ratios = []
    for number in range(bench.pairs + 1):
        a_row = [
            statistics.median(small.reconcile() for _ in range(3)) / SIZES[0],
            large.reconcile() / SIZES[1],
        ]
        say(f"growth-reconcile {number}: {', '.join(f'{1e6 * one:.1f} µs a row' for one in a_row)}")
        if number:
            ratios.append(a_row[1] / a_row[0])
    return below(f"growth-reconcile, time a row at {SIZES[1]:,} rows over {SIZES[0]:,}", FLAT, ratios, "×")


def memory(bench: Bench) -> list[Measured]:
    """Peak memory of a process that plans a reconciliation, and of one that cleans up, with few rows and with many.

    Reconciliation: 10⁴ and 2 × 10⁵ real objects, since a million would take ten minutes to write; it looks through
    parts of 25,000 rows. Cleanup: 10⁴ and 10⁶ rows, and as many again as a tenth of them due.
    """
    stock(bench, "memory_small", SIZES[0])
    stock(bench, "memory_large", MOST_LISTED)
    for name, size in (("memory_few", SIZES[0]), ("memory_many", SIZES[-1])):
        bench.location(grown(bench, name, size))
    results = []
    for work, few, many, large in (
        ("reconcile", "memory_small", "memory_large", MOST_LISTED),
        ("cleanup", "memory_few", "memory_many", SIZES[-1]),
    ):
        # A cleanup leaves nothing to the next: what is due is added for each.
        peaks = []
        for _ in range(min(bench.pairs, MEMORY_RUNS)):
            peaks.append((peak_mib(bench, work, few, SIZES[0]), peak_mib(bench, work, many, large)))
            say(f"memory of {work}: {peaks[-1][0]:.0f} MiB with {SIZES[0]:,} rows, {peaks[-1][1]:.0f} with {large:,}")
        results += [
            below(f"memory of {work}, {large:,} rows", LIMIT_MIB, [most for _, most in peaks], "MiB"),
            below(f"memory of {work}, {large:,} rows over {SIZES[0]:,}", FLAT, [b / a for a, b in peaks], "×"),
        ]
    return results


def peak_mib(bench: Bench, work: str, database: str, size: int) -> float:
    """The peak memory of a process of its own that does some work, in MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.sweeping", work, str(bench.folder), database, str(size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def child(work: str, folder: str, database: str, size: str) -> None:
    """What such a process does; prints its peak in MiB."""
    bench = Bench(Stack(Path(folder) / "stack").endpoints(), Path(folder), pairs=1)
    catalog = CatalogDatabase(
        host=str(bench.endpoints.postgres_folder), username="postgres", database=database, pool_size=64
    )
    location = bench.location(catalog)
    if work == "reconcile":
        Stocked(catalog, location, known_drift(int(size), database)).reconcile()
    else:
        due = int(size) // A_JOB // 10
        add_due(catalog, due, each=A_JOB)
        clean_up(catalog, location, due, each=A_JOB)
    # Not getrusage's ru_maxrss: across an exec Linux keeps the peak of whoever started the process in that.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 / MIB)


def clean_up(catalog: CatalogDatabase, location: OpenLocation, due: int, *, each: int = DUE_EACH) -> None:
    """Find, plan and apply, which must come to exactly what is due."""
    sweep = Sweep(catalog, (location,), run="bench")
    facts = find_due(sweep, RULES)
    plan = plan_cleanup(facts)
    report = apply_cleanup(sweep, RULES, facts, plan)
    if report.failed or (len(plan.items), report.objects) != (due, due * each):
        raise RuntimeError(f"{plan.summary()}; {report.summary()}")


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


if __name__ == "__main__":
    child(*sys.argv[1:])
