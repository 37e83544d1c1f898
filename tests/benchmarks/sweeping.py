"""Rows reconcile, delete, growth and memory: what sweeps cost, how that grows with the catalog, and what they hold."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlalchemy import text

from blocks.catalog import CatalogDatabase
from blocks.embedded import Stack
from blocks.object_store.listing import list_prefix
from blocks.policies import MIB, AccessPolicy, RetentionPolicy, TierPolicy
from reports.exporting import export
from reports.figures import read_figures
from tasks.access import issue_download_url
from tasks.analytics.snapshot import refresh
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.purging import purge_released
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.benchmarks.harness import FLAT, SIZES, Bench, Measured, below, compare, flat, say, timed
from tests.benchmarks.stocking import (
    A_JOB,
    DUE_EACH,
    Stocked,
    add_customers,
    add_due,
    count,
    fill_rows,
    grown,
    keys_of,
    known_drift,
    new_jobs,
    put_all,
    stock,
)

LISTED, DELETED = 100_000, 10_000
DUE_JOBS = 500
URLS = 200
MOST_LISTED = 200_000
"""Real objects in the memory row: they take about two minutes to write."""
MEMORY_RUNS = 2
"""Peaks of equal runs differ by a percent: more runs would say nothing more."""
LIMIT_MIB = 500.0
RULES = RetentionPolicy(scratch_days=365)
"""What other runs left on this machine's disk stays."""


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
            reach = Locations(catalog, location)
            jobs = catalog.transaction(
                lambda c: c.execute(
                    text("SELECT id, api_key_id FROM jobs WHERE status = 'completed' AND deleted_at IS NULL")
                ).all()
            )
            asked = [chance.choice(jobs) for _ in range(URLS)]
            seconds = [
                timed(
                    lambda job=job, at=(catalog, reach): issue_download_url(  # type: ignore[misc]  # bound here
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
    """Peak memory of processes that plan a reconciliation, clean up, and make a day's report, with few rows and many.

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
        ("analytics", "memory_few", "memory_many", SIZES[-1]),
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
    elif work == "analytics":
        refresh(catalog, TierPolicy())
        with tempfile.TemporaryDirectory() as files:
            export(read_figures(catalog), Path(files), links=True)
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


if __name__ == "__main__":
    child(*sys.argv[1:])
