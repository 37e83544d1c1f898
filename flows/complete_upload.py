"""The flow `complete-upload`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.errors import RefusedError
from blocks.loading import load_block
from blocks.policies import IngestPolicy
from flows.common.events import watching_quota
from flows.common.opening import done, open_catalog, open_locations, reported, run_label, show_table
from tasks.intake import uploads
from tasks.intake.taking_in import IngestOutcome


@flow(name="complete-upload", flow_run_name="complete {upload_id}")
@reported
def complete_upload(
    api_key: str,
    upload_id: str,
    expected_sha256: str | None = None,
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
) -> State[IngestOutcome]:
    """Take in what arrived through an upload form: copied to a key no form can write, hashed there, deduplicated.

    Asked again it names the same job, as a duplicate, and the form posted again later changes nothing.

    Args:
        api_key: Label or id of the customer who was given the form.
        upload_id: The upload's id, from issue-upload-url.
        expected_sha256: SHA-256 the file must have; other content is refused and ends the upload.
        store: Name of the location, which for a store of its own is its block's.
        catalog: Name of the Catalog Database block.
        policy: Name of the Ingest Policy block.
    """
    database = open_catalog(catalog)
    with watching_quota(database, api_key=api_key):
        outcome = uploads.complete_upload(
            database,
            open_locations(database, store),
            load_block(IngestPolicy, policy),
            api_key=api_key,
            upload_id=upload_id,
            expected_sha256=expected_sha256,
            run=run_label(),
        )
    show_table(
        "complete-upload",
        [{"upload": upload_id, "result": outcome.result, "job": outcome.job_id, "bytes": outcome.size_bytes}],
        f"{outcome.result}: {outcome.filename}",
    )
    if not outcome.succeeded:
        raise RefusedError(outcome.error)
    return done(f"upload {upload_id}: {outcome.result}, job {outcome.job_id}", outcome)
