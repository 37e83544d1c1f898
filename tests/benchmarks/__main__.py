"""Run all rows, or one: `python -m tests.benchmarks [--row NAME] [--json PATH] [--pairs N] [--readme]`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import analysing, backing_up, catalog, compressing, ingesting, relocating, sweeping
from tests.benchmarks.harness import PAIRS, Bench, Measured, as_table, bench_stack, machine, say
from tests.benchmarks.page import with_figures

README = Path(__file__).parents[2] / "README.md"

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
    "growth-tier": relocating.growth_tier,
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
    parser.add_argument("--readme", action="store_true", help="also write the figures into the README's table")
    options = parser.parse_args()
    # As Ctrl-C: without it the process ends where it stands, and its servers stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: dict[str, list[Measured]] = {}
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    with bench_stack(options.pairs) as bench:
        for name in [options.row] if options.row else ROWS:
            one = ROWS[name](bench)
            found[name] = one if isinstance(one, list) else [one]
            if options.readme:
                # After each row: what was measured is kept, should a later one fail.
                README.write_text(with_figures(README.read_text("utf-8"), found, told(), machine(), day), "utf-8")
                say(f"{name}: written into {README.name}")
    results = [one for row in found.values() for one in row]
    print(f"{day}, {machine()}, {options.pairs} pairs, medians\n\n{as_table(results)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) | {"ok": one.ok} for one in results], indent=1))
    return 0 if all(one.ok for one in results) else 1


def told() -> dict[str, str]:
    """What each row does, in the words of its function."""
    return {name: (row.__doc__ or "").strip().splitlines()[0].rstrip(".") for name, row in ROWS.items()}


if __name__ == "__main__":
    sys.exit(main())
