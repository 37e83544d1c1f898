"""The flow `register-outputs`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import IngestPolicy
from flows.common.events import watching_quota
from flows.common.opening import done, open_catalog, reported, run_label, show_table
from tasks.intake import outputs as outputs_of_jobs
from tasks.intake.outputs import RegisterReport
from tasks.stores import open_for_new_files, open_named


@flow(name="register-outputs", flow_run_name="outputs of {job_id}")
@reported
def register_outputs(
    job_id: str, outputs: str, store: str = "main", catalog: str = "main", policy: str = "default"
) -> State[RegisterReport]:
    """Take in what the transcoder made of a video, count it, and mark the job completed.

    All of a job's outputs come in together or not at all. What was transcoded is kept even past the quota, and the
    overrun is reported. It never overwrites an output: other content under a known name is refused. One whose bytes
    were lost gets them back, from a file that is its content.

    Args:
        job_id: The job the outputs belong to.
        outputs: A folder as the worker sees it, laid out like a job (360p/, 720p/, audio/, …), or a prefix under temp/.
        store: Name of the location, which for a store of its own is its block's.
        catalog: Name of the Catalog Database block.
        policy: Name of the Ingest Policy block, for its source roots.
    """
    database = open_catalog(catalog)
    # What a worker left under temp/ is copied inside its bucket; a folder goes where new files go.
    location = open_named(database, store) if outputs.startswith("temp/") else open_for_new_files(database, store)
    with watching_quota(database, job_id=job_id):
        report = outputs_of_jobs.register_outputs(
            database, location, load_block(IngestPolicy, policy), job_id=job_id, outputs=outputs, run=run_label()
        )
    show_table(
        "register-outputs",
        [{"output": name, "result": "registered"} for name in report.registered]
        + [{"output": name, "result": "healed: its bytes were lost"} for name in report.healed]
        + [{"output": name, "result": "was there"} for name in report.already_there]
        + [{"output": name, "result": "skipped: no output of the platform"} for name in report.skipped],
        report.summary(),
    )
    return done(report.summary(), report)
