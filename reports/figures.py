"""The figures of one day, for all customers or for one, as frames: what the page and the files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase, analytics
from blocks.catalog.analytics import WIDER, Definition, Snapshot
from blocks.catalog.customers import find_customer
from blocks.errors import NotFoundError

if TYPE_CHECKING:
    import pandas as pd

HISTORY_DAYS = 365
RECENT_DAYS = 30
"""Days of operations that a report lists."""
OF_CUSTOMERS = ("customers", "usage", "savings", "ages")
MOST_JOBS = 25
"""Jobs in each list of a report."""
OF_THE_PLATFORM = ("findings", "backups")
"""Tables that are nobody's: no customer's report has them."""


@dataclass(frozen=True)
class Figures(Snapshot):
    """Everything a report tells.

    `tables` are those of the schema `analytics` as they are on `day`, `operations` of the last 30 days; `daily` has a
    row for each day and tier, `saved_daily` one for each day and source, up to a year back; `days` are all that there
    are figures of. `customer` is empty where the report is of all.
    """

    customer: str
    customer_id: int | None
    tables: Mapping[str, pd.DataFrame]
    daily: pd.DataFrame
    saved_daily: pd.DataFrame
    days: tuple[date, ...]
    definitions: Mapping[str, tuple[str, tuple[Definition, ...]]]

    @property
    def scope(self) -> str:
        """Whose figures these are, for a title."""
        return self.customer or "all customers"


def read_figures(catalog: CatalogDatabase, *, customer: str = "", day: date | None = None) -> Figures:
    """The figures of the newest day, or of another one; `customer` is a label or an id.

    Raises:
        NotFoundError: nothing was written yet, or not of that day, or there is no such key.
    """
    return catalog.transaction(lambda connection: _read(connection, customer, day))


def _read(connection: Connection, customer: str, day: date | None) -> Figures:
    # A refresh that ends meanwhile is seen in none of these, or in all.
    analytics.begin_reading(connection)
    key = find_customer(connection, customer) if customer else None
    only = key.id if key else None
    found = analytics.find_snapshot(connection, day)
    if found is None:
        when = f"of {day}" if day else "yet"
        raise NotFoundError(f"there are no figures {when}: run the flow refresh-analytics")
    tables = {name: analytics.read_day(connection, name, found.day, only) for name in OF_CUSTOMERS}
    tables["notable_jobs"] = analytics.read_notable_jobs(connection, found.day, only, MOST_JOBS)
    if key is None:
        tables |= {name: analytics.read_day(connection, name, found.day) for name in OF_THE_PLATFORM}
    else:
        own = tables["savings"]
        tables["savings"] = own[own["source"] != WIDER]
    recent, year = (found.day - timedelta(days=back) for back in (RECENT_DAYS, HISTORY_DAYS))
    tables["operations"] = analytics.read_operations(connection, recent, found.day, only)
    return Figures(
        **vars(found),
        customer=key.label if key else "",
        customer_id=only,
        tables=tables,
        daily=analytics.read_usage_by_day(connection, year, found.day, only),
        saved_daily=analytics.read_savings_by_day(connection, year, found.day, only, without=WIDER),
        days=tuple(sorted([*(one for one in analytics.snapshot_days(connection, found.day) if one > year), found.day])),
        definitions=analytics.read_definitions(connection, list(tables)),
    )
