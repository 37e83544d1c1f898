"""The flow `bulk-download`."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.errors import RefusedError
from blocks.loading import load_block
from blocks.policies import AccessPolicy
from blocks.units import format_bytes
from flows.common.opening import open_catalog, open_locations, reported, run_label, show_table
from flows.common.planned import SHOWN
from tasks import downloads


@flow(name="bulk-download", flow_run_name="bulk download to {target}")
@reported
def bulk_download(
    job_ids: list[str],
    kinds: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    api_key: str = "",
    target: str = "exports",
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
) -> State[None]:
    """Hand out files of many jobs: as one ZIP that streams into exports/ with a presigned URL, or into a local folder.

    Every file is hashed on its way and listed in SHA256SUMS; a file that is not its content gives the archive up. What
    cannot be read is left out, with the reason. It never writes outside the folder, nor over a file that is there.
    Whoever has the URL can read the archive until it ends; the archive itself expires with exports_days.

    Args:
        job_ids: Ids of jobs.
        kinds: Kinds of files, for example video_720p; all unless given.
        api_key: Label or id of a customer, to whom all of the jobs must belong; any customer's unless given.
        target: The word exports for a ZIP and a URL, or a folder on the worker's disk below the policy's roots.
        store: Location that the archive is written to; files are read from wherever they are.
        catalog: Name of the Catalog Database block.
        policy: Name of the Access Policy block.
    """
    database = open_catalog(catalog)
    report = downloads.bulk_download(
        database,
        open_locations(database, store),
        load_block(AccessPolicy, policy),
        job_ids=job_ids,
        kinds=kinds,
        api_key=api_key or None,
        target=target,
        run=run_label(),
    )
    message = f"{report.files} files, {format_bytes(report.size_bytes)}"
    if report.expires_at is not None:
        until = f"until {report.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        create_link_artifact(
            key="bulk-download", link=report.url, link_text="the archive", description=f"{message}, {until}"
        )
        message += f": a link artifact, {until}"
    else:
        message += f" into {report.folder}" + (f", {report.already_there} were there" if report.already_there else "")
    if report.skipped:
        message += f"; {len(report.skipped)} left out"
        rows = [{"what": what, "because": why} for what, why in report.skipped[:SHOWN]]
        show_table("bulk-download-left-out", rows, message)
        if not report.files and not report.already_there:
            raise RefusedError(f"nothing could be written; the first: {report.skipped[0][0]}: {report.skipped[0][1]}")
    get_run_logger().info(message)
    return Completed(name="Partial" if report.skipped else "Completed", message=message, data=None)
