"""What moves bytes: compression, tiers, migration, rehydration."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from uuid import UUID

from blocks.object_store.block import MIB
from blocks.policies import CompressionPolicy, RelocationPolicy, TierPolicy
from tasks.intake.ingest import ingest_videos
from tasks.relocation.compression import find_compressible, plan_compression
from tasks.relocation.intents import recover
from tasks.relocation.migration import Migration, find_jobs, plan_migration, take_over
from tasks.relocation.moving import Mark, Move, collect_records, mark_through, move_batch, split, sum_up
from tasks.relocation.rehydrate import rehydrate_job
from tasks.relocation.tiering import find_idle, plan_tiers
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.chaos.acts.act import Act
from tests.chaos.world import CUSTOMER, World
from tests.helpers import execute

POLICY = RelocationPolicy(batch_objects=8, parallel_transfers=1)
COMPRESSION = CompressionPolicy(after_days=1, idle_days=0, smallest_bytes=0, least_gain_percent=0, sample_objects=0)
TIERS = TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0)


def _an_old_job(world: World) -> None:
    world.job("summer")
    execute(
        world.catalog,
        "UPDATE jobs SET created_at = now() - interval '500 days', completed_at = now() - interval '500 days', "
        "last_accessed_at = NULL",
    )


def _without_etags(world: World) -> None:
    # Nothing to prove a copy by: the bytes are read and written.
    _an_old_job(world)
    execute(world.catalog, "UPDATE stored_objects SET etag = NULL")


def _a_large_one_without_etags(world: World) -> None:
    world.video("large", random.Random(2).randbytes(6 * MIB))
    ingest_videos(
        world.catalog, world.home, world.ingest_policy, api_key=CUSTOMER,
        sources=[str(world.folder / "videos" / "large.mp4")],
    )  # fmt: skip
    execute(world.catalog, "UPDATE stored_objects SET etag = NULL")


RECORDS = "reports/migrate-storage/migrate"


def _move(
    world: World,
    sweep: Sweep,
    moves: Sequence[Move],
    settled: Mapping[Mark, Sequence[UUID]],
    *,
    records_in: OpenLocation | None = None,
) -> None:
    results = []
    for batch in split(moves, POLICY, run=sweep.run, records=RECORDS if records_in else ""):
        sweep.before_batch()
        results.append(move_batch(world.catalog, world.locations, POLICY, batch))
    mark_through(world.catalog, moves, sum_up(results), settled)
    if records_in and results:
        collect_records(records_in, results, f"{RECORDS}.csv")


def compress(world: World) -> None:
    """What is old and shrinks."""
    with world.sweeping("compress", wait=20) as sweep:
        recover(sweep)
        planned = plan_compression(find_compressible(sweep, world.locations, COMPRESSION), COMPRESSION)
        _move(world, sweep, planned.moves, {planned.mark: planned.settled})


def _tier(world: World) -> None:
    with world.sweeping("tier", wait=20) as sweep:
        recover(sweep)
        planned = plan_tiers(find_idle(sweep, TIERS), TIERS)
        _move(world, sweep, planned.moves, planned.settled)


def migrate(world: World, there: str = "home", to: str = "cold", *, new_files: bool = False) -> None:
    """Everything from one place to the other."""
    with world.sweeping("migrate", wait=20) as sweep:
        recover(sweep)
        migration = Migration(world.place(there), world.place(to))
        _, moves = plan_migration(find_jobs(world.catalog, migration), migration)
        if new_files:
            take_over(world.catalog, migration)
        _move(world, sweep, moves, {}, records_in=migration.target)


def _migrate_for_good(world: World) -> None:
    migrate(world, new_files=True)


def moved_and_compressed(world: World) -> None:
    """An old job in the cold place, its texts as zstd."""
    _an_old_job(world)
    compress(world)
    migrate(world)


def _rehydrate(world: World) -> None:
    rehydrate_job(world.catalog, world.locations, POLICY, job_id=world.job_named("summer"), run="rehydrate")


ACTS = (
    Act("compress-jobs", _an_old_job, compress),
    Act("tier-jobs", _an_old_job, _tier),
    Act("migrate-storage", _an_old_job, _migrate_for_good),
    Act("migrate-storage-by-streams", _without_etags, _migrate_for_good),
    Act("migrate-storage-in-parts", _a_large_one_without_etags, _migrate_for_good),
    Act("rehydrate-job", moved_and_compressed, _rehydrate),
)
