"""Events of our own, which alarms listen to and the UI's feed shows: what happened, to which catalog or customer."""

from __future__ import annotations

from collections.abc import Iterator
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
VERIFIED, SMALL, FAILED = "backup.verified", "backup.small", "backup.failed"
DRILL_PASSED, DRILL_FAILED = "drill.passed", "drill.failed"
QUOTA_NEARLY_FULL, QUOTA_FULL = "quota.nearly-full", "quota.full"
DRIFT, CORRUPT = "drift.found", "object.unsound"
APPROVAL = "approval.wanted"
RAN_NIGHTLY, RAN_WEEKLY = "schedule.nightly", "schedule.weekly"

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


def tell_schedule() -> None:
    """A run that a schedule started came to a result, be it a refusal: the schedule is kept."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not context.flow_run.auto_scheduled:
        return
    event = RAN_WEEKLY if "weekly" in context.flow_run.tags else RAN_NIGHTLY
    tell(event, context.flow.name if context.flow else "", of="flow")


def _customer(catalog: CatalogDatabase, api_key: str, job_id: str) -> Customer | None:
    def find(connection: Connection) -> Customer:
        key = api_key or str(find_job(connection, check_job_id(job_id)).api_key_id)
        return find_customer(connection, key)

    try:
        return catalog.transaction(find)
    except StorageError:
        return None
