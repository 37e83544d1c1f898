"""Taking a day's figures: all of one moment, written in one transaction; a second run of a day changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase, analytics, facts
from blocks.catalog.clock import catalog_now
from blocks.catalog.customers import NEARLY_FULL_PERCENT
from blocks.catalog.facts import Span
from blocks.catalog.frames import write_frame
from blocks.errors import InvalidInputError, RefusedError
from blocks.policies import TierPolicy
from blocks.units import shown
from tasks.analytics import shapes
from tasks.analytics.forecast import days_to_compare, forecast

if TYPE_CHECKING:
    import pandas as pd

EARLIEST = date(2000, 1, 1)
UTC_DAYS = ZoneInfo("UTC")


@dataclass(frozen=True)
class Refreshed:
    """What was written: the day, the rows by table, and since when days' operations were read anew."""

    day: date
    rows: dict[str, int]
    operations_since: date
    whole: bool
    pressed: tuple[str, ...] = ()
    """Customers that use 80 % of their quota or more."""

    def summary(self) -> str:
        """One line for a person."""
        rows = sum(self.rows.values())
        if not self.whole:
            return f"{self.day}: {rows} rows of operations; what was stored on a past day cannot be read any more"
        return f"{self.day}: {rows} rows in {len(self.rows)} tables, operations since {self.operations_since}"


def check_zone(name: str) -> ZoneInfo:
    """A time zone by its name, such as Europe/Berlin.

    Raises:
        InvalidInputError: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # all of them are raised for odd names
        raise InvalidInputError(f"{shown(name)} is no time zone; write for example Europe/Berlin or UTC") from error


def check_day(value: str) -> date | None:
    """A day as people write it; None where it is left empty."""
    if not value.strip():
        return None
    try:
        return date.fromisoformat(value.strip())
    except ValueError:
        raise InvalidInputError(f"{shown(value)} is no day; write it like 2026-05-01") from None


def refresh(
    catalog: CatalogDatabase,
    policy: TierPolicy,
    *,
    day: date | None = None,
    zone: ZoneInfo = UTC_DAYS,
    now: datetime | None = None,
    run: str = "manual",
) -> Refreshed:
    """Write today's figures; of a past day what happened on it, since what was stored then cannot be read any more.

    `now` is PostgreSQL's time unless given.

    Raises:
        InvalidInputError: the day lies in the future, or before there were computers to store videos.
        RefusedError: there are no figures of that past day, or its log is gone, or there are figures of days to come.
    """
    moment = now or catalog.transaction(catalog_now)
    today = moment.astimezone(zone).date()
    if day is not None and not EARLIEST <= day <= today:
        raise InvalidInputError(f"date={day} lies outside of {EARLIEST} to {today}, today in {zone.key}")
    if day is not None and day < today:
        return catalog.transaction(lambda connection: _past_day(connection, day))

    def write(connection: Connection) -> Refreshed:
        at = analytics.begin_snapshot(connection)
        return _Snapshot(connection, policy, today, now or at, zone, run).write()

    return catalog.transaction(write)


def _past_day(connection: Connection, day: date) -> Refreshed:
    analytics.begin_writing(connection)
    known = analytics.find_snapshot(connection, day)
    if known is None:
        raise RefusedError(f"there are no figures of {day}, and what was stored then cannot be read any more")
    # As its day began and ended then.
    zone = check_zone(known.time_zone)
    kept = facts.log_kept_since(connection)
    if _begin(day, zone) < kept:
        raise RefusedError(f"the log of {day} is gone (it begins at {kept:%Y-%m-%d}): its figures stay as they are")
    return Refreshed(day, {"operations": _write_operations(connection, day, day, zone)}, day, whole=False)


@dataclass(frozen=True)
class _Snapshot:
    connection: Connection
    policy: TierPolicy
    day: date
    at: datetime
    zone: ZoneInfo
    run: str

    def write(self) -> Refreshed:
        connection = self.connection
        known = analytics.snapshot_days(connection, self.day)
        same_zone = analytics.snapshot_days(connection, self.day, self.zone.key)
        analytics.clear_day(connection, self.day, self.at)
        analytics.thin_out(connection, self.day)
        analytics.note_snapshot(connection, self.day, self.at, run=self.run, zone=self.zone.key)
        priced = shapes.prices(facts.locations(connection), self.policy)
        shared = facts.shared_originals(connection)
        rows: dict[str, int] = {"snapshots": 1}
        pressed: list[str] = []
        for span in facts.spans(connection):
            for table, frame in self._of_customers(span, priced, shared, days_to_compare(self.day, known)).items():
                if table == "customers":
                    full = frame["used_percent"].ge(NEARLY_FULL_PERCENT).fillna(False)
                    pressed += frame.loc[full, "customer"].tolist()
                rows[table] = rows.get(table, 0) + write_frame(
                    connection, frame.assign(day=self.day), f"analytics.{table}"
                )
        for table, frame in (
            ("findings", facts.findings(connection, self.at)),
            ("backups", facts.backups(connection, self.at)),
        ):
            rows[table] = write_frame(connection, frame.assign(day=self.day), f"analytics.{table}")
        # The newest day that was written before was not over then: it is read once more, and all since. Days that began
        # elsewhere are all read again, as far as the log goes: their hours would be counted twice, or not at all.
        since = known[0] if known and known[0] in same_zone[:1] else self._first_logged()
        rows["operations"] = _write_operations(connection, since, self.day, self.zone)
        return Refreshed(self.day, rows, since, whole=True, pressed=tuple(pressed))

    def _of_customers(
        self, span: Span, priced: pd.DataFrame, shared: pd.DataFrame, compared: list[date]
    ) -> dict[str, pd.DataFrame]:
        connection = self.connection
        known = facts.customers(connection, span, self.at)
        stored = facts.stored(connection, span)
        used = shapes.usage(stored, known, priced)
        quotas = shapes.quotas(known, used)
        history = analytics.used_on(connection, span, compared, self.day)
        return {
            "usage": used,
            "customers": quotas.join(forecast(quotas, history, self.day)),
            "savings": shapes.savings(stored, facts.duplicates(connection, span), shared, known, priced, self.policy),
            "notable_jobs": facts.notable_jobs(connection, span),
            "ages": facts.ages(connection, span, self.at),
        }

    def _first_logged(self) -> date:
        first = facts.first_logged_at(self.connection)
        # The day before it may have been its day elsewhere.
        return min(self.day, first.astimezone(self.zone).date() - timedelta(days=1)) if first else self.day


def _begin(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _write_operations(connection: Connection, first: date, last: date, zone: ZoneInfo) -> int:
    """What happened on these days, both included, as the log has it now; days it does not hold any more stay."""
    kept, written = facts.log_kept_since(connection), 0
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        begins, ends = _begin(day, zone), _begin(day + timedelta(days=1), zone)
        # A day that the log holds a part of is told whole by what was written before.
        if ends <= kept or (begins < kept and analytics.has_operations(connection, day)):
            continue
        analytics.clear_operations(connection, day)
        written += write_frame(
            connection, facts.operations(connection, begins, ends).assign(day=day), "analytics.operations"
        )
    return written
