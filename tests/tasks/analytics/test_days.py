"""Days: where they begin, those without a run, those that are past, and clocks that are wrong."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import InvalidInputError, RefusedError
from tasks.analytics.snapshot import check_day, check_zone
from tests.helpers import execute, one, rows
from tests.tasks.analytics.taking import NOW, TABLES, content, take


def log(catalog: CatalogDatabase, at: str, operation: str, size: int = 1) -> None:
    execute(catalog, "SELECT create_log_partitions(CAST(CAST(:at AS timestamptz) AS date), 1)", at=at)
    execute(
        catalog,
        "INSERT INTO operation_log (at, run, operation, bytes) VALUES (:at, 'r', :operation, :size)",
        at=at, operation=operation, size=size,
    )  # fmt: skip


def test_days_begin_where_the_operator_is(catalog: CatalogDatabase) -> None:
    # Berlin is two hours ahead in May: the first is the evening of the 8th, the second the night of the 9th.
    log(catalog, "2026-05-08T21:59Z", "purge")
    log(catalog, "2026-05-08T22:00Z", "expire")
    take(catalog, zone=ZoneInfo("Europe/Berlin"))
    assert rows(catalog, "SELECT day, operation FROM analytics.operations ORDER BY day") == [
        (date(2026, 5, 8), "purge"),
        (date(2026, 5, 9), "expire"),
    ]
    # And on the day that has 25 hours each line is counted once.
    log(catalog, "2026-10-25T22:59Z", "purge")
    log(catalog, "2026-10-24T22:00Z", "expire")
    take(catalog, datetime(2026, 10, 26, 6, tzinfo=UTC), zone=ZoneInfo("Europe/Berlin"))
    autumn = rows(catalog, "SELECT day, operation FROM analytics.operations WHERE day > '2026-06-01' ORDER BY 2")
    assert autumn == [(date(2026, 10, 25), "expire"), (date(2026, 10, 25), "purge")]


def test_a_day_without_a_run(catalog: CatalogDatabase, acme: str) -> None:
    log(catalog, "2026-05-08T05:00Z", "purge")
    take(catalog, NOW - timedelta(days=2))
    log(catalog, "2026-05-08T20:00Z", "purge")
    log(catalog, "2026-05-09T20:00Z", "purge", size=7)
    written = take(catalog)
    assert written.operations_since == date(2026, 5, 8), "its evening had not been yet"
    assert rows(catalog, "SELECT day, objects, bytes FROM analytics.operations ORDER BY day") == [
        (date(2026, 5, 8), 2, 2),
        (date(2026, 5, 9), 1, 7),
    ]
    assert rows(catalog, "SELECT day FROM analytics.customers ORDER BY day") == [
        (date(2026, 5, 8),),
        (date(2026, 5, 10),),
    ]


def test_growth_bridges_a_missing_day(catalog: CatalogDatabase, acme: str) -> None:
    for back in (28, 22, 15, 7):
        execute(catalog, "UPDATE api_keys SET storage_used_bytes = :used", used=(40 - back) * 1000)
        take(catalog, NOW - timedelta(days=back))
    execute(catalog, "UPDATE api_keys SET storage_used_bytes = 40000")
    take(catalog)
    (row,) = rows(catalog, "SELECT * FROM analytics.customers WHERE day = '2026-05-10'")
    assert (row.history_days, row.growth_bytes_per_day, row.forecast) == (28, 1000, "growing")
    # Every week was alike: the range is no wider than the average.
    assert row.growth_low == pytest.approx(1000)
    assert row.growth_high == pytest.approx(1000)
    assert row.days_until_full == pytest.approx((10 * 1024**2 - 40000) / 1000)


def test_of_months_long_past_the_first_day_stays(catalog: CatalogDatabase, acme: str) -> None:
    log(catalog, "2025-01-20T05:00Z", "purge")
    for day in (date(2025, 1, 7), date(2025, 1, 20), date(2025, 2, 1), date(2025, 2, 2), date(2025, 12, 24)):
        take(catalog, datetime(day.year, day.month, day.day, 6, tzinfo=UTC))
    take(catalog)
    kept = [date(2025, 1, 7), date(2025, 2, 1), date(2025, 12, 24), NOW.date()]
    for table in ("snapshots", "customers", "backups"):
        assert [row.day for row in rows(catalog, f"SELECT day FROM analytics.{table} ORDER BY day")] == kept, table
    assert one(catalog, "SELECT count(*) FROM analytics.operations") == 1


def test_a_past_day_tells_what_was_done(catalog: CatalogDatabase, acme: str) -> None:
    take(catalog, NOW - timedelta(days=1))
    before = content(catalog)
    log(catalog, "2026-05-09T20:00Z", "purge")
    written = take(catalog, day=date(2026, 5, 9))
    assert not written.whole
    assert "cannot be read any more" in written.summary()
    after = content(catalog)
    assert {table for table in TABLES if before[table] != after[table]} == {"operations"}
    assert rows(catalog, "SELECT day, objects FROM analytics.operations") == [(date(2026, 5, 9), 1)]


def test_a_past_day_whose_log_is_gone_stays(catalog: CatalogDatabase) -> None:
    log(catalog, "2026-05-09T20:00Z", "purge")
    take(catalog, NOW - timedelta(days=1))
    before = content(catalog)
    # Months of the log go as a whole.
    execute(catalog, "SELECT drop_log_partitions('2026-06-01')")
    with pytest.raises(RefusedError, match="the log of 2026-05-09 is gone"):
        take(catalog, day=date(2026, 5, 9))
    take(catalog)
    assert content(catalog)["operations"] == before["operations"], "nor does the next night lose it"


def test_a_day_whose_log_has_gone_in_part_stays(catalog: CatalogDatabase) -> None:
    """A month of the log ends at midnight UTC, which is in the middle of a day elsewhere."""
    for at in ("2026-05-31T20:00Z", "2026-06-01T05:00Z"):
        log(catalog, at, "purge")
    evening, zone = datetime(2026, 6, 1, 11, tzinfo=UTC), ZoneInfo("Pacific/Auckland")
    whole = [(date(2026, 6, 1), 2)]
    take(catalog, evening, zone=zone)
    assert rows(catalog, "SELECT day, objects FROM analytics.operations") == whole
    execute(catalog, "SELECT drop_log_partitions('2026-06-15')")
    take(catalog, evening, zone=zone)
    assert rows(catalog, "SELECT day, objects FROM analytics.operations") == whole


def test_another_time_zone_counts_every_line_once(catalog: CatalogDatabase) -> None:
    begin = datetime.now(UTC).replace(day=3, hour=0, minute=30, second=0, microsecond=0)
    for hour in range(0, 72, 5):
        log(catalog, str(begin + timedelta(hours=hour)), "purge")
    for number, zone in enumerate(("UTC", "Pacific/Auckland", "America/Los_Angeles", "UTC")):
        now = begin + timedelta(days=3 + number, hours=20)
        take(catalog, now, zone=ZoneInfo(zone))
        assert one(catalog, "SELECT sum(objects)::bigint FROM analytics.operations") == 15, zone
        newest = one(catalog, "SELECT max(day) FROM analytics.snapshots")
        assert newest == now.astimezone(ZoneInfo(zone)).date(), "no day of tomorrow stays in front"


def test_a_clock_that_fell_behind_removes_no_history(catalog: CatalogDatabase, acme: str) -> None:
    for back in range(3):
        take(catalog, NOW + timedelta(days=back))
    before = content(catalog)
    with pytest.raises(RefusedError, match="figures of 2026-05-12, and by PostgreSQL's clock today is 2025-05"):
        take(catalog, NOW - timedelta(days=365))
    assert content(catalog) == before
    # The way out that the message names.
    execute(catalog, "DELETE FROM analytics.snapshots WHERE day > '2025-05-10'")
    take(catalog, NOW - timedelta(days=365))
    assert rows(catalog, "SELECT day FROM analytics.snapshots") == [(date(2025, 5, 10),)]


@pytest.mark.parametrize("behind", [timedelta(days=1), timedelta(days=2, minutes=-5)])
def test_a_clock_a_little_behind_removes_no_history(catalog: CatalogDatabase, acme: str, behind: timedelta) -> None:
    """A time zone further west has such days too, but none whose figures are of later than now."""
    for back in (2, 1, 0):
        take(catalog, NOW - timedelta(days=back))
    before = content(catalog)
    with pytest.raises(RefusedError, match="figures of 2026-05-10, and by PostgreSQL's clock today is 2026-05-0"):
        take(catalog, NOW - behind)
    assert content(catalog) == before


def test_what_was_done_in_a_day_that_has_not_begun_elsewhere(catalog: CatalogDatabase) -> None:
    log(catalog, "2026-05-09T15:00Z", "purge", size=7)
    take(catalog, datetime(2026, 5, 9, 20, tzinfo=UTC), zone=ZoneInfo("Pacific/Auckland"))
    take(catalog, datetime(2026, 5, 9, 21, tzinfo=UTC), zone=ZoneInfo("UTC"))
    assert rows(catalog, "SELECT day, bytes FROM analytics.operations") == [(date(2026, 5, 9), 7)]


def test_a_past_day_while_another_run_writes(catalog: CatalogDatabase, acme: str) -> None:
    log(catalog, "2026-05-09T20:00Z", "purge")
    take(catalog, NOW - timedelta(days=1))
    errors: list[BaseException] = []

    def work(day: date | None) -> None:
        try:
            take(catalog, day=day)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(day,)) for day in (None, date(2026, 5, 9)) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(catalog, "SELECT day, objects FROM analytics.operations") == [(date(2026, 5, 9), 1)]


@pytest.mark.parametrize("day", [date(2026, 5, 11), date(9999, 12, 31), date(1999, 12, 31)])
def test_other_days_are_refused(catalog: CatalogDatabase, day: date) -> None:
    with pytest.raises(InvalidInputError, match=f"date={day} lies outside of 2000-01-01 to 2026-05-10"):
        take(catalog, day=day)
    assert one(catalog, "SELECT count(*) FROM analytics.snapshots") == 0


def test_a_past_day_without_figures_is_refused(catalog: CatalogDatabase) -> None:
    with pytest.raises(RefusedError, match="there are no figures of 2026-05-09"):
        take(catalog, day=date(2026, 5, 9))


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", "2026-05-10; DROP TABLE jobs", "10.05.2026"])
def test_what_is_no_day(value: str) -> None:
    with pytest.raises(InvalidInputError, match="is no day; write it like 2026-05-01"):
        check_day(value)


@pytest.mark.parametrize("value", ["Mars/Base", "../../etc/passwd", "", "/etc/localtime", "a\0b"])
def test_what_is_no_zone(value: str) -> None:
    with pytest.raises(InvalidInputError, match="is no time zone"):
        check_zone(value)
    assert check_zone("Europe/Berlin").key == "Europe/Berlin"
