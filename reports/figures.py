"""The figures of one day, for all customers or for one, as frames: what the page and the files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from blocks.catalog.analytics import begin_reading, read_frame
from blocks.catalog.customers import find_customer
from blocks.errors import NotFoundError

if TYPE_CHECKING:
    import pandas as pd

HISTORY_DAYS = 365
RECENT_DAYS = 30
"""Days of operations that a report lists."""
OF_CUSTOMERS = ("customers", "usage", "savings", "notable_jobs", "ages")
OF_THE_PLATFORM = ("findings", "backups")
"""Tables that are nobody's: no customer's report has them."""
BETWEEN_CUSTOMERS = "wider deduplication"
"""A saving that would tell a customer what another one stores."""


@dataclass(frozen=True)
class Definition:
    """What a column of a table means."""

    column: str
    meaning: str


@dataclass(frozen=True)
class Figures:
    """Everything a report tells.

    `tables` are those of the schema `analytics` as they are on `day`, `operations` of the last 30 days; `daily` has a
    row for each day and tier, `saved_daily` one for each day and source, up to a year back; a day without figures has
    none. `customer` is empty where the report is of all.
    """

    day: date
    taken_at: datetime
    run: str
    time_zone: str
    catalog_id: UUID
    customer: str
    customer_id: int | None
    tables: Mapping[str, pd.DataFrame]
    daily: pd.DataFrame
    saved_daily: pd.DataFrame
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
    begin_reading(connection)
    key = find_customer(connection, customer) if customer else None
    only = key.id if key else None
    note = connection.execute(
        text(
            "SELECT day, taken_at, run, time_zone, catalog_id FROM analytics.snapshots "
            " WHERE CAST(:day AS date) IS NULL OR day = :day ORDER BY day DESC LIMIT 1"
        ),
        {"day": day},
    ).one_or_none()
    if note is None:
        when = f"of {day}" if day else "yet"
        raise NotFoundError(f"there are no figures {when}: run the flow refresh-analytics")
    names = OF_CUSTOMERS if key else (*OF_CUSTOMERS, *OF_THE_PLATFORM)
    tables = {name: _of_day(connection, name, note.day, only) for name in names}
    if key:
        own = tables["savings"]
        tables["savings"] = own[own["source"] != BETWEEN_CUSTOMERS]
    tables["operations"] = _operations(connection, note.day, only)
    return Figures(
        day=note.day,
        taken_at=note.taken_at,
        run=note.run,
        time_zone=note.time_zone,
        catalog_id=note.catalog_id,
        customer=key.label if key else "",
        customer_id=only,
        tables=tables,
        daily=_daily(connection, note.day, only),
        saved_daily=_saved_daily(connection, note.day, only),
        definitions=_definitions(connection, tables),
    )


_OWN = "(CAST(:only AS bigint) IS NULL OR api_key_id = :only)"
_YEAR = f"day > CAST(:day AS date) - {HISTORY_DAYS} AND day <= :day"


def _of_day(connection: Connection, table: str, day: date, only: int | None) -> pd.DataFrame:
    own = f"AND {_OWN}" if table in OF_CUSTOMERS else ""
    return read_frame(
        connection, f"SELECT * FROM analytics.{table} WHERE day = :day {own} ORDER BY 2, 3, 4, 5", day=day, only=only
    ).drop(columns="day")


def _operations(connection: Connection, day: date, only: int | None) -> pd.DataFrame:
    return read_frame(
        connection,
        "SELECT day, operation, rule, sum(runs)::bigint AS runs, sum(jobs)::bigint AS jobs, "
        "       sum(objects)::bigint AS objects, sum(bytes)::bigint AS bytes "
        f" FROM analytics.operations WHERE day > :since AND day <= :day AND {_OWN} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        since=day - timedelta(days=RECENT_DAYS),
        day=day,
        only=only,
    )


def _daily(connection: Connection, day: date, only: int | None) -> pd.DataFrame:
    return read_frame(
        connection,
        "SELECT day, tier, sum(size_bytes)::bigint AS size_bytes, sum(stored_bytes)::bigint AS stored_bytes, "
        "       sum(monthly_cost) AS monthly_cost "
        f" FROM analytics.usage WHERE {_YEAR} AND {_OWN} GROUP BY 1, 2 ORDER BY 1, 2",
        day=day,
        only=only,
    )


def _saved_daily(connection: Connection, day: date, only: int | None) -> pd.DataFrame:
    return read_frame(
        connection,
        "SELECT day, source, sum(saved_bytes)::bigint AS saved_bytes, sum(saved_per_month) AS saved_per_month "
        f" FROM analytics.savings WHERE {_YEAR} AND {_OWN} AND source <> :between GROUP BY 1, 2 ORDER BY 1, 2",
        day=day,
        only=only,
        between=BETWEEN_CUSTOMERS,
    )


def _definitions(
    connection: Connection, tables: Mapping[str, pd.DataFrame]
) -> dict[str, tuple[str, tuple[Definition, ...]]]:
    """What tables and columns mean, as the database itself explains them; columns without a word of it explain themselves."""
    rows = connection.execute(
        text(
            "SELECT c.relname AS name, obj_description(c.oid) AS meaning, a.attname AS column, "
            "       col_description(c.oid, a.attnum) AS explained "
            "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
            " WHERE n.nspname = 'analytics' AND c.relkind = 'r' ORDER BY c.relname, a.attnum"
        )
    ).all()
    found: dict[str, tuple[str, tuple[Definition, ...]]] = {}
    for table in tables:
        mine = [row for row in rows if row.name == table]
        columns = tuple(Definition(row.column, row.explained) for row in mine if row.explained)
        found[table] = (mine[0].meaning, columns)
    return found
