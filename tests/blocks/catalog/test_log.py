"""The log's months: made ahead, and dropped whole."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import text

from blocks.catalog import CatalogDatabase
from blocks.catalog.housekeeping import LOG_MONTHS_AHEAD, turn_log
from blocks.catalog.log import record
from tests.helpers import execute, one, rows

PARTS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'operation_log'::regclass"


def months(catalog: CatalogDatabase) -> set[str]:
    return {row.name for row in rows(catalog, PARTS)} - {"operation_log_default"}


def drop(catalog: CatalogDatabase, before: date) -> list[str]:
    dropped: list[str] = catalog.transaction(
        lambda connection: connection.execute(
            text("SELECT drop_log_partitions(:before)"), {"before": before}
        ).scalar_one()
    )
    return sorted(dropped)


def write(catalog: CatalogDatabase, *times: datetime) -> None:
    for at in times:
        execute(catalog, "INSERT INTO operation_log (at, run, operation) VALUES (:at, 'r', 'o')", at=at)


def month_after(at: datetime, months_later: int) -> datetime:
    number = at.year * 12 + at.month - 1 + months_later
    return datetime(number // 12, number % 12 + 1, 15, tzinfo=UTC)


@pytest.fixture
def old(catalog: CatalogDatabase) -> CatalogDatabase:
    """With the winter of 2024, and lines at both ends of each month."""
    execute(catalog, "SELECT create_log_partitions('2024-12-20', 3)")
    for year, month, last in ((2024, 12, 31), (2025, 1, 31), (2025, 2, 28)):
        write(
            catalog,
            datetime(year, month, 1, tzinfo=UTC),
            datetime(year, month, last, 23, 59, 59, 999999, tzinfo=UTC),
        )
    return catalog


def test_whole_months_go_and_nothing_else(old: CatalogDatabase) -> None:
    before = months(old)
    assert {f"operation_log_{one}" for one in ("2024_12", "2025_01", "2025_02")} < before
    assert drop(old, date(2024, 12, 31)) == []
    assert drop(old, date(2025, 1, 1)) == ["operation_log_2024_12"]
    assert one(old, "SELECT min(at) FROM operation_log") == datetime(2025, 1, 1, tzinfo=UTC)
    assert drop(old, date(2025, 2, 28)) == ["operation_log_2025_01"]
    assert one(old, "SELECT count(*) FROM operation_log") == 2
    assert drop(old, date(2025, 3, 1)) == ["operation_log_2025_02"]
    assert drop(old, date(2025, 3, 1)) == []
    assert before - months(old) == {f"operation_log_{one}" for one in ("2024_12", "2025_01", "2025_02")}


def test_several_months_at_once(old: CatalogDatabase) -> None:
    gone = ["operation_log_2024_12", "operation_log_2025_01", "operation_log_2025_02"]
    assert drop(old, date(2025, 3, 31)) == gone
    assert one(old, "SELECT count(*) FROM operation_log") == 0


def test_what_no_month_was_made_for_is_never_dropped(catalog: CatalogDatabase) -> None:
    write(catalog, datetime(2019, 5, 1, tzinfo=UTC))
    assert drop(catalog, date(2025, 1, 1)) == []
    assert one(catalog, "SELECT count(*) FROM operation_log_default") == 1


def test_a_turn_makes_months_ahead_and_drops_those_past_their_days(old: CatalogDatabase) -> None:
    now = one(old, "SELECT clock_timestamp()")
    ahead = month_after(now, LOG_MONTHS_AHEAD - 1)
    execute(old, f"DROP TABLE operation_log_{ahead:%Y_%m}")
    dropped = old.transaction(lambda connection: turn_log(connection, keep_days=31))
    assert {"operation_log_2024_12", "operation_log_2025_01", "operation_log_2025_02"} <= set(dropped)
    # 31 days: last month stays until all of it is that old.
    assert f"operation_log_{now:%Y_%m}" not in dropped
    assert {f"operation_log_{month_after(now, later):%Y_%m}" for later in range(LOG_MONTHS_AHEAD)} <= months(old)
    assert old.transaction(lambda connection: turn_log(connection, keep_days=31)) == []


def test_keeping_the_log_for_long(old: CatalogDatabase) -> None:
    before = months(old)
    days = (one(old, "SELECT clock_timestamp()") - datetime(2025, 1, 31, tzinfo=UTC)).days
    assert old.transaction(lambda connection: turn_log(connection, keep_days=days)) == ["operation_log_2024_12"]
    assert months(old) == before - {"operation_log_2024_12"}


@pytest.mark.parametrize("later", [0, 3])
def test_a_month_that_was_forgotten_is_made_up_for(catalog: CatalogDatabase, later: int) -> None:
    """Lines of a month that nobody had made lie in the default partition; the next turn must not fail at them."""
    month = month_after(one(catalog, "SELECT clock_timestamp()"), later)
    execute(catalog, f"DROP TABLE operation_log_{month:%Y_%m}")
    write(catalog, month)
    assert one(catalog, "SELECT count(*) FROM operation_log_default") == 1
    catalog.transaction(lambda connection: turn_log(connection, keep_days=400))
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE at = :at", at=month) == 1


def test_nothing_to_record(catalog: CatalogDatabase) -> None:
    catalog.transaction(lambda connection: record(connection, []))
    found: list[Any] = rows(catalog, "SELECT * FROM operation_log")
    assert found == []
