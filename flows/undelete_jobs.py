"""The flow `undelete-jobs`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import SafetyPolicy
from flows.common.opening import open_catalog, reported
from flows.common.planned import Work, run_planned
from tasks.plans import Plan, Report
from tasks.removal.deletion import Wanted, apply_undelete, plan_undelete, select
from tasks.sweeping import Sweep


@flow(name="undelete-jobs", flow_run_name="undelete jobs, dry run: {dry_run}", persist_result=True)
@reported
def undelete_jobs(
    job_ids: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    api_key: str = "",
    dry_run: bool = False,
    catalog: str = "main",
    safety: str = "default",
) -> State[Report]:
    """Bring jobs back out of the trash, with every object as it was, each that fits into the customer's quota.

    It never brings back a job that was purged, nor one whose place another job took with the same video: it names that
    job. What does not fit into the quota stays in the trash, with the reason.

    Args:
        job_ids: Ids of jobs; all of the trash of api_key unless given.
        api_key: Label or id of the customer; only their jobs.
        dry_run: Show the plan and change nothing.
        catalog: Name of the Catalog Database block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    wanted = Wanted(tuple(job_ids), api_key)

    def plan(sweep: Sweep) -> tuple[Plan, None]:
        return plan_undelete(select(sweep.catalog, wanted, trashed=True), asked=job_ids), None

    return run_planned(
        Work(
            operation="undelete-jobs",
            catalog=database,
            locations=(),
            caps=load_block(SafetyPolicy, safety),
            plan=plan,
            apply=lambda sweep, _, planned: apply_undelete(sweep, planned),
            scope=wanted.scope,
            locked=False,
            while_frozen=True,
        ),
        dry_run=dry_run,
    )
