"""The flow `issue-download-url`."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.artifacts import create_link_artifact
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import AccessPolicy, RelocationPolicy
from blocks.units import format_bytes
from flows.common.opening import done, escaped, open_catalog, open_locations, reported
from tasks import access

Kind = Literal[
    "original", "video_360p", "video_720p", "audio", "transcript_txt", "transcript_srt", "transcript_vtt",
    "transcript_json", "hls_360p", "hls_720p", "metadata", "upload",
]  # fmt: skip


@flow(name="issue-download-url", flow_run_name="{kind} of {job_id}")
@reported
def issue_download_url(
    api_key: str,
    job_id: str,
    kind: Kind = "original",
    expires_in: int | None = None,
    accept_encoding: str = "",
    name: str | None = None,
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
    relocation: str = "default",
) -> State[None]:
    """Make a presigned URL for one file of a job; it is shown as a link artifact that says when it ends.

    Whoever has the URL can read the file until then, so it is in no log and no result. An HLS kind gives a playlist
    whose segments are presigned too. What its place or encoding cannot serve is rehydrated first. Services call
    `tasks.access.issue_download_url` instead, which takes milliseconds.

    Args:
        api_key: Label or id of the customer who owns the job.
        job_id: Id of the job, from ingest-videos.
        kind: Which of its files.
        expires_in: Seconds until the URL ends; the policy's hour unless given.
        accept_encoding: Encodings the caller decodes, for example zstd; for others it is decompressed first.
        name: Which of several files of a kind, for example one upload; the last unless given.
        store: Location that a playlist for this caller is written to.
        catalog: Name of the Catalog Database block.
        policy: Name of the Access Policy block.
        relocation: Name of the Relocation Policy block, for what has to be rehydrated first.
    """
    database = open_catalog(catalog)
    issued = access.issue_download_url(
        database,
        open_locations(database, store),
        load_block(AccessPolicy, policy),
        api_key=api_key,
        job_id=job_id,
        kind=kind,
        expires_in=expires_in,
        accept_encoding=accept_encoding,
        name=name,
        relocation=load_block(RelocationPolicy, relocation),
    )
    until = f"until {issued.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    create_link_artifact(
        key="download-url",
        link=issued.url,
        link_text=escaped(issued.filename),
        description=f"{kind} of job {job_id} ({format_bytes(issued.size_bytes)}), {until}",
    )
    return done(f"{kind} of job {job_id}: a link artifact, {until}")
