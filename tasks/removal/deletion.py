"""Deleting jobs: into the trash, out of it, or for a legal erasure at once and for good; and holds, which forbid it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.customers import find_customer
from blocks.catalog.locations import list_places
from blocks.catalog.log import Unnamed
from blocks.catalog.objects import Extent
from blocks.catalog.selection import MOST_JOBS, NOWHERE, JobFilter, SelectedJob, other_keys, select_jobs
from blocks.catalog.snapshots import backup_is_running
from blocks.catalog.tables import JobStatus
from blocks.catalog.trash import (
    Changed,
    claim_trashed,
    erase_jobs,
    hold_jobs,
    request_erasure,
    trash_jobs,
    undelete_jobs,
)
from blocks.errors import InvalidInputError, LockLostError, NotFoundError, RefusedError, StorageError
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.policies import RetentionPolicy
from blocks.units import parse_bytes, shown
from tasks.checks import check_age_days, check_job_id, check_reason
from tasks.layout import OBJECTS
from tasks.plans import Item, Outcome, Plan, Report
from tasks.removal.purging import purge_released
from tasks.removal.unnamed import remove_unnamed
from tasks.stores import OpenLocation, require_own
from tasks.sweeping import Sweep, customers_batches, job_outcomes


@dataclass(frozen=True)
class Wanted:
    """Jobs as an operator names them: by id, or by a filter; both together must both be true."""

    job_ids: tuple[str, ...] = ()
    api_key: str = ""
    status: str = ""
    older_than_days: int | None = None
    larger_than: str = ""

    @property
    def scope(self) -> str:
        """The same text for the same wish: a newer plan of it overtakes an older request."""
        ids = ",".join(sorted(self.job_ids))
        older = "" if self.older_than_days is None else self.older_than_days
        return f"{ids} {self.api_key} {self.status} {older} {self.larger_than}".strip()


def select(catalog: CatalogDatabase, wanted: Wanted, *, trashed: bool | None = None) -> list[SelectedJob]:
    """The jobs that are meant.

    Raises:
        InvalidInputError: nothing was asked for, or a value is none.
        NotFoundError: no such key, or no such job.
    """
    if not any((wanted.job_ids, wanted.api_key, wanted.status, wanted.older_than_days is not None, wanted.larger_than)):
        raise InvalidInputError("nothing is asked for: give job_ids, or a filter such as api_key")
    if wanted.status and wanted.status not in set(JobStatus):
        raise InvalidInputError(f"{shown(wanted.status)} is no status of a job; there are: {', '.join(JobStatus)}")
    check_age_days(wanted.older_than_days)
    ids = tuple(dict.fromkeys(check_job_id(one) for one in wanted.job_ids)) or None
    at_least = parse_bytes(wanted.larger_than) if wanted.larger_than else None

    def read(connection: Connection) -> list[SelectedJob]:
        customer = find_customer(connection, wanted.api_key) if wanted.api_key else None
        older = wanted.older_than_days
        return select_jobs(
            connection,
            JobFilter(
                job_ids=ids,
                customer_id=customer.id if customer else None,
                status=wanted.status or None,
                created_before=catalog_now(connection) - timedelta(days=older) if older is not None else None,
                at_least_bytes=at_least,
                trashed=trashed if ids is None else None,
            ),
        )

    found = catalog.transaction(read)
    if ids is not None and not found:
        raise NotFoundError(f"no job {ids[0]}" + (f" (nor {len(ids) - 1} others)" if len(ids) > 1 else ""))
    return found


def plan_deletion(jobs: Sequence[SelectedJob], *, asked: Sequence[str] = (), purge_now: bool = False) -> Plan:
    """A job each: to the trash, or erased; what is on hold or deleted already is left alone. Pure."""
    items: list[Item] = []
    skipped: list[Item] = []
    action, rule = ("erase job", "purge_now") if purge_now else ("trash job", "delete")
    for job in jobs:
        because = f"{job.status}, of {job.created_at:%Y-%m-%d}"
        item = Item(
            action, rule, str(job.id), because, job.customer, job.objects, job.stored_bytes, owner=job.customer_id
        )
        if job.hold is not None:
            skipped.append(_because(item, f"on hold: {job.hold}"))
        elif job.status == "cleaned_up" and not purge_now:
            skipped.append(_because(item, "cleaned up already"))
        elif job.deleted_at is not None and not purge_now:
            skipped.append(_because(item, f"in the trash since {job.deleted_at:%Y-%m-%d %H:%M}"))
        else:
            items.append(item)
    found = {str(job.id) for job in jobs}
    skipped += [
        Item(action, rule, one, "no such job, or the filter does not match it")
        for one in dict.fromkeys(str(check_job_id(one)) for one in asked)
        if one not in found
    ]
    if len(jobs) == MOST_JOBS:
        skipped.append(Item(action, rule, "more jobs", f"one run takes {MOST_JOBS}; run it again for the rest"))
    return Plan("delete-jobs", tuple(items), tuple(skipped), exact=purge_now)


def plan_undelete(jobs: Sequence[SelectedJob], *, asked: Sequence[str] = ()) -> Plan:
    """A job each; whether it fits into the quota is known when it is done. Pure."""
    items, skipped = [], []
    for job in jobs:
        item = Item(
            "undelete job", "undelete", str(job.id), "", job.customer, job.objects, job.stored_bytes,
            owner=job.customer_id,
        )  # fmt: skip
        if job.deleted_at is None:
            skipped.append(_because(item, "not in the trash"))
        elif job.status == "cleaned_up":
            skipped.append(_because(item, "its files are removed already; nothing can bring them back but a backup"))
        else:
            items.append(_because(item, f"deleted {job.deleted_at:%Y-%m-%d %H:%M}"))
    found = {str(job.id) for job in jobs}
    asked_ids = dict.fromkeys(str(check_job_id(one)) for one in asked)
    skipped += [Item("undelete job", "undelete", one, "no such job") for one in asked_ids if one not in found]
    if len(jobs) == MOST_JOBS:
        skipped.append(
            Item("undelete job", "undelete", "more jobs", f"one run takes {MOST_JOBS}; run it again for the rest")
        )
    return Plan("undelete-jobs", tuple(items), tuple(skipped))


def apply_deletion(sweep: Sweep, policy: RetentionPolicy, plan: Plan) -> Report:
    """Move jobs to the trash, quota and URLs at once; nothing is removed from any store."""

    def trash(connection: Connection, owner: int, ids: Sequence[UUID]) -> Changed:
        keep = timedelta(days=policy.trash_days)
        return trash_jobs(connection, owner, ids, keep=keep, run=sweep.run, rule="delete")

    outcomes: list[Outcome] = []
    for items in customers_batches(plan.items):
        changed = _change(sweep, items, trash)
        outcomes += changed
        sweep.progress(len(items))
    kept = f"kept for {policy.trash_days} days; undelete-jobs brings them back"
    return Report("delete-jobs", tuple(outcomes), (kept,) if outcomes else ())


def apply_undelete(sweep: Sweep, plan: Plan) -> Report:
    """Bring jobs back, each that fits into its customer's quota."""
    outcomes: list[Outcome] = []
    for items in customers_batches(plan.items):
        outcomes += _change(
            sweep, items, lambda connection, owner, ids: undelete_jobs(connection, owner, ids, run=sweep.run)
        )
        sweep.progress(len(items))
    return Report("undelete-jobs", tuple(outcomes))


