"""The flow `refresh-analytics`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.customers import find_customer
from blocks.catalog.locations import inbox_name
from blocks.loading import load_block
from blocks.policies import AccessPolicy, TierPolicy
from flows.common.batches import progress_of
from flows.common.events import quota_level, tell_quota
from flows.common.opening import (
    done,
    escaped,
    open_catalog,
    reported,
    run_label,
    show_table,
    storage_timezone,
)  # fmt: skip
from reports.exporting import export
from reports.figures import Figures, read_figures
from reports.words import tiles
from tasks.analytics.snapshot import Refreshed, check_day, check_zone, refresh
from tasks.publishing import Published, ends_at, publish
from tasks.scratch import scratch_folder
from tasks.stores import OpenLocation, open_for_new_files


def _run_name() -> str:
    given = flow_run.parameters
    keys = ", ".join(given.get("keys") or [])
    return f"analytics of {given.get('date') or 'today'}" + (f", reports for {keys}" if keys else "")


@flow(name="refresh-analytics", flow_run_name=_run_name, persist_result=True, result_serializer="json")
@reported
def refresh_analytics(
    date: str = "",
    keys: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    store: str = "main",
    catalog: str = "main",
    policy: str = "default",
    access: str = "default",
) -> State[None]:
    """Write the day's figures to the schema analytics, and make a report of them: a page, CSV and Parquet.

    All figures are of one moment and written in one transaction; a second run of a day writes the same again, and a
    reader never sees half. The report goes to reports/ in the bucket and is shown as link artifacts that say when they
    end. It runs daily. It never changes what it counts; of a past day it writes what was done on it, and no
    report, since what was stored then cannot be read any more.

    Args:
        date: Day to write, such as 2026-05-01; today in the storage time zone unless given.
        keys: Labels or ids of customers who get a report of their own, beside the one of all.
        store: Name of the location whose bucket takes the reports; empty to write figures only.
        catalog: Name of the Catalog Database block.
        policy: Name of the Tier Policy block, for its prices.
        access: Name of the Access Policy block, which says how long links to reports last.
    """
    database = open_catalog(catalog)
    zone, day = check_zone(storage_timezone()), check_day(date)
    customers = [_label(database, key) for key in dict.fromkeys(keys)]
    if store:
        database.transaction(lambda connection: inbox_name(connection, store))  # figures do not wait for a bucket
    lasts = timedelta(hours=load_block(AccessPolicy, access).export_hours)
    written = refresh(database, load_block(TierPolicy, policy), day=day, zone=zone, run=run_label())
    get_run_logger().info(written.summary())
    _tell_quotas(database, written)
    location = open_for_new_files(database, store) if store and written.whole else None
    # A past day's report lies there already, and its lists of jobs may be gone by now.
    scopes = ["", *customers] if location is not None else []
    if location is not None and scopes:
        with progress_of("refresh-analytics", f"Reports of {written.day}", len(scopes)) as progress:
            for customer in scopes:
                figures = read_figures(database, customer=customer, day=written.day)
                _show(database, figures, _report(database, location, figures, lasts), lasts)
                progress(1)
    return done(f"{written.summary()}; {len(scopes)} reports", None)


def _label(database: CatalogDatabase, key: str) -> str:
    return database.transaction(lambda connection: find_customer(connection, key)).label


def _report(
    database: CatalogDatabase, location: OpenLocation, figures: Figures, lasts: timedelta
) -> Sequence[Published]:
    # A key holds no name that somebody gave.
    scope = f"customers/{figures.customer_id}" if figures.customer else "all"
    with scratch_folder("report") as folder:
        files = export(figures, folder, links=False)
        return publish(database, location, files, day=figures.day, scope=scope, lasts=lasts)


def _show(database: CatalogDatabase, figures: Figures, files: Sequence[Published], lasts: timedelta) -> None:
    # By the id: labels may differ in what an artifact's key cannot hold.
    key = f"report-customer-{figures.customer_id}" if figures.customer else "report"
    until = ends_at(database.transaction(catalog_now), lasts)
    page, *others = files
    create_link_artifact(
        key=key, link=page.url, link_text=f"report of {figures.scope}, {figures.day}",
        description=f"The link ends {until}; the page stays as {page.key}.",
    )  # fmt: skip
    links = "\n".join(f"- [{one.name}]({one.url}), `{one.key}`" for one in others)
    create_markdown_artifact(
        f"The figures of {escaped(figures.scope)} on {figures.day}; the links end {until}.\n\n{links}",
        key=f"{key}-files", description="The same figures as CSV and Parquet.",
    )  # fmt: skip
    if not figures.customer:
        rows = [{"figure": one.label, "value": one.value, "note": one.note} for one in tiles(figures)]
        show_table("refresh-analytics", rows, f"The figures of {figures.day}, as of {figures.taken_at:%H:%M} UTC.")


def _tell_quotas(database: CatalogDatabase, written: Refreshed) -> None:
    """Once a day, who is past 80 or 100 % of a quota."""
    for label in written.pressed:
        customer = database.transaction(lambda connection, label=label: find_customer(connection, label))  # type: ignore[misc]  # bound here
        if level := quota_level(customer):
            tell_quota(customer, level)
