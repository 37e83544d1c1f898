"""The flow `cleanup`."""

from __future__ import annotations

from datetime import datetime

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import RetentionPolicy, SafetyPolicy
from flows.common.opening import open_catalog, reach_stores, reported
from flows.common.planned import Work, run_planned
from tasks.plans import Plan, Report
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import CleanupFacts, plan_cleanup
from tasks.sweeping import Sweep


@flow(name="cleanup", flow_run_name="cleanup, dry run: {dry_run}", persist_result=True, result_serializer="json")
@reported
def cleanup(
    dry_run: bool = False,
    as_of: datetime | None = None,
    stores: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    catalog: str = "main",
    policy: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Give back the space of what nobody wants any more: old temp files, failed jobs, the trash past its date.

    Each rule is a field of the Retention Policy: uploads nobody completed (temp_days), failed jobs and workers'
    leftovers (failed_days), jobs without progress, which fail (stuck_hours), writings nobody finished
    (abandoned_hours), the trash (trash_days), incomplete multipart uploads, exports, leftovers of probes, folders of
    killed runs on this machine, and old months of the log. Lapsed reservations end, released bytes and unfinished
    intents are finished. It runs daily. It never touches a live job, a job on hold, or an object whose row says that it
    is wanted; a plan past the Safety Policy's caps asks first.

    Args:
        dry_run: Show the plan and change nothing.
        as_of: Plan for this time and not for now; the future only with dry_run.
        stores: Names of locations, which for a store of its own is its block's; all unless given.
        catalog: Name of the Catalog Database block.
        policy: Name of the Retention Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(RetentionPolicy, policy)

    def plan(sweep: Sweep) -> tuple[Plan, CleanupFacts]:
        facts = find_due(sweep, rules, as_of=as_of, dry_run=dry_run)
        return plan_cleanup(facts), facts

    reached = reach_stores(database, stores)
    return run_planned(
        Work(
            operation="cleanup",
            catalog=database,
            locations=reached.locations,
            left_out=reached.left_out,
            caps=load_block(SafetyPolicy, safety),
            plan=plan,
            apply=lambda sweep, facts, planned: apply_cleanup(sweep, rules, facts, planned),
        ),
        dry_run=dry_run,
    )
