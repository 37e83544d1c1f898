"""The flow `hold-jobs`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from flows.common.opening import done, open_catalog, reported, run_label, show_table
from tasks.removal.deletion import HoldReport, hold


@flow(name="hold-jobs", flow_run_name="hold jobs, release: {release}")
@reported
def hold_jobs(
    job_ids: list[str],
    reason: str = "",
    release: bool = False,
    catalog: str = "main",
) -> State[HoldReport]:
    """Put jobs on hold, so that nothing trashes, purges or moves them; or release them.

    A hold is for disputes and investigations. Customers still read what is on hold. It never expires by itself.

    Args:
        job_ids: Ids of jobs.
        reason: Why; whoever meets the hold reads it. Not needed to release.
        release: Release them instead.
        catalog: Name of the Catalog Database block.
    """
    database = open_catalog(catalog)
    report = hold(database, job_ids=job_ids, reason=reason, release=release, run=run_label())
    rows = [{"job": job, "hold": report.reason or "", "before": before} for job, before in report.held.items()]
    show_table("hold-jobs", rows, report.summary())
    return done(report.summary(), report)
