"""The schema `analytics`: a day is written in one transaction, and read as of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, text

from blocks.catalog.facts import Span
from blocks.catalog.frames import read_frame
from blocks.catalog.locations import read_identity
from blocks.errors import RefusedError

if TYPE_CHECKING:
    import pandas as pd

DAILY = ("snapshots", "usage", "customers", "savings", "notable_jobs", "ages", "findings", "backups")
"""Tables that hold what is known of a moment. `operations` holds what happened on a day, and can be told later."""
DAILY_DAYS = 400
"""Days that each have their snapshot; of months before that the first one stays."""
WIDER = "wider deduplication"
"""The source of savings that are not made: it would tell a customer what another one stores."""
LIST_DAYS = 31
"""Days that lists of jobs are kept."""


@dataclass(frozen=True)
class Snapshot:
    """A day that there are figures of, and the moment, the run and the catalog that they are from."""

    day: date
    taken_at: datetime
    run: str
    time_zone: str
    catalog_id: UUID


@dataclass(frozen=True)
class Definition:
    """What a column of a table means."""

    column: str
    meaning: str


SKEW = timedelta(minutes=5)
"""By which clocks are apart that nobody calls wrong."""
FURTHEST_EAST_DAYS = 2
"""Days that another time zone can be ahead: from UTC-12 to UTC+14 are 26 hours."""


def begin_writing(connection: Connection) -> None:
    """One writer of the schema at a time, readers as ever; what is read from here on is of one moment.

    To be called first in a transaction: a lock takes no snapshot yet, so that what is read after a wait is what the
    other one has written.
    """
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    connection.execute(text("LOCK TABLE analytics.snapshots IN SHARE ROW EXCLUSIVE MODE"))


def begin_snapshot(connection: Connection) -> datetime:
    """As `begin_writing`, with totals folded up to that moment, which is returned."""
    begin_writing(connection)
    # A read is noted when its transaction began, and seen when that has ended: an hour is longer than any.
    connection.execute(
        text(
            # A snapshot of a clock that was ahead says nothing of what was read before it.
            "SELECT fold_storage_changes((SELECT coalesce(max(taken_at) - interval '1 hour', '-infinity') "
            "                               FROM analytics.snapshots WHERE taken_at <= now()))"
        )
    )
    at: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return at


def begin_reading(connection: Connection) -> None:
    """Everything read from here on is of one moment; to be called first in a transaction."""
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


def clear_day(connection: Connection, day: date, at: datetime) -> None:
    """Remove what is known of a day, to be written anew in the same transaction `at` this time; and lists past theirs.

    The next days go too: a time zone further east was set before, where they had begun.

    Raises:
        RefusedError: there are figures of days that no time zone has reached, or of later than now. A clock is wrong,
            and nobody's history is removed on its word.
    """
    newest = find_snapshot(connection, None)
    furthest = day + timedelta(days=FURTHEST_EAST_DAYS)
    if newest is not None and (newest.day > furthest or (newest.day > day and newest.taken_at > at + SKEW)):
        raise RefusedError(
            f"there are figures of {newest.day}, and by PostgreSQL's clock today is {day}: nothing is written. If the "
            f"clock is right now and was ahead then, remove them: DELETE FROM analytics.snapshots WHERE day > '{day}'; "
            "what else there is of those days goes with the next snapshot"
        )
    # Of days whose snapshot somebody removed, as above, nothing stays; nor of those that have not begun.
    for table in DAILY:
        connection.execute(text(f"DELETE FROM analytics.{table} WHERE day >= :day"), {"day": day})
    connection.execute(text("DELETE FROM analytics.operations WHERE day > :day"), {"day": day})
    connection.execute(
        text("DELETE FROM analytics.notable_jobs WHERE day < CAST(:day AS date) - :keep"),
        {"day": day, "keep": LIST_DAYS},
    )


def thin_out(connection: Connection, day: date) -> int:
    """Of months that are long past keep the first snapshot of each; returns how many went.

    What was done (`operations`) stays for every day.
    """
    gone = list(
        connection.execute(
            text(
                "SELECT day FROM analytics.snapshots WHERE day < CAST(:day AS date) - :kept AND day NOT IN "
                "  (SELECT min(day) FROM analytics.snapshots GROUP BY date_trunc('month', day))"
            ),
            {"day": day, "kept": DAILY_DAYS},
        ).scalars()
    )
    for table in DAILY if gone else ():
        connection.execute(text(f"DELETE FROM analytics.{table} WHERE day = ANY (:days)"), {"days": gone})
    return len(gone)


def note_snapshot(connection: Connection, day: date, at: datetime, *, run: str, zone: str) -> None:
    """That there are figures of a day, and which moment they are of."""
    connection.execute(
        text(
            "INSERT INTO analytics.snapshots (day, taken_at, run, time_zone, catalog_id) "
            "VALUES (:day, :at, :run, :zone, :catalog)"
        ),
        {"day": day, "at": at, "run": run, "zone": zone, "catalog": read_identity(connection).catalog_id},
    )


def has_operations(connection: Connection, day: date) -> bool:
    """Whether it is known what happened on a day."""
    known: bool = connection.execute(
        text("SELECT EXISTS (SELECT 1 FROM analytics.operations WHERE day = :day)"), {"day": day}
    ).scalar_one()
    return known


def clear_operations(connection: Connection, day: date) -> None:
    """Remove what happened on a day."""
    connection.execute(text("DELETE FROM analytics.operations WHERE day = :day"), {"day": day})


def snapshot_days(connection: Connection, before: date, zone: str = "") -> list[date]:
    """The days before this one that there are figures of, newest first; in one time zone, or in all."""
    rows = connection.execute(
        text("SELECT day FROM analytics.snapshots WHERE day < :before AND :zone IN ('', time_zone) ORDER BY day DESC"),
        {"before": before, "zone": zone},
    )
    return list(rows.scalars())


def used_on(connection: Connection, span: Span, days: list[date], today: date) -> pd.DataFrame:
    """What customers used on these days, and on the first day of those who came since: api_key_id, day, used_bytes."""
    return read_frame(
        connection,
        "SELECT api_key_id, day, used_bytes FROM analytics.customers "
        " WHERE day = ANY (CAST(:days AS date[])) AND api_key_id BETWEEN :first AND :last "
        "UNION SELECT c.api_key_id, c.day, c.used_bytes FROM api_keys k "
        "  JOIN analytics.customers c ON c.api_key_id = k.id "
        "   AND c.day = (SELECT min(s.day) FROM analytics.snapshots s WHERE s.taken_at >= k.created_at) "
        " WHERE k.id BETWEEN :first AND :last AND k.created_at > (SELECT min(d) FROM unnest(CAST(:days AS date[])) d) "
        "   AND c.day < :today ORDER BY 1, 2",
        days=days,
        today=today,
        **vars(span),
    )


def find_snapshot(connection: Connection, day: date | None) -> Snapshot | None:
    """The snapshot of this day, or the newest where none is given."""
    row = connection.execute(
        text(
            "SELECT day, taken_at, run, time_zone, catalog_id FROM analytics.snapshots "
            " WHERE CAST(:day AS date) IS NULL OR day = :day ORDER BY day DESC LIMIT 1"
        ),
        {"day": day},
    ).one_or_none()
    return Snapshot(*row) if row else None


_OWN = "(CAST(:only AS bigint) IS NULL OR api_key_id = :only)"


def read_day(connection: Connection, table: str, day: date, only: int | None = None) -> pd.DataFrame:
    """A table of the schema as of a day, of one customer or of all; `table` is a name in code."""
    own = "" if only is None else f"AND {_OWN}"
    statement = f"SELECT * FROM analytics.{table} WHERE day = :day {own} ORDER BY 2, 3, 4, 5"
    return read_frame(connection, statement, day=day, only=only).drop(columns="day")


def read_notable_jobs(connection: Connection, day: date, only: int | None, most: int) -> pd.DataFrame:
    """The first of each list on a day, of one customer or of all, without the names of files.

    A report lies in a bucket for a long time: a legal erasure must not have to look for names in it.
    """
    return read_frame(
        connection,
        "SELECT list, api_key_id, customer, job_id, tier, objects, size_bytes, stored_bytes, created_at, completed_at, "
        "       last_read_at FROM (SELECT *, row_number() OVER (PARTITION BY list ORDER BY "
        "    CASE WHEN list <> 'coldest' THEN -size_bytes END, greatest(completed_at, last_read_at), job_id) AS place "
        f"    FROM analytics.notable_jobs WHERE day = :day AND {_OWN}) AS placed "
        " WHERE place <= :most ORDER BY list, place",
        day=day,
        only=only,
        most=most,
    ).astype({"job_id": "str"})


def read_operations(connection: Connection, since: date, until: date, only: int | None) -> pd.DataFrame:
    """What was done after one day and up to another: day, operation, rule, objects, bytes.

    Runs and jobs of a customer and a day do not add up, and are left out.
    """
    return read_frame(
        connection,
        "SELECT day, operation, rule, sum(objects)::bigint AS objects, sum(bytes)::bigint AS bytes "
        f" FROM analytics.operations WHERE day > :since AND day <= :until AND {_OWN} "
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        since=since,
        until=until,
        only=only,
    )


def read_usage_by_day(connection: Connection, since: date, until: date, only: int | None) -> pd.DataFrame:
    """What was stored on each day: day, tier, size_bytes, stored_bytes, monthly_cost."""
    return read_frame(
        connection,
        "SELECT day, tier, sum(size_bytes)::bigint AS size_bytes, sum(stored_bytes)::bigint AS stored_bytes, "
        "       sum(monthly_cost) AS monthly_cost "
        f" FROM analytics.usage WHERE day > :since AND day <= :until AND {_OWN} GROUP BY 1, 2 ORDER BY 1, 2",
        since=since,
        until=until,
        only=only,
    )


def read_savings_by_day(
    connection: Connection, since: date, until: date, only: int | None, *, without: str
) -> pd.DataFrame:
    """What was saved on each day, but for one source: day, source, saved_bytes, saved_per_month."""
    return read_frame(
        connection,
        "SELECT day, source, sum(saved_bytes)::bigint AS saved_bytes, sum(saved_per_month) AS saved_per_month "
        f" FROM analytics.savings WHERE day > :since AND day <= :until AND {_OWN} AND source <> :without "
        " GROUP BY 1, 2 ORDER BY 1, 2",
        since=since,
        until=until,
        only=only,
        without=without,
    )


def read_definitions(connection: Connection, tables: Sequence[str]) -> dict[str, tuple[str, tuple[Definition, ...]]]:
    """What tables and columns mean, as the database itself explains them; the others' names say it."""
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
        found[table] = (mine[0].meaning, tuple(Definition(row.column, row.explained) for row in mine if row.explained))
    return found
