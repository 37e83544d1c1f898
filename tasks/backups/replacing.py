"""What a restore would take away: jobs that are newer than the backup; and what was erased since, and comes back."""

from __future__ import annotations

from blocks.catalog import CatalogDatabase
from blocks.catalog.restored import NewerJob, erased_since, newer_jobs
from tasks.backups.manifest import Manifest
from tasks.plans import Item, Plan

SHOWN_JOBS = 500


def plan_replacement(catalog: CatalogDatabase | None, manifest: Manifest, beside: str) -> Plan:
    """The cut-over as a plan: its objects and bytes are those that the catalog will not know any more.

    Without a catalog (None) nothing is lost.
    """
    cut = Item(
        "cut over", "restore", beside, f"backup {manifest.id}, from {manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if catalog is None:
        # Only its log told what was erased.
        unknown = Item(
            "erase again", "erased since", "unknown jobs",
            "the catalog is gone that knew them: run delete-jobs purge_now for all that were asked for since",
        )  # fmt: skip
        return Plan("restore", (cut,), (unknown,))
    since = manifest.snapshot_at
    jobs, count, objects, size = catalog.transaction(lambda connection: newer_jobs(connection, since, SHOWN_JOBS))
    erased = catalog.transaction(lambda connection: erased_since(connection, since))
    shown = [_newer(one) for one in jobs]
    rest_objects = max(0, objects - sum(one.objects for one in shown))
    rest_bytes = max(0, size - sum(one.size_bytes for one in shown))
    more = []
    if rest_objects or count > len(jobs):
        because = f"{count - len(jobs)} more jobs, and objects that older jobs got since"
        more = [Item("forget", "newer than the backup", "others", because, objects=rest_objects, size_bytes=rest_bytes)]
    again = [
        Item(
            "erase again", "erased since", str(job_id), "its rows come back with the backup: run delete-jobs purge_now"
        )
        for job_id in erased
    ]
    return Plan("restore", (cut, *again, *shown, *more))


def _newer(job: NewerJob) -> Item:
    return Item(
        "forget", "newer than the backup", str(job.id), f"made at {job.created_at:%Y-%m-%d %H:%M:%S} UTC", job.customer,
        job.objects, job.size_bytes,
    )  # fmt: skip
