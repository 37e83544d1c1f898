"""The flow `issue-upload-url`."""

from __future__ import annotations

import shlex

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import AccessPolicy, IngestPolicy
from flows.common.events import watching_quota
from flows.common.opening import done, markdown_rows, open_catalog, reported
from tasks.intake import uploads
from tasks.intake.uploads import IssuedUpload
from tasks.stores import open_for_new_files


@flow(name="issue-upload-url", flow_run_name="upload for {api_key}")
@reported
def issue_upload_url(
    api_key: str,
    filename: str,
    size_bytes: int,
    job_id: str | None = None,
    expires_in: int | None = None,
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
) -> State[None]:
    """Reserve quota and make a presigned form that takes exactly one file of exactly this size.

    The form is shown as an artifact with a command that uses it, and is in no log and no result. What arrives waits
    under temp/ until `complete-upload` looks at it; without that it is removed after a day.

    Args:
        api_key: Label or id of the customer.
        filename: Name of the file that will be uploaded.
        size_bytes: Its exact size in bytes.
        job_id: The job that the file belongs beside, such as a thumbnail; none for a new video.
        expires_in: Seconds until the form ends; the policy's 30 minutes unless given.
        store: Name of the location, which for a store of its own is its block's.
        catalog: Name of the Catalog Database block.
        policy: Name of the Access Policy and Ingest Policy blocks.
    """
    database = open_catalog(catalog)
    # The form holds its bytes from here on: it is here that a customer comes past 80 %.
    with watching_quota(database, api_key=api_key):
        issued = uploads.issue_upload_url(
            database,
            open_for_new_files(database, store),
            load_block(AccessPolicy, policy),
            load_block(IngestPolicy, policy),
            api_key=api_key,
            filename=filename,
            size_bytes=size_bytes,
            job_id=job_id,
            expires_in=expires_in,
        )
    create_markdown_artifact(key="upload-form", markdown=_form(issued), description=f"Upload form for {api_key}")
    return done(f"upload {issued.upload_id}: a form artifact, until {issued.expires_at:%Y-%m-%d %H:%M:%S} UTC")


def _form(issued: IssuedUpload) -> str:
    fields = " ".join(f"-F {shlex.quote(f'{name}={value}')}" for name, value in issued.form.fields.items())
    rows = markdown_rows(
        [
            ("upload id", issued.upload_id),
            ("size", f"{issued.size_bytes} bytes, exactly"),
            ("until", f"{issued.expires_at:%Y-%m-%d %H:%M:%S} UTC"),
        ],
        head=("of the form", "value"),
    )
    return (
        f"{rows}\n\n```\ncurl {fields} -F file=@FILE {shlex.quote(issued.form.url)}\n```\n\nThen run `complete-upload`."
    )
