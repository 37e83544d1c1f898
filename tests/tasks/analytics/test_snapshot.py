"""Figures at the edges: empty catalogs, second runs, and readers who come in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.findings import Found, record_findings
from blocks.policies import IngestPolicy
from tasks.analytics import snapshot
from tasks.customers import create_key, set_quota
from tasks.intake.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows, write_video
from tests.tasks.analytics.taking import NOW, content, take


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


def test_a_quota_of_nothing_that_holds_something_is_full(
    catalog: CatalogDatabase, acme: str, new_job: Callable[..., UUID]
) -> None:
    new_job(b"a")
    set_quota(catalog, api_key=acme, quota="0")
    assert take(catalog).pressed == ("acme",)
    assert rows(catalog, "SELECT used_percent, forecast FROM analytics.customers") == [(100, "full")]


def test_times_are_utc_whatever_the_server_says(catalog: CatalogDatabase, sql: Callable[[str], None]) -> None:
    sql(f"ALTER DATABASE {catalog.database} SET timezone = 'America/New_York'")
    catalog.disconnect()
    take(catalog)
    assert one(catalog, "SELECT taken_at FROM analytics.snapshots").utcoffset() == timedelta(0)


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


def test_a_tier_saves_against_what_hot_costs_here(catalog: CatalogDatabase, location, cold, new_job) -> None:  # type: ignore[no-untyped-def]
    new_job(b"x" * 1024)
    execute(catalog, "UPDATE stored_objects SET location_id = :cold", cold=cold.place.id)
    saved = "SELECT saved_per_month FROM analytics.savings WHERE source = 'tiers'"
    take(catalog)
    assert one(catalog, saved) == pytest.approx(1024 * (0.023 - 0.004) / 1024**3)
    execute(catalog, "UPDATE locations SET price_per_gib_month = CASE tier WHEN 'hot' THEN 0.1 ELSE 0.05 END")
    take(catalog)
    assert one(catalog, saved) == pytest.approx(1024 * 0.05 / 1024**3)
    # A cheap one that is not in use any more is no place where it would lie.
    execute(
        catalog,
        "INSERT INTO locations (name, store, bucket, price_per_gib_month, retired_at) VALUES ('a', 'a', 'x', 0, now())",
    )
    take(catalog)
    assert one(catalog, saved) == pytest.approx(1024 * 0.05 / 1024**3)


def test_a_read_after_a_clock_that_was_ahead_is_seen(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    new_job(b"a")
    execute(catalog, "UPDATE jobs SET status = 'completed', completed_at = clock_timestamp()")
    now = datetime.now(UTC)
    take(catalog, now)
    take(catalog, now + timedelta(hours=40))
    execute(catalog, "UPDATE jobs SET last_accessed_at = clock_timestamp()")
    take(catalog, now + timedelta(hours=72))
    age = "SELECT age FROM analytics.ages WHERE since = 'read' AND day = (SELECT max(day) FROM analytics.snapshots)"
    assert one(catalog, age) == "under 7 days"


def test_trash_on_hold_is_nobodys_lag(catalog: CatalogDatabase, new_job: Callable[..., UUID]) -> None:
    new_job(b"a")
    execute(catalog, "UPDATE stored_objects SET state = 'trashed', trashed_state = 'live'")
    execute(catalog, "UPDATE jobs SET deleted_at = now() - interval '9 days', purge_after = now() - interval '1 day'")
    late = "SELECT count(*) FROM analytics.findings WHERE finding = 'trash past its date'"
    take(catalog, datetime.now(UTC))
    assert one(catalog, late) == 1
    execute(catalog, "UPDATE jobs SET hold = 'a dispute'")
    take(catalog, datetime.now(UTC))
    assert one(catalog, late) == 0


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
