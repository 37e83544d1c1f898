"""Days at the edges: empty catalogs, second runs, gaps, time zones, and readers who come in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from blocks.catalog import CatalogDatabase, analytics
from blocks.catalog.findings import Found, record_findings
from blocks.errors import InvalidInputError, RefusedError
from blocks.policies import IngestPolicy, TierPolicy
from tasks.analytics import snapshot
from tasks.analytics.snapshot import Refreshed, check_day, check_zone, refresh
from tasks.customers import create_key, set_quota
from tasks.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows, write_video

TABLES = (*analytics.DAILY, "operations")
NOW = datetime(2026, 5, 10, 6, 30, tzinfo=UTC)


def take(catalog: CatalogDatabase, now: datetime = NOW, **options: object) -> Refreshed:
    return refresh(catalog, TierPolicy(), now=now, **options)  # type: ignore[arg-type]  # as a flow gives them


def content(catalog: CatalogDatabase) -> dict[str, list[object]]:
    return {table: rows(catalog, f"SELECT * FROM analytics.{table} ORDER BY 1, 2, 3, 4") for table in TABLES}


def test_an_empty_catalog(catalog: CatalogDatabase) -> None:
    written = take(catalog)
    assert (written.rows["snapshots"], written.rows["backups"], written.rows["operations"]) == (1, 1, 0)
    assert one(catalog, "SELECT count(*) FROM analytics.customers") == 0
    assert one(catalog, "SELECT backup FROM analytics.backups") == ""


def test_one_customer_who_stores_nothing(catalog: CatalogDatabase, acme: str) -> None:
    take(catalog)
    (row,) = rows(catalog, "SELECT * FROM analytics.customers")
    assert (row.customer, row.jobs, row.used_bytes, row.free_bytes, row.used_percent) == ("acme", 0, 0, 10 * 1024**2, 0)
    assert (row.growth_bytes_per_day, row.forecast, row.monthly_cost) == (None, "too little history", 0)


@pytest.mark.parametrize(("quota", "forecast"), [("unlimited", "no quota"), ("0", "full")])
def test_keys_without_a_quota_and_with_none_at_all(
    catalog: CatalogDatabase, acme: str, quota: str, forecast: str
) -> None:
    set_quota(catalog, api_key=acme, quota=quota)
    take(catalog)
    (row,) = rows(catalog, "SELECT used_percent, forecast FROM analytics.customers")
    assert tuple(row) == (None, forecast)


def test_a_second_run_changes_nothing(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    new_job(b"a")
    new_job(b"b")
    take(catalog, datetime.now(UTC))
    first = content(catalog)
    take(catalog, first["snapshots"][0].taken_at)  # type: ignore[attr-defined]  # a row
    assert content(catalog) == first


def test_what_changed_between_two_runs_of_a_day(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    now = datetime.now(UTC)
    new_job(b"a")
    take(catalog, now)
    new_job(b"bc")
    take(catalog, now)
    assert rows(catalog, "SELECT objects, size_bytes FROM analytics.usage") == [(2, 3)]
    assert rows(catalog, "SELECT operation, objects FROM analytics.operations") == [("ingest", 2)]


def test_duplicates_are_what_deduplication_saves(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], location: OpenLocation, policy: IngestPolicy, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    new_job(b"twelve bytes")
    new_job(b"twelve bytes")
    copies = [str(write_video(tmp_path / f"{n}.mp4", b"twelve bytes")) for n in range(3)]
    ingest_videos(catalog, location, policy, api_key="acme", sources=copies)
    # The same bytes twice in one run, new to the catalog.
    pair = [str(write_video(tmp_path / f"pair {n}.mp4", b"a pair")) for n in range(2)]
    ingest_videos(catalog, location, policy, api_key="acme", sources=pair)
    take(catalog)
    wanted = [("deduplication", 3 + 1, 3 * 12 + 6)]
    assert rows(catalog, "SELECT source, objects, saved_bytes FROM analytics.savings") == wanted
    # The same folder, night after night, is no further copy.
    for _ in range(3):
        ingest_videos(catalog, location, policy, api_key="acme", sources=copies)
        take(catalog)
    assert rows(catalog, "SELECT source, objects, saved_bytes FROM analytics.savings") == wanted


def test_a_read_is_seen_the_next_day(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    job = new_job(b"a")
    execute(
        catalog,
        "UPDATE jobs SET status = 'completed', completed_at = clock_timestamp() WHERE id = CAST(:id AS uuid)",
        id=str(job),
    )
    now = datetime.now(UTC)
    take(catalog, now)
    assert rows(catalog, "SELECT age FROM analytics.ages WHERE since = 'read'") == [("never",)]
    assert one(catalog, "SELECT count(*) FROM analytics.notable_jobs WHERE list = 'never read'") == 1
    execute(catalog, "UPDATE jobs SET last_accessed_at = clock_timestamp()")
    take(catalog, now)
    assert rows(catalog, "SELECT age FROM analytics.ages WHERE since = 'read'") == [("under 7 days",)]
    assert one(catalog, "SELECT count(*) FROM analytics.notable_jobs WHERE list = 'never read'") == 0


def test_a_lapsed_reservation_holds_nothing(catalog: CatalogDatabase, acme: str) -> None:
    execute(
        catalog,
        "SELECT reserve_storage(1, ARRAY[gen_random_uuid()], ARRAY[NULL]::uuid[], ARRAY[100]::bigint[], "
        "  ARRAY[interval '1 second'])",
    )
    take(catalog, datetime.now(UTC))
    assert one(catalog, "SELECT reserved_bytes FROM analytics.customers") == 100
    take(catalog, datetime.now(UTC) + timedelta(minutes=1))
    assert one(catalog, "SELECT reserved_bytes FROM analytics.customers") == 0


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


def test_a_quota_of_nothing_that_holds_something_is_full(
    catalog: CatalogDatabase, acme: str, new_job: Callable[..., UUID]
) -> None:
    new_job(b"a")
    set_quota(catalog, api_key=acme, quota="0")
    assert take(catalog).pressed == ("acme",)
    assert rows(catalog, "SELECT used_percent, forecast FROM analytics.customers") == [(100, "full")]


def test_times_are_utc_whatever_the_server_says(catalog: CatalogDatabase, sql: Callable[[str], None]) -> None:
    sql(f"ALTER DATABASE {catalog.database} SET timezone = 'America/New_York'")
    catalog.engine.dispose()
    take(catalog)
    assert one(catalog, "SELECT taken_at FROM analytics.snapshots").utcoffset() == timedelta(0)


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


def test_a_reader_never_sees_half(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_job(b"a")
    take(catalog)
    seen: list[object] = []
    real = snapshot.write_frame

    def slow(connection, frame, table):  # type: ignore[no-untyped-def]
        # In the middle of the transaction, from another connection.
        seen.append(content(catalog))
        return real(connection, frame, table)

    before = content(catalog)
    new_job(b"bc")
    monkeypatch.setattr(snapshot, "write_frame", slow)
    take(catalog)
    assert len(seen) > 5
    assert all(one_look == before for one_look in seen)
    assert content(catalog) != before


def test_a_run_that_breaks_off_leaves_the_day_before(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_job(b"a")
    take(catalog)
    before = content(catalog)
    new_job(b"bc")

    def broken(connection, frame, table):  # type: ignore[no-untyped-def]
        raise RuntimeError("the worker is killed")

    monkeypatch.setattr(snapshot, "write_frame", broken)
    with pytest.raises(RuntimeError):
        take(catalog)
    monkeypatch.undo()
    assert content(catalog) == before
    take(catalog)
    assert one(catalog, "SELECT size_bytes FROM analytics.usage") == 3, "nothing of the totals was lost with it"


@pytest.mark.parametrize("quiet", [False, True])
def test_two_runs_at_once(catalog: CatalogDatabase, new_job: Callable[..., UUID], quiet: bool) -> None:
    new_job(b"a")
    if quiet:
        execute(catalog, "SELECT fold_storage_changes()")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            take(catalog)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(catalog, "SELECT day, objects FROM analytics.usage") == [(date(2026, 5, 10), 1)]
    assert one(catalog, "SELECT count(*) FROM analytics.snapshots") == 1


def test_names_are_kept_as_they_are(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    names = ['<script>alert("x")</script>.mp4', '=HYPERLINK(A1),\r\n"quoted".mp4', "naïve 🎬 \\.mp4", "\\N", ""]
    for number, name in enumerate(names):
        execute(
            catalog, "UPDATE jobs SET filename = :name WHERE id = CAST(:id AS uuid)", name=name,
            id=str(new_job(f"{number}".encode())),
        )  # fmt: skip
    take(catalog)
    kept = rows(catalog, "SELECT filename FROM analytics.notable_jobs WHERE list = 'largest'")
    assert sorted(row.filename for row in kept) == sorted(names)


def test_a_price_of_a_location_goes_before_the_policys(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    new_job(b"x" * 1024)
    take(catalog)
    by_policy = one(catalog, "SELECT monthly_cost FROM analytics.usage")
    assert by_policy == pytest.approx(1024 * 0.023 / 1024**3)
    execute(catalog, "UPDATE locations SET price_per_gib_month = 1")
    take(catalog)
    assert one(catalog, "SELECT monthly_cost FROM analytics.usage") == pytest.approx(1024 / 1024**3)


def test_findings_are_those_of_the_last_look(catalog: CatalogDatabase) -> None:
    for name in ("a", "b", "retired"):
        execute(
            catalog, "INSERT INTO locations (name, store, bucket, retired_at) VALUES (:name, :name, 'x', :at)",
            name=name, at=NOW if name == "retired" else None,
        )  # fmt: skip

    def note(operation: str, places: list[str], *found: Found) -> None:
        catalog.transaction(lambda connection: record_findings(connection, operation, places, found, run="r"))

    note("reconcile-quota", ["a", "b"], Found("a", "orphan", 3, 30), Found("a", "missing", 1, 10))
    note("reconcile-quota", ["a"])
    note("reconcile-quota", ["retired"], Found("retired", "orphan", 3, 30))
    note("apply-lifecycle", ["a"], Found("a", "temp_days overdue", 2, 0, NOW))
    take(catalog, datetime.now(UTC))
    assert rows(
        catalog, "SELECT operation, location, finding, objects, oldest_at FROM analytics.findings ORDER BY 1, 2"
    ) == [
        ("apply-lifecycle", "a", "temp_days overdue", 2, NOW),
        ("reconcile-quota", "a", "none", 0, None),
        ("reconcile-quota", "b", "none", 0, None),
    ]


def test_customers_in_parts(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks.catalog import facts

    new_job(b"a")
    for number in range(6):
        create_key(catalog, f"customer-{number}", "1 GiB")
    take(catalog)
    whole = content(catalog)
    monkeypatch.setattr(facts, "CUSTOMERS_AT_ONCE", 2)
    take(catalog)
    assert content(catalog) == whole
    assert len(whole["customers"]) == 7


def test_views_and_comments_for_those_who_read_them(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    new_job(b"a")
    take(catalog)
    for view in ("latest_usage", "latest_customers", "daily"):
        assert one(catalog, f"SELECT count(*) FROM analytics.{view}") == 1, view
    silent = rows(
        catalog,
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'analytics'::regnamespace AND c.relkind IN ('r', 'v') "
        "   AND obj_description(c.oid) IS NULL",
    )
    assert silent == []
