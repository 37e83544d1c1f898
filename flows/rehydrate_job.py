"""The flow `rehydrate-job`."""

from __future__ import annotations

from typing import Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.errors import RefusedError
from blocks.loading import load_block
from blocks.policies import RelocationPolicy
from flows.common.opening import open_catalog, open_locations, reported, run_label, show_table
from flows.common.planned import SHOWN
from tasks.relocation import rehydrate
from tasks.relocation.rehydrate import RehydrateReport


@flow(name="rehydrate-job", flow_run_name="{job_id} back to {tier}")
@reported
def rehydrate_job(
    job_id: str,
    tier: Literal["hot", "warm"] = "hot",
    kinds: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    restored: bool = False,
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
) -> State[RehydrateReport]:
    """Bring a job back: to a hot location, and decompressed. The nightly flows leave it there until it is idle again.

    It starts by itself when a download URL is asked for that an object's place or encoding cannot serve. What lies in a
    location that has to restore its objects first is refused, with the way out. It waits for no other flow, and never
    changes a job on hold.

    Args:
        job_id: Id of the job.
        tier: Where to; the first location declared as that.
        kinds: Kinds to bring back; all unless given.
        restored: The server was told to restore these objects, and has done so.
        store: Any location of the catalog, to begin from.
        catalog: Name of the Catalog Database block.
        policy: Name of the Relocation Policy block.
    """
    database = open_catalog(catalog)
    report = rehydrate.rehydrate_job(
        database,
        open_locations(database, store),
        load_block(RelocationPolicy, policy),
        job_id=job_id,
        tier=tier,
        kinds=kinds,
        restored=restored,
        run=run_label(),
    )
    rows = [
        {"object": one.name, "result": "brought back" if one.result == "moved" else one.result, "why": one.error,
         "bytes before": one.before_bytes, "bytes after": one.after_bytes}
        for one in (*report.others, *report.moved)[:SHOWN]
    ]  # fmt: skip
    show_table("rehydrate-job", rows, report.summary())
    get_run_logger().info(report.summary())
    if report.others and not report.moved and not report.there:
        raise RefusedError(report.summary())
    return Completed(name="Partial" if report.others else "Completed", message=report.summary(), data=report)
