"""The apply step of every flow that relocates: its moves as batches, each a task run, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.errors import StorageError
from blocks.loading import load_block
from blocks.policies import RelocationPolicy
from flows.common.batches import run_batches, unless_terminal
from flows.common.opening import open_catalog
from tasks.relocation import moving
from tasks.relocation.moving import BatchMoved, JobMoved, Mark, Move, MoveBatch
from tasks.stores import Locations, open_named
from tasks.sweeping import Sweep


@dataclass(frozen=True)
class Blocks:
    """Names of the blocks that a batch opens where it runs."""

    catalog: str
    relocation: str
    home: str


def name_blocks(catalog: str, relocation: str, home: str) -> Blocks:
    """These names, once there is such a policy: batches open it, and an unknown one is refused before they begin."""
    load_block(RelocationPolicy, relocation)
    return Blocks(catalog, relocation, home)


@task(
    name="move-batch", task_run_name="batch {batch.number}", retries=2, retry_delay_seconds=5,
    retry_condition_fn=unless_terminal,
)  # fmt: skip
def move_batch(batch: MoveBatch, blocks: Blocks) -> BatchMoved:
    """Relocate one batch; takes names of blocks and ids of jobs, so that it can run on another machine."""
    get_run_logger().debug("batch %s: %s jobs", batch.number, len(batch.job_ids))
    catalog, locations, policy = _opened(blocks, batch.run)
    return moving.move_batch(catalog, locations, policy, batch)


@lru_cache(maxsize=8)
def _opened(blocks: Blocks, run: str) -> tuple[CatalogDatabase, Locations, RelocationPolicy]:  # noqa: ARG001 -- once a run
    # Blocks are asked of Prefect's server and markers of the bucket: once a process and run, not once a batch.
    catalog = open_catalog(blocks.catalog)
    locations = Locations(catalog, open_named(catalog, blocks.home))
    return catalog, locations, load_block(RelocationPolicy, blocks.relocation)


def run_moves(
    sweep: Sweep, moves: Sequence[Move], blocks: Blocks, *, records: str = "", first: int = 0
) -> list[BatchMoved]:
    """All moves, `parallel_batches` at a time; the sweep's lock is looked at before each."""
    policy = load_block(RelocationPolicy, blocks.relocation)
    since = sweep.catalog.transaction(catalog_now)
    batches = moving.renumbered(moving.split(moves, policy, run=sweep.run, records=records, since=since), first)

    def submit(number: int) -> PrefectFuture[BatchMoved]:
        return move_batch.submit(batches[number], blocks)

    ended = 0

    def done(number: int) -> None:
        # Each counts as the same share: which ones they were is not told.
        nonlocal ended
        before, ended = ended, ended + number
        sweep.progress(len(moves) * ended // len(batches) - len(moves) * before // len(batches))

    def failed(number: int, error: StorageError) -> BatchMoved:
        return moving.given_up(batches[number], moves, str(error))

    return run_batches(
        submit,
        len(batches),
        at_once=policy.parallel_batches,
        progress=done,
        before_batch=sweep.before_batch,
        failed=failed,
    )


def apply_moves(
    sweep: Sweep, moves: Sequence[Move], blocks: Blocks, *, settled: Mapping[Mark, Sequence[UUID]]
) -> dict[UUID, JobMoved]:
    """Carry moves out and mark the jobs that are through; returns what became of each job."""
    jobs = moving.sum_up(run_moves(sweep, moves, blocks))
    moving.mark_through(sweep.catalog, moves, jobs, settled)
    return jobs
