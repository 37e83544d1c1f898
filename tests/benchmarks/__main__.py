"""Run all rows, or one: `python -m tests.benchmarks [--row NAME] [--json PATH] [--pairs N]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import analysing, backing_up, catalog, compressing, ingesting, relocating, sweeping
from tests.benchmarks.harness import PAIRS, Bench, Measured, as_table, bench_stack, machine

ROWS: dict[str, Callable[[Bench], Measured | list[Measured]]] = {
    "ingest-small": ingesting.small,
    "ingest-large": ingesting.large,
    "ingest-known": ingesting.known,
    "presign": catalog.presign,
    "quota-reserve": catalog.quota_reserve,
    "duplicate-lookup": catalog.duplicate_lookup,
    "reconcile": sweeping.reconcile,
    "delete": sweeping.delete,
    "relocate-small": relocating.relocate_small,
    "migrate": relocating.migrate,
    "compress-text": compressing.compress_text,
    "compress-skip": compressing.compress_skip,
    "backup": backing_up.backup,
    "restore": backing_up.restore,
    "frame-to-postgres": analysing.frame_to_postgres,
    "orchestration": relocating.orchestration,
    "growth-cleanup": sweeping.growth_cleanup,
    "growth-url": sweeping.growth_url,
    "growth-analytics": analysing.growth_analytics,
    "growth-reconcile": sweeping.growth_reconcile,
    "memory": sweeping.memory,
}


def main() -> int:
    """Measure, print the table, and return 1 if a row is below its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, help="one row only")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="counted pairs of runs a row")
    options = parser.parse_args()
    results: list[Measured] = []
    with bench_stack(options.pairs) as bench:
        for name in [options.row] if options.row else ROWS:
            found = ROWS[name](bench)
            results += found if isinstance(found, list) else [found]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {options.pairs} pairs, medians\n\n{as_table(results)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) | {"ok": one.ok} for one in results], indent=1))
    return 0 if all(one.ok for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
