"""The flow `ingest-videos`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed
from pydantic import Field

from blocks.errors import RefusedError, StorageError
from blocks.loading import load_block
from blocks.policies import IngestPolicy
from blocks.units import told
from flows.common.batches import THREADS, progress_of, run_batches
from flows.common.events import watching_quota
from flows.common.opening import open_catalog, reported, run_label, show_table
from tasks.intake import ingest
from tasks.intake import taking_in as intake
from tasks.intake.ingest import IngestReport
from tasks.intake.sources import Source, find_sources
from tasks.intake.taking_in import IngestOutcome
from tasks.stores import open_for_new_files

SHOWN_OUTCOMES = 500
"""Rows in the table artifact; the failures come first."""


_OPENLY = r"^[^:/?#]*://([^/?#]*@|[^/?#\[]*:[0-9]*[^0-9/?#].*@)"
NO_PASSWORD: Any = Field(json_schema_extra={"not": {"pattern": _OPENLY}})
"""Prefect's server holds parameters against it before it keeps them, where everybody could read the password."""


@flow(
    name="ingest-videos",
    flow_run_name="ingest for {api_key}",
    task_runner=THREADS,
)
@reported
def ingest_videos(
    api_key: str,
    sources: list[Annotated[str, NO_PASSWORD]] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    expected_sha256: dict[str, str] = {},  # noqa: B006 -- as above
    manifest: str = "",
    reprocess: bool = False,
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
) -> State[IngestReport]:
    """Take in videos for a customer: hashed, deduplicated, within the quota, verified, each as one job.

    A video that the customer has already sends 0 bytes and gives the existing job back; one whose stored bytes are
    missing is healed. Bad sources are refused one by one with their reason, and the good ones go through. It never
    changes or removes a source, and never takes in a byte beyond the quota.

    Args:
        api_key: Label or id of the customer.
        sources: Files, folders and URLs, as the worker sees them; files below the policy's source roots only. Whoever
            sees the run reads them: URLs with a signature or a token in them belong into a manifest.
        expected_sha256: SHA-256 that a source must have, by the source or by its file name.
        manifest: A .csv, .json or .jsonl file of many sources, with the fields source, filename and sha256.
        reprocess: Make a new job even for a video that is known.
        store: Name of the location, which for a store of its own is its block's.
        catalog: Name of the Catalog Database block.
        policy: Name of the Ingest Policy block.
    """
    started = time.monotonic()
    database = open_catalog(catalog)
    rules = load_block(IngestPolicy, policy)
    open_for_new_files(database, store)
    customer = ingest.find_enabled(database, api_key)
    found, refused = find_sources(sources, rules, expected_sha256=expected_sha256, manifest=manifest)
    batches = ingest.plan_batches(found, files=rules.batch_files, size_bytes=ingest.BATCH_BYTES)
    with watching_quota(database, api_key=customer.label):
        outcomes = _run_batches(batches, rules.parallel_batches, customer.label, reprocess, store, catalog, policy)
        outcomes = intake.settle_twins(database, customer, outcomes)
    report = ingest.make_report(customer.label, outcomes, refused, seconds=time.monotonic() - started)
    return _finish(report)


@task(name="ingest-batch", task_run_name="batch {number}", retries=0)
def ingest_batch(
    batch: Sequence[Source], number: int, api_key: str, reprocess: bool, store: str, catalog: str, policy: str, run: str
) -> list[IngestOutcome]:
    """Take in batch `number` of a run; takes names of blocks, so that it can run on another machine."""
    get_run_logger().debug("batch %s: %s sources", number, len(batch))
    database = open_catalog(catalog)
    return ingest.ingest_batch(
        database,
        open_for_new_files(database, store),
        load_block(IngestPolicy, policy),
        ingest.find_enabled(database, api_key),
        batch,
        reprocess=reprocess,
        run=run,
    )


def _run_batches(
    batches: Sequence[Sequence[Source]],
    at_once: int,
    api_key: str,
    reprocess: bool,
    store: str,
    catalog: str,
    policy: str,
) -> list[IngestOutcome]:
    run = run_label()

    def submit(number: int) -> PrefectFuture[list[IngestOutcome]]:
        return ingest_batch.submit(batches[number], number + 1, api_key, reprocess, store, catalog, policy, run)

    def failed(number: int, error: StorageError) -> list[IngestOutcome]:
        return [IngestOutcome(told(one.where), "failed", one.filename, error=str(error)) for one in batches[number]]

    with progress_of("ingest", f"Ingest for {api_key}", len(batches)) as progress:
        done = run_batches(submit, len(batches), at_once=at_once, progress=progress, failed=failed)
    return [outcome for batch in done for outcome in batch]


def _finish(report: IngestReport) -> State[IngestReport]:
    ordered = sorted(report.outcomes, key=lambda outcome: outcome.succeeded)
    show_table(
        "ingest-videos",
        [
            {
                "source": o.source,
                "result": o.result,
                "error": o.error,
                "job": o.job_id,
                "status": o.job_status,
                "bytes": o.size_bytes,
                "sent": o.sent_bytes,
            }
            for o in ordered[:SHOWN_OUTCOMES]
        ],
        report.summary(),
    )
    get_run_logger().info(report.summary())
    if len(report.unsuccessful) == len(report.outcomes):
        raise RefusedError(
            f"none of {len(report.outcomes)} sources was taken in; the first: {report.outcomes[0].error}"
        )
    name = "Completed" if not report.unsuccessful else "Partial"
    return Completed(name=name, message=report.summary(), data=report)
