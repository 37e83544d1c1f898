"""The flow `apply-lifecycle`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.catalog.clock import catalog_now
from blocks.loading import load_block
from blocks.policies import RetentionPolicy, SafetyPolicy
from blocks.units import format_bytes
from flows.common.finding import note_lag
from flows.common.opening import open_catalog, reach_stores, reported, show_table
from flows.common.planned import Work, run_planned
from tasks.plans import Plan, Report
from tasks.removal.lifecycle import apply_all, plan_all
from tasks.removal.lifecycle_reach import RuleReach, simulate
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep, store_clock


@flow(name="apply-lifecycle", flow_run_name="lifecycle, dry run: {dry_run}", persist_result=True)
@reported
def apply_lifecycle(
    dry_run: bool = False,
    stores: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    catalog: str = "main",
    policy: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Bring the bucket's own lifecycle rules to the Retention Policy: the net below cleanup, kept by the server itself.

    A table shows for every rule what it would reach at its next turn, and what is overdue and since when. Rules that
    are not ours stay as they are, and a second run changes nothing. It runs weekly. It never asks a server for a rule
    that the probe did not see working, and says who does that instead; new or shorter rules that would reach more than
    the Safety Policy allows are asked about first.

    Args:
        dry_run: Show which objects, jobs and bytes each rule would reach, and change nothing.
        stores: Names of locations, which for a store of its own is its block's; all unless given.
        catalog: Name of the Catalog Database block.
        policy: Name of the Retention Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(RetentionPolicy, policy)

    def plan(sweep: Sweep) -> tuple[Plan, None]:
        now = database.transaction(catalog_now)

        def look(location: OpenLocation) -> tuple[RuleReach, ...]:
            return simulate(database, location, rules, store_now=store_clock(database, location), now=now)

        reach = {location.place.name: found for location, found in sweep.each(look)}
        rows = [_row(place, one) for place, reached in reach.items() for one in reached]
        show_table("lifecycle-reach", rows, "What each rule would reach at its next turn.")
        if not dry_run:
            note_lag(database, reach)
        sums = {
            place: {one.rule.name: (one.objects, one.size_bytes) for one in reached} for place, reached in reach.items()
        }
        return plan_all(sweep, rules, sums), None

    reached = reach_stores(database, stores)
    return run_planned(
        Work(
            operation="apply-lifecycle",
            catalog=database,
            locations=reached.locations,
            left_out=reached.left_out,
            caps=load_block(SafetyPolicy, safety),
            plan=plan,
            apply=lambda sweep, _, planned: apply_all(sweep, rules, planned),
        ),
        dry_run=dry_run,
    )


def _row(place: str, one: RuleReach) -> dict[str, object]:
    return {
        "store": place,
        "rule": one.rule.name,
        "folder": one.rule.folder,
        "days": one.rule.days,
        "next turn": f"{one.turn_at:%Y-%m-%d %H:%M}",
        "objects": one.objects,
        "jobs": one.jobs,
        "size": format_bytes(one.size_bytes),
        "overdue": one.overdue,
        "overdue since": f"{one.overdue_since:%Y-%m-%d %H:%M}" if one.overdue_since else "",
        "such as": ", ".join(example.key for example in one.examples[:3]),
        "done by": one.rule.unsupported or "the server",
    }
