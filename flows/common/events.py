"""Events of our own, which alarms listen to and the UI's feed shows: what happened, to which catalog or customer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from prefect.context import FlowRunContext
from prefect.events import emit_event
from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.customers import FULL_PERCENT, NEARLY_FULL_PERCENT, Customer, find_customer
from blocks.catalog.jobs import find_job
from blocks.errors import StorageError
from blocks.units import format_bytes
from tasks.checks import check_job_id

EVENTS = "transcode-flow"
BACKUP_VERIFIED, BACKUP_SMALL, BACKUP_FAILED = "backup.verified", "backup.small", "backup.failed"
DRILL_PASSED, DRILL_FAILED = "drill.passed", "drill.failed"
RESTORED = "restore.finished"
QUOTA_NEARLY_FULL, QUOTA_FULL = "quota.nearly-full", "quota.full"
DRIFT, UNSOUND = "drift.found", "object.unsound"
APPROVAL = "approval.wanted"
RAN_NIGHTLY, RAN_WEEKLY, RUN_FAILED = "schedule.nightly", "schedule.weekly", "schedule.failed"

Subject = Literal["catalog", "customer", "flow"]


def tell(event: str, name: str, *, of: Subject = "catalog", **facts: object) -> None:
    """Send an event; its resource is a catalog, a customer or a flow of this name."""
    emit_event(
        event=f"{EVENTS}.{event}",
        resource={"prefect.resource.id": f"{EVENTS}.{of}.{name}", "prefect.resource.name": name},
        payload={fact: str(value) for fact, value in facts.items()},
    )


@contextmanager
def watching_quota(catalog: CatalogDatabase, *, api_key: str = "", job_id: str = "") -> Iterator[None]:
    """Tell when a customer has come past 80 or 100 % of its quota meanwhile; once, and not at every run after.

    It is named by its key, or by one of its jobs. Who does not exist is not watched: the work itself says so.
    """
    before = _customer(catalog, api_key, job_id)
    yield
    after = _customer(catalog, before.label, "") if before else None
    if before and after and (level := quota_level(after)) > quota_level(before):
        tell_quota(after, level)


def quota_level(customer: Customer) -> int:
    """0, 80 or 100: the highest of these that used and reserved bytes have reached, in percent of the quota."""
    taken = customer.used_bytes + customer.reserved_bytes
    if customer.quota_bytes is None or not taken:
        return 0
    return max((level for level in (0, NEARLY_FULL_PERCENT, FULL_PERCENT)
                if taken * 100 >= level * customer.quota_bytes), default=0)  # fmt: skip


def tell_quota(customer: Customer, level: int) -> None:
    """The event of a level, with what is free."""
    tell(
        QUOTA_FULL if level >= FULL_PERCENT else QUOTA_NEARLY_FULL, customer.label, of="customer",
        used=format_bytes(customer.used_bytes), quota=format_bytes(customer.quota_bytes),
        free=format_bytes(customer.free_bytes),
    )  # fmt: skip


@contextmanager
def watching_schedule() -> Iterator[Callable[[str], None]]:
    """Tell of a run that a schedule started: that it began, and why it failed, as what is yielded is told or raised.

    That it began is enough for a schedule to be kept: one that waits for approval does not end in that night.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if context is None or run is None or not run.auto_scheduled:
        yield lambda because: None
        return
    flow = context.flow.name if context.flow else ""
    tell(RAN_WEEKLY if "weekly" in run.tags else RAN_NIGHTLY, flow, of="flow")

    def failed(because: str) -> None:
        tell(RUN_FAILED, flow, of="flow", run=run.name, because=because)

    try:
        yield failed
    except Exception as error:
        # Not what it says: nobody knows what a library puts there.
        failed(f"{type(error).__name__}; the run's log says more")
        raise


def _customer(catalog: CatalogDatabase, api_key: str, job_id: str) -> Customer | None:
    def find(connection: Connection) -> Customer:
        key = api_key or str(find_job(connection, check_job_id(job_id)).api_key_id)
        return find_customer(connection, key)

    try:
        return catalog.transaction(find)
    except StorageError:
        return None
