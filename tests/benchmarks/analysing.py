"""Rows frame-to-postgres and growth-analytics: what a day's figures cost, and how that grows with the catalog."""

from __future__ import annotations

import subprocess
from datetime import date, timedelta

import numpy as np
import pandas as pd

from blocks.catalog import CatalogDatabase
from blocks.catalog.frames import write_frame
from blocks.catalog.programs import find_program
from blocks.policies import TierPolicy
from tasks.analytics.snapshot import refresh
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import SIZES, Bench, Measured, compare, flat, say, timed
from tests.benchmarks.stocking import add_due, count, grown
from tests.benchmarks.sweeping import DUE_JOBS

ROWS = 500_000
TABLE = "frame_rows"


def frame_to_postgres(bench: Bench) -> Measured:
    """500,000 rows as a frame into a table; the peer is psql's \\copy of the same rows as a CSV that is ready."""
    catalog = bench.catalog("frames")
    frame = usage_like(ROWS)
    ready = bench.folder / "ready.csv"
    frame.to_csv(ready, index=False, header=False)
    fill(catalog, f"CREATE TABLE {TABLE} (LIKE analytics.usage INCLUDING DEFAULTS)")
    columns = ", ".join(frame.columns)

    def ours(_: int) -> float:
        fill(catalog, f"TRUNCATE {TABLE}")
        took = timed(lambda: catalog.transaction(lambda connection: write_frame(connection, frame, TABLE)))
        check(catalog)
        return took

    def theirs(_: int) -> float:
        fill(catalog, f"TRUNCATE {TABLE}")
        psql = find_program("psql", at_least=14)
        command = [str(psql.path), "-h", catalog.host, "-U", catalog.username, "-d", catalog.database, "-q", "-c",
                   f"\\copy {TABLE} ({columns}) FROM '{ready}' CSV"]  # fmt: skip
        took = timed(lambda: subprocess.run(command, check=True))
        check(catalog)
        return took

    return compare(
        "frame-to-postgres", "psql \\copy", 0.5, ours=ours, theirs=theirs, pairs=bench.pairs, amount=ROWS, unit="rows/s"
    )


def usage_like(rows: int) -> pd.DataFrame:
    """A frame as a day's usage is: texts, whole numbers, money and days."""
    chance = np.random.default_rng(1)
    sizes = chance.integers(1, 2**40, rows)
    return pd.DataFrame(
        {
            "day": [date(2026, 1, 1) + timedelta(days=int(n) % 365) for n in range(rows)],
            "api_key_id": np.arange(rows) % 10_000,
            "customer": [f"customer-{n % 10_000}" for n in range(rows)],
            "kind": chance.choice(["original", "video_720p", "hls_720p", "transcript_json"], rows),
            "tier": chance.choice(["hot", "warm", "cold"], rows),
            "objects": chance.integers(1, 10_000, rows),
            "size_bytes": sizes,
            "stored_bytes": sizes,
            "unsound_objects": np.zeros(rows, dtype=np.int64),
            "trashed_objects": np.zeros(rows, dtype=np.int64),
            "trashed_bytes": np.zeros(rows, dtype=np.int64),
            "monthly_cost": sizes * 1e-11,
        }
    )


def check(catalog: CatalogDatabase) -> None:
    """All rows are there."""
    if (found := count(catalog, f"SELECT count(*) FROM {TABLE}")) != ROWS:
        raise RuntimeError(f"{found} rows")


def growth_analytics(bench: Bench) -> list[Measured]:
    """A day's figures in catalogs of 10⁴, 10⁵ and 10⁶ rows: 500 jobs came in since the last, and 500 were asked for."""
    catalogs = [grown(bench, f"analytics_{size}", size) for size in SIZES]
    runs = []
    for number in range(bench.pairs + 1):
        seconds = []
        for catalog in catalogs:
            add_due(catalog, DUE_JOBS)
            fill(
                catalog,
                "UPDATE jobs SET last_accessed_at = clock_timestamp() WHERE id IN "
                "  (SELECT id FROM jobs WHERE status = 'completed' AND deleted_at IS NULL ORDER BY id LIMIT :jobs)",
                jobs=DUE_JOBS,
            )
            seconds.append(timed(lambda at=catalog: refresh(at, TierPolicy())))  # type: ignore[misc]  # bound here
        say(f"growth-analytics {number}: {', '.join(f'{1000 * one:.0f} ms' for one in seconds)}")
        if number:
            runs.append(seconds)
    return flat("growth-analytics", runs)
