"""The flow `tier-jobs`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import SafetyPolicy, TierPolicy
from flows.common.batches import RUNNER
from flows.common.opening import done, open_catalog, reach_stores, reported
from flows.common.planned import Work, run_planned, was_asked
from flows.common.relocating import apply_moves, name_blocks
from tasks.plans import Plan, Report
from tasks.relocation.intents import recover
from tasks.relocation.moving import look_anew, report_moves
from tasks.relocation.tiering import TierPlan, find_idle, plan_tiers, tier_targets
from tasks.sweeping import Sweep


@flow(
    name="tier-jobs",
    flow_run_name="tier, dry run: {dry_run}",
    task_runner=RUNNER,
    persist_result=True,
    result_serializer="json",
)
@reported
def tier_jobs(
    dry_run: bool = False,
    look_again: bool = False,
    catalog: str = "main",
    policy: str = "default",
    relocation: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Move old jobs nobody asks for to warm and cold locations, where that saves more than it costs.

    The Tier Policy says from which age and idleness on, and what storage costs; objects that are billed as larger than
    they are stay hot, and what was moved to warm storage stays its minimum time. A job goes kind by kind, a stream with
    all of its segments. It runs daily. URLs that were handed out work to their end. It never touches a job on hold, and
    nothing is lost by it: rehydrate-job brings a job back.

    Args:
        dry_run: Show the plan with what it would save, and change nothing.
        look_again: Look at all jobs once more, those too that earlier runs were through with, as after prices or
            locations were changed; not in a dry run.
        catalog: Name of the Catalog Database block.
        policy: Name of the Tier Policy block.
        relocation: Name of the Relocation Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(TierPolicy, policy)
    if not database.transaction(lambda connection: tier_targets(connection, rules)):
        return done("nothing to do: the Tier Policy names no warm_location and no cold_location")
    reached = reach_stores(database, [])
    places = reached.locations
    blocks = name_blocks(catalog, relocation, places[0].place.name)

    def prepare(sweep: Sweep) -> None:
        recover(sweep)
        if look_again and not was_asked():
            look_anew(database, "tier")

    def plan(sweep: Sweep) -> tuple[Plan, TierPlan]:
        planned = plan_tiers(find_idle(sweep, rules), rules)
        return planned.plan, planned

    def apply(sweep: Sweep, planned: TierPlan, plan: Plan) -> Report:
        jobs = apply_moves(sweep, planned.moves, blocks, settled=planned.settled)
        return report_moves("tier-jobs", plan, jobs, saved=False, notes=planned.notes(jobs))

    return run_planned(
        Work(
            operation="tier-jobs",
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