def require_all_places(sweep: Sweep) -> None:
    """Refuse an erasure that could leave something.

    Raises:
        RefusedError: some declared store is not open, and could keep something.
    """
    opened = {place for location in sweep.reached for place in location.place.shelf}
    if missing := {place.name for place in sweep.catalog.transaction(list_places) if place.id not in opened}:
        raise RefusedError(
            f"an erasure looks into every declared store, and {', '.join(sorted(missing))} is not open: leave stores "
            "empty, and see that each of them answers"
        )


def apply_erasure(sweep: Sweep, plan: Plan) -> Report:
    """Remove jobs at once: objects, exports, forms and rows. Only the log remembers that they were.

    Raises:
        RefusedError: some declared store is not open, and could keep something.
    """
    require_all_places(sweep)
    outcomes: list[Outcome] = []
    # What was approved, all of it, before anything goes: killed anywhere, the next cleanup finishes it unasked.
    for items in customers_batches(plan.items):
        owner, ids = items[0].owner, [UUID(item.subject) for item in items]
        sweep.catalog.transaction(lambda connection, owner=owner, ids=ids: request_erasure(connection, owner, ids))  # type: ignore[misc]  # bound here
    for items in customers_batches(plan.items):
        try:
            outcomes += _erase(sweep, items)
        except LockLostError:
            raise
        except StorageError as error:
            outcomes += [Outcome(item, "failed", str(error)) for item in items]
        sweep.progress(len(items))
    return Report("delete-jobs", tuple(outcomes), ("erased for good",) if outcomes else ())


def _erase(sweep: Sweep, items: Sequence[Item]) -> list[Outcome]:
    owner, ids = items[0].owner, [UUID(item.subject) for item in items]

    def claim(connection: Connection) -> Changed:
        trash_jobs(connection, owner, ids, keep=timedelta(0), run=sweep.run, rule="purge_now")
        return claim_trashed(connection, owner, ids, due_at=None, run=sweep.run, rule="purge_now")

    claimed = sweep.catalog.transaction(claim)
    if sweep.catalog.transaction(backup_is_running):
        # It is asked for by now, so that the next cleanup finishes it.
        return [Outcome(item, "failed", "a backup is being made, which reads metadata: run it again") for item in items]
    held = {one: why for one, why in claimed.skipped.items() if why.startswith("on hold")}
    going = [one for one in ids if one not in held]
    exports = sweep.catalog.transaction(lambda connection: other_keys(connection, going))
    freed: dict[UUID, Extent] = {}
    failed: dict[str, str] = {}
    for location in sweep.locations:
        sweep.before_batch()
        require_own(sweep.catalog, location)
        purged = purge_released(sweep.catalog, location, going, run=sweep.run)
        failed |= purged.failed | _remove_all(sweep, location, going, exports)
        for job_id, extent in purged.deleted.items():
            freed[job_id] = freed.get(job_id, Extent()) + extent
    left = _jobs_of(failed, going)
    rid = [one for one in going if one not in left]
    gone = sweep.catalog.transaction(lambda connection: erase_jobs(connection, owner, rid, run=sweep.run))
    outcomes = []
    for item in items:
        job_id = UUID(item.subject)
        extent = freed.get(job_id, Extent())
        if job_id in held:
            outcomes.append(Outcome(item, "skipped", held[job_id]))
        elif job_id in gone:
            outcomes.append(Outcome(item, "done", "", extent.objects, extent.stored_bytes))
        else:
            # Its own key, if one of those failed.
            keys = sorted(failed, key=lambda key: str(job_id) not in key)
            why = f"{keys[0]}: {failed[keys[0]]}" if keys else "objects of it are there still, or it is on hold by now"
            outcomes.append(Outcome(item, "failed", why, extent.objects, extent.stored_bytes))
    return outcomes


