"""What a restore would take away, jobs newer than the backup, and bring back: what was erased or deleted since."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from blocks.catalog.in_use import InUse
from blocks.catalog.restored import NewerJob, deleted_since, erased_since, newer_jobs, newer_keys
from tasks.backups.manifest import Manifest
from tasks.plans import Item, Plan

SHOWN_JOBS = 500


def plan_replacement(in_use: InUse | None, manifest: Manifest, beside: str) -> Plan:
    """The cut-over as a plan: its objects and bytes are those that the catalog will not know any more.

    Without a catalog (None) nothing is lost.

    Raises:
        RefusedError: the catalog cannot be read, and that was not allowed for.
    """
    cut = Item(
        "cut over", "restore", beside, f"backup {manifest.id}, from {manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if in_use is None:
        # Only its log told what was erased.
        unknown = Item(
            "erase again", "erased since", "unknown jobs",
            "the catalog is gone that knew them: run delete-jobs purge_now for all that were asked for since",
        )  # fmt: skip
        return Plan("restore", (cut,), (unknown,))
    since = manifest.snapshot_at
    unknown_newer: tuple[list[NewerJob], int, int, int] = ([], 0, 0, 0)
    jobs, count, objects, size = in_use.ask(lambda connection: newer_jobs(connection, since, SHOWN_JOBS), unknown_newer)
    no_keys: dict[str, datetime] = {}
    keys = in_use.ask(lambda connection: newer_keys(connection, since), no_keys)
    none_known: list[UUID] = []
    none_deleted: dict[UUID, datetime] = {}
    deleted = in_use.ask(lambda connection: deleted_since(connection, since), none_deleted)
    erased = in_use.ask(lambda connection: erased_since(connection, since), none_known)
    unknown = Item(
        "forget", "newer than the backup", "unknown jobs",
        f"the catalog cannot be read ({in_use.unreadable}): there may be more, and holds, erasures and disabled "
        "keys of since, which are carried over as far as they can be read",
    )  # fmt: skip
    forgotten = [
        Item("forget", "newer than the backup", f"key {label}", f"made at {made_at:%Y-%m-%d %H:%M:%S} UTC", label)
        for label, made_at in keys.items()
    ]
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
    back = [
        Item("delete again", "deleted since", str(job_id),
             f"deleted at {at:%Y-%m-%d %H:%M:%S} UTC, it lives again with the backup: run delete-jobs")
        for job_id, at in deleted.items()
    ]  # fmt: skip
    return Plan("restore", (cut, *again, *forgotten, *shown, *more, *back), (unknown,) if in_use.unreadable else ())


def _newer(job: NewerJob) -> Item:
    because = f"made at {job.created_at:%Y-%m-%d %H:%M:%S} UTC" + (f", on hold: {job.hold}" if job.hold else "")
    return Item(
        "forget", "newer than the backup", str(job.id), because, job.customer, job.objects, job.size_bytes,
    )  # fmt: skip
