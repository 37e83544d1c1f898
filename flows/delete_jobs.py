"""The flow `delete-jobs`."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import RetentionPolicy, SafetyPolicy
from flows.common.opening import open_catalog, open_stores, reported
from flows.common.planned import Work, run_planned
from tasks.plans import Plan, Report
from tasks.removal.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    plan_deletion,
    require_all_places,
    select,
)
from tasks.sweeping import Sweep

Status = Literal["", "uploading", "queued", "processing", "transcoding", "completed", "failed", "cleaned_up"]


@flow(
    name="delete-jobs",
    flow_run_name="delete jobs, dry run: {dry_run}",
    persist_result=True,
    result_serializer="json",
)
@reported
def delete_jobs(
    job_ids: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    api_key: str = "",
    status: Status = "",
    older_than_days: int | None = None,
    larger_than: str = "",
    dry_run: bool = True,
    purge_now: bool = False,
    stores: list[str] = [],  # noqa: B006 -- as above
    catalog: str = "main",
    policy: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Move jobs to the trash: quota released and URLs refused at once, everything recoverable for some days.

    Jobs are meant by their ids, or by a filter; ids and filter together must both be true. It shows what it would do
    unless dry_run is turned off. undelete-jobs brings jobs back until cleanup removes them (trash_days). It never
    touches a job on hold, and says so. With purge_now, for a legal erasure, it always asks, and then removes objects,
    exports, forms and rows at once: only the operation log remembers, and nothing brings them back.

    Args:
        job_ids: Ids of jobs.
        api_key: Label or id of the customer whose jobs are meant.
        status: Jobs with this status only.
        older_than_days: Jobs made longer ago than this only.
        larger_than: Jobs that store at least this, for example 500 MiB.
        dry_run: Show the plan and change nothing; turn it off to delete.
        purge_now: Erase at once and for good, after somebody has approved.
        stores: Stores to erase from, with purge_now; leave it empty, since an erasure looks into all declared ones.
        catalog: Name of the Catalog Database block.
        policy: Name of the Retention Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(RetentionPolicy, policy)
    wanted = Wanted(tuple(job_ids), api_key, status, older_than_days, larger_than)

    def plan(sweep: Sweep) -> tuple[Plan, None]:
        if purge_now:
            require_all_places(sweep)  # before somebody is asked
        found = select(sweep.catalog, wanted, trashed=None if purge_now else False)
        return plan_deletion(found, asked=job_ids, purge_now=purge_now), None

    def apply(sweep: Sweep, _: None, planned: Plan) -> Report:
        return apply_erasure(sweep, planned) if purge_now else apply_deletion(sweep, rules, planned)

    return run_planned(
        Work(
            operation="delete-jobs",
            catalog=database,
            # The trash is a matter of the catalog alone; an erasure needs all of them.
            locations=open_stores(database, stores) if purge_now or stores else (),
            caps=load_block(SafetyPolicy, safety),
            plan=plan,
            apply=apply,
            scope=f"{wanted.scope} purge_now" if purge_now else wanted.scope,
            locked=False,
            always_ask=purge_now,
            while_frozen=not purge_now,
        ),
        dry_run=dry_run,
    )