def _jobs_of(failed: Iterable[str], job_ids: Sequence[UUID]) -> set[UUID]:
    """Whose keys could not be removed: all of the jobs' where one does not tell, such as that of an export."""
    named = {str(one): one for one in job_ids}
    of_key = [{job_id for name, job_id in named.items() if name in key} for key in failed]
    return set(job_ids) if not all(of_key) else set().union(*of_key)


def _remove_all(
    sweep: Sweep, location: OpenLocation, job_ids: Sequence[UUID], others: dict[int, list[str]]
) -> dict[str, str]:
    """Whatever lies below the jobs' folders, rows or none: orphans, old bytes, half uploads; and their exports."""
    # An export whose place is not known is looked for in every store: its key is random.
    sizes = {key: 0 for place in (*location.place.shelf, NOWHERE) for key in others.get(place, [])}
    folders = [f"{root}/{job_id}" for job_id in job_ids for root in JOB_FOLDERS]
    for folder in folders:
        sizes |= {listed.key: listed.size_bytes for listed in list_prefix(location.store, folder)}
    removed = [Unnamed(key, "purge_now", size) for key, size in sizes.items()]
    failed = remove_unnamed(sweep.catalog, location.store, removed, operation="expire", run=sweep.run)
    begun = tuple(f"{folder}/" for folder in folders)
    for upload in list_multipart_uploads(location.store) if location.capabilities.lists_uploads else ():
        if upload.key.startswith(begun):
            abort_multipart_upload(location.store, upload.key, upload.upload_id)
    return failed


JOB_FOLDERS = (*OBJECTS, "failed", "exports/hls")


@dataclass(frozen=True)
class HoldReport:
    """Jobs that are on hold now, or no more, with what it was before; unknown ids; and those that came too late."""

    held: dict[str, str]
    unknown: tuple[str, ...]
    reason: str | None
    too_late: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for a person."""
        what = f"on hold ({self.reason})" if self.reason else "released"
        if self.too_late:
            what += f"; too late for {len(self.too_late)}, whose files were given up before: {self.too_late[0]}"
        unknown = f"; {len(self.unknown)} unknown: {self.unknown[0]}" if self.unknown else ""
        return f"{len(self.held)} jobs {what}{unknown}"


def hold(
    catalog: CatalogDatabase, *, job_ids: Sequence[str], reason: str, release: bool = False, run: str = ""
) -> HoldReport:
    """Keep jobs from being trashed, purged and moved, or release them.

    Raises:
        InvalidInputError: no job is named, an id is none, or a hold without a reason.
        NotFoundError: none of the jobs exists.
    """
    ids = list(dict.fromkeys(check_job_id(one) for one in job_ids))
    if not ids:
        raise InvalidInputError("no job is named")
    text = None if release else check_reason(reason)
    found = catalog.transaction(lambda connection: hold_jobs(connection, ids, reason=text, run=run))
    if not found:
        raise NotFoundError(f"no job {ids[0]}" + (f" (nor {len(ids) - 1} others)" if len(ids) > 1 else ""))
    unknown = tuple(str(one) for one in ids if one not in found)
    late = tuple(str(one) for one, held in found.items() if text and held.too_late)
    return HoldReport({str(one): held.before for one, held in found.items()}, unknown, text, late)


def _change(
    sweep: Sweep, items: Sequence[Item], work: Callable[[Connection, int, Sequence[UUID]], Changed]
) -> list[Outcome]:
    owner, ids = items[0].owner, [UUID(item.subject) for item in items]
    try:
        changed = sweep.catalog.transaction(lambda connection: work(connection, owner, ids))
    except StorageError as error:
        return [Outcome(item, "failed", str(error)) for item in items]
    outcomes = job_outcomes(items, changed)
    return [
        Outcome(one.item, one.result, one.error, changed.done[UUID(one.item.subject)].objects,
                changed.done[UUID(one.item.subject)].stored_bytes)
        if one.result == "done" else one
        for one in outcomes
    ]  # fmt: skip


def _because(item: Item, why: str) -> Item:
    return replace(item, because=why)
