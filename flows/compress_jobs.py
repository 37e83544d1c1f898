"""The flow `compress-jobs`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import CompressionPolicy, SafetyPolicy
from flows.common.batches import RUNNER
from flows.common.opening import open_catalog, reach_stores, reported
from flows.common.planned import Work, run_planned, was_asked
from flows.common.relocating import apply_moves, name_blocks
from tasks.plans import Plan, Report
from tasks.relocation.compression import CompressionPlan, find_compressible, plan_compression
from tasks.relocation.intents import recover
from tasks.relocation.moving import look_anew, report_moves
from tasks.stores import Locations
from tasks.sweeping import Sweep


@flow(
    name="compress-jobs",
    flow_run_name="compress, dry run: {dry_run}",
    task_runner=RUNNER,
    persist_result=True,
    result_serializer="json",
)
@reported
def compress_jobs(
    dry_run: bool = False,
    look_again: bool = False,
    stores: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    catalog: str = "main",
    policy: str = "default",
    relocation: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Compress the transcripts, metadata and playlists of old jobs: one zstd frame each, where they lie.

    Every frame is decoded before it is stored, and the row points at it only after the store has it; the old bytes go
    when the last URL for them has ended. Video, sound and segments are left alone: the plan says what compressing them
    would gain, from a small sample. It runs daily. Nobody's quota moves, and a download URL gives the original all the
    same. It never touches a job on hold.

    Args:
        dry_run: Show the plan and change nothing.
        look_again: Look at all jobs once more, those too that earlier runs were through with, as after the policy was
            changed; not in a dry run.
        stores: Locations to look through; all declared ones unless given.
        catalog: Name of the Catalog Database block.
        policy: Name of the Compression Policy block.
        relocation: Name of the Relocation Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(CompressionPolicy, policy)
    reached = reach_stores(database, stores)
    places = reached.locations
    blocks = name_blocks(catalog, relocation, places[0].place.name)

    def prepare(sweep: Sweep) -> None:
        recover(sweep)
        if look_again and not was_asked():
            look_anew(database, "compressed_at")

    def plan(sweep: Sweep) -> tuple[Plan, CompressionPlan]:
        locations = Locations(database, places[0], places[1:])
        planned = plan_compression(find_compressible(sweep, locations, rules), rules)
        return planned.plan, planned

    def apply(sweep: Sweep, planned: CompressionPlan, plan: Plan) -> Report:
        jobs = apply_moves(sweep, planned.moves, blocks, settled={planned.mark: planned.settled})
        return report_moves("compress-jobs", plan, jobs, saved=True, notes=planned.notes(jobs))

    return run_planned(
        Work(
            operation="compress-jobs",
            catalog=database,
            locations=places,
            left_out=reached.left_out,
            caps=load_block(SafetyPolicy, safety),
            prepare=prepare,
            plan=plan,
            apply=apply,
        ),
        dry_run=dry_run,
    )
