"""Every figure of a day against a query of its own on the tables of the catalog, which know nothing of totals."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from blocks.catalog import CatalogDatabase, facts
from blocks.units import format_bytes
from reports import words
from reports.figures import read_figures
from tests.helpers import assert_totals, execute, one, rows

NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""The moment up to which the catalog was played."""
DAY = NOW.date()
PRICE = "CASE l.tier WHEN 'hot' THEN 0.023 WHEN 'warm' THEN 0.0125 ELSE 0.004 END / 1073741824.0"
COUNTED = "o.state IN ('live', 'missing', 'corrupt')"


def same(catalog: CatalogDatabase, figures: str, counted: str) -> None:
    """Two queries with equal rows; money is compared to a hair."""
    ours, theirs = ([tuple(row) for row in rows(catalog, query, day=DAY, now=NOW)] for query in (figures, counted))
    assert ours, "nothing to compare"
    assert len(ours) == len(theirs)
    for mine, other in zip(sorted(ours, key=str), sorted(theirs, key=str), strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a == b or math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-15), (mine, other)


def test_the_content_is_what_was_played(played: CatalogDatabase) -> None:
    assert one(played, "SELECT count(DISTINCT tier) FROM analytics.usage WHERE day = :day", day=DAY) == 2
    assert one(played, "SELECT count(*) FROM analytics.snapshots") > 40
    assert_totals(played)


def test_usage(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT api_key_id, customer, kind, tier, objects, size_bytes, stored_bytes, trashed_objects, trashed_bytes "
        "  FROM analytics.usage WHERE day = :day",
        f"SELECT o.api_key_id, k.label, o.kind, l.tier, count(*) FILTER (WHERE {COUNTED}), "
        f"  coalesce(sum(o.size_bytes) FILTER (WHERE {COUNTED}), 0), "
        f"  coalesce(sum(o.stored_bytes) FILTER (WHERE {COUNTED}), 0), "
        "   count(*) FILTER (WHERE o.state = 'trashed'), "
        "   coalesce(sum(o.stored_bytes) FILTER (WHERE o.state = 'trashed'), 0) "
        "  FROM stored_objects o JOIN locations l ON l.id = o.location_id JOIN api_keys k ON k.id = o.api_key_id "
        " WHERE o.state NOT IN ('pending', 'purging') GROUP BY 1, 2, 3, 4",
    )


def test_what_it_costs(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT api_key_id, sum(monthly_cost) FROM analytics.usage WHERE day = :day GROUP BY 1",
        f"SELECT o.api_key_id, sum(o.stored_bytes * {PRICE}) FROM stored_objects o "
        "  JOIN locations l ON l.id = o.location_id WHERE o.state NOT IN ('pending', 'purging') GROUP BY 1",
    )


def test_quotas(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT api_key_id, customer, jobs, used_bytes, reserved_bytes, coalesce(quota_bytes, -1), "
        "       coalesce(free_bytes, -1), coalesce(used_percent, -1) FROM analytics.customers WHERE day = :day",
        f"SELECT k.id, k.label, (SELECT count(DISTINCT o.job_id) FROM stored_objects o WHERE o.api_key_id = k.id "
        f"    AND {COUNTED}), "
        f"  (SELECT coalesce(sum(o.size_bytes), 0) FROM stored_objects o WHERE o.api_key_id = k.id AND {COUNTED}), 0, "
        "  coalesce(k.storage_quota_bytes, -1), CASE WHEN k.storage_quota_bytes IS NULL THEN -1 "
        "    ELSE greatest(0, k.storage_quota_bytes - k.storage_used_bytes) END, "
        "  coalesce(100.0 * k.storage_used_bytes / k.storage_quota_bytes, -1) FROM api_keys k",
    )


def test_what_compression_and_tiers_save(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT api_key_id, source, objects, saved_bytes, saved_per_month FROM analytics.savings "
        " WHERE day = :day AND source IN ('compression', 'tiers')",
        f"SELECT o.api_key_id, 'compression', count(*), sum(o.size_bytes - o.stored_bytes), "
        f"       sum((o.size_bytes - o.stored_bytes) * {PRICE}) FROM stored_objects o "
        f"  JOIN locations l ON l.id = o.location_id WHERE o.codec = 'zstd' AND {COUNTED} GROUP BY 1 UNION ALL "
        f"SELECT o.api_key_id, 'tiers', count(*), 0, sum(o.stored_bytes * (0.023 / 1073741824.0 - {PRICE})) "
        "  FROM stored_objects o JOIN locations l ON l.id = o.location_id "
        f" WHERE l.tier <> 'hot' AND {COUNTED} GROUP BY 1",
    )


def test_what_deduplication_saves_and_would_save(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT api_key_id, objects, saved_bytes FROM analytics.savings WHERE day = :day AND source = 'deduplication'",
        f"SELECT o.api_key_id, sum(d.times), sum(d.times * o.size_bytes) FROM job_duplicates d "
        f"  JOIN stored_objects o USING (job_id) WHERE o.kind = 'original' AND {COUNTED} GROUP BY 1",
    )
    # By content alone, over all originals there are: whoever is not the first to have it.
    same(
        played,
        "SELECT api_key_id, objects, saved_bytes FROM analytics.savings "
        " WHERE day = :day AND source = 'wider deduplication'",
        f"SELECT o.api_key_id, count(*), sum(o.size_bytes) FROM stored_objects o JOIN jobs j ON j.id = o.job_id "
        f" WHERE o.kind = 'original' AND {COUNTED} "
        "   AND EXISTS (SELECT FROM stored_objects p JOIN jobs i ON i.id = p.job_id "
        "    WHERE p.kind = 'original' AND p.state IN ('live', 'missing', 'corrupt') AND p.sha256 = o.sha256 "
        "      AND p.api_key_id <> o.api_key_id AND (i.created_at, i.id) < (j.created_at, j.id)) GROUP BY 1",
    )


JOBS = (
    "SELECT j.api_key_id, j.id, j.filename, j.tier, j.completed_at, j.last_accessed_at, count(*) AS objects, "
    "       sum(o.size_bytes)::bigint AS size, sum(o.stored_bytes)::bigint AS stored "
    f" FROM jobs j JOIN stored_objects o ON o.job_id = j.id WHERE {COUNTED} GROUP BY j.id"
)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("largest", "true ORDER BY size DESC, id"),
        ("coldest", "completed_at IS NOT NULL ORDER BY greatest(completed_at, last_accessed_at), id"),
        ("never read", "completed_at IS NOT NULL AND last_accessed_at IS NULL ORDER BY size DESC, id"),
    ],
)
def test_notable_jobs(played: CatalogDatabase, name: str, order: str) -> None:
    for key in rows(played, "SELECT id FROM api_keys ORDER BY id"):
        ours = rows(
            played,
            "SELECT CAST(job_id AS text), filename, tier, objects, size_bytes, stored_bytes "
            "  FROM analytics.notable_jobs WHERE day = :day AND list = :name AND api_key_id = :key ORDER BY rank",
            day=DAY, name=name, key=key.id,
        )  # fmt: skip
        theirs = rows(
            played,
            f"SELECT CAST(id AS text), filename, tier, objects, size, stored FROM ({JOBS}) x "
            f" WHERE api_key_id = :key AND {order} LIMIT 25",
            key=key.id,
        )
        assert [tuple(row) for row in ours] == [tuple(row) for row in theirs]
    assert one(played, "SELECT count(*) FROM analytics.notable_jobs WHERE day = :day AND list = :n", day=DAY, n=name)


def test_lists_are_kept_a_month(played: CatalogDatabase) -> None:
    kept = rows(played, "SELECT DISTINCT day FROM analytics.notable_jobs ORDER BY day")
    assert (kept[0].day, kept[-1].day) == (DAY - timedelta(days=31), DAY)


def test_ages(played: CatalogDatabase) -> None:
    def age(column: str) -> str:
        days = f"((CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date - ({column} AT TIME ZONE 'UTC')::date)"
        return (
            f"CASE WHEN {column} IS NULL THEN 'never' WHEN {days} < 7 THEN 'under 7 days' WHEN {days} < 30 THEN "
            f"'7 to 30 days' WHEN {days} < 90 THEN '30 to 90 days' WHEN {days} < 180 THEN '90 to 180 days' "
            f"WHEN {days} < 365 THEN '180 to 365 days' ELSE 'a year or more' END"
        )

    jobs = JOBS.replace("j.completed_at,", "j.completed_at, j.created_at,")
    same(
        played,
        "SELECT api_key_id, since, age, jobs, stored_bytes FROM analytics.ages WHERE day = :day",
        f"SELECT api_key_id, 'created', {age('created_at')}, count(*), sum(stored) FROM ({jobs}) x GROUP BY 1, 2, 3 "
        f"UNION ALL SELECT api_key_id, 'read', {age('last_accessed_at')}, count(*), sum(stored) FROM ({jobs}) y "
        "GROUP BY 1, 2, 3",
    )


def test_operations_of_every_day(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT day, api_key_id, operation, rule, runs, jobs, objects, bytes FROM analytics.operations",
        "SELECT (at AT TIME ZONE 'UTC')::date, coalesce(api_key_id, 0), operation, rule, count(DISTINCT run), "
        "       count(DISTINCT job_id), count(*), sum(bytes)::bigint FROM operation_log GROUP BY 1, 2, 3, 4",
    )


def test_findings_and_backups(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT operation, location, finding, objects, size_bytes, found_at FROM analytics.findings "
        " WHERE day = :day AND operation IN ('reconcile-quota', 'apply-lifecycle')",
        "SELECT DISTINCT ON (operation) operation, location, finding, objects, size_bytes, at FROM findings "
        " ORDER BY operation, at DESC",
    )
    same(
        played,
        "SELECT verified_at, backup, bytes, taken, failed, drilled_at, drill_ok::int, recovery_seconds "
        "  FROM analytics.backups WHERE day = :day",
        "SELECT v.at, v.backup, v.bytes, "
        "  w.good, w.bad, d.at, d.ok::int, d.seconds FROM "
        "  (SELECT count(*) FILTER (WHERE ok) AS good, count(*) FILTER (WHERE NOT ok) AS bad FROM backup_checks "
        "    WHERE what = 'backup' AND at > CAST(:now AS timestamptz) - interval '7 days') w, "
        "  (SELECT * FROM backup_checks WHERE what = 'backup' AND ok ORDER BY at DESC LIMIT 1) v, "
        "  (SELECT * FROM backup_checks WHERE what = 'drill' ORDER BY at DESC LIMIT 1) d",
    )


def test_the_backup_that_counts_is_the_newest_that_is_good(catalog: CatalogDatabase) -> None:
    """Not the check that came last: an old one may be verified, a newer one found damaged."""
    now = datetime(2026, 5, 10, 6, 30, tzinfo=UTC)

    def check(what: str, backup: str, at: datetime, *, ok: bool = True) -> None:
        execute(
            catalog,
            "INSERT INTO backup_checks (what, backup, ok, seconds, at) VALUES (:what, :backup, :ok, 1, :at)",
            what=what, backup=backup, ok=ok, at=at,
        )  # fmt: skip

    def days_ago(days: int) -> datetime:
        return now - timedelta(days=days)

    check("backup", "20260420T030000Z-00000001", days_ago(20))
    check("backup", "20260508T030000Z-00000002", days_ago(2))
    check("backup", "20260509T030000Z-00000003", days_ago(1))
    check("verification", "20260509T030000Z-00000003", now - timedelta(hours=2), ok=False)
    check("verification", "20260420T030000Z-00000001", now - timedelta(hours=1))
    row = catalog.transaction(lambda connection: facts.backups(connection, now)).iloc[0]
    assert row["backup"] == "20260508T030000Z-00000002"
    assert row["hours_since_verified"] == 51.5
    assert (row["taken"], row["failed"]) == (1, 0), "within a week, and good as far as is known"


def test_growth_and_days_until_full(played: CatalogDatabase) -> None:
    """With the standard library alone, from the days' used bytes; t from a table of its own."""
    t90 = {
        2: 1.886,
        3: 1.638,
        4: 1.533,
        5: 1.476,
        6: 1.440,
        7: 1.415,
        8: 1.397,
        9: 1.383,
        10: 1.372,
        11: 1.363,
        12: 1.356,
    }
    for row in rows(played, "SELECT * FROM analytics.customers WHERE day = :day", day=DAY):
        known = {
            found.day: found.used_bytes
            for found in rows(
                played, "SELECT day, used_bytes FROM analytics.customers WHERE api_key_id = :key", key=row.api_key_id
            )
        }
        wanted = growth(known, DAY)
        if wanted is None:
            assert (row.growth_bytes_per_day, row.forecast in ("too little history", "no quota")) == (None, True)
            continue
        mean, spent, rates = wanted
        assert math.isclose(row.growth_bytes_per_day, mean)
        if len(rates) < 3:
            assert row.growth_low is None
            continue
        margin = t90[len(rates) - 1] * statistics.stdev(rates) * math.sqrt(7 / spent + 1 / 2)
        assert math.isclose(row.growth_low, mean - margin, rel_tol=1e-9, abs_tol=1e-3)
        assert math.isclose(row.growth_high, mean + margin, rel_tol=1e-9, abs_tol=1e-3)
        for rate, full in ((mean, row.days_until_full), (mean + margin, row.days_until_full_low),
                           (mean - margin, row.days_until_full_high)):  # fmt: skip
            if row.free_bytes is None or (rate <= 0 and row.free_bytes):
                assert full is None
            else:
                assert math.isclose(full, row.free_bytes / rate)


def growth(known: dict[date, int], day: date) -> tuple[float, int, list[float]] | None:
    """Bytes a day over four weeks, the days between, and the paces of whole weeks over 13."""
    points: list[tuple[date, int]] = []
    for week in range(14):
        until = day - timedelta(days=7 * week)
        found = [one for one in known if until - timedelta(days=7) < one <= until]
        if found:
            points.append((max(found), known[max(found)]))
    oldest = min((one for one in known if one >= day - timedelta(days=91)), default=None)
    if oldest is not None and (oldest, known[oldest]) not in points:
        points.append((oldest, known[oldest]))
    points.sort()
    while len(points) > 1 and points[0][1] == points[1][1] == 0:
        points.pop(0)
    base = next((one for one in reversed(points) if (day - one[0]).days >= 28), points[0])
    spent = (points[-1][0] - base[0]).days
    if spent < 7:
        return None
    rates = [
        (later[1] - earlier[1]) / (later[0] - earlier[0]).days
        for earlier, later in pairwise(points)
        if (later[0] - earlier[0]).days >= 6
    ]
    return (points[-1][1] - base[1]) / spent, spent, rates


def test_what_counts_against_quotas_is_what_usage_says(played: CatalogDatabase) -> None:
    same(
        played,
        "SELECT day, api_key_id, used_bytes FROM analytics.customers WHERE used_bytes > 0",
        "SELECT day, api_key_id, sum(size_bytes)::bigint FROM analytics.usage GROUP BY 1, 2 HAVING sum(size_bytes) > 0",
    )


def test_the_report_says_what_sql_says(played: CatalogDatabase) -> None:
    figures = read_figures(played)
    used = one(played, f"SELECT sum(o.size_bytes)::bigint FROM stored_objects o WHERE {COUNTED}")
    cost = one(
        played,
        f"SELECT sum(o.stored_bytes * {PRICE}) FROM stored_objects o JOIN locations l ON l.id = o.location_id "
        " WHERE o.state NOT IN ('pending', 'purging')",
    )
    assert words.stored(figures) == used
    assert math.isclose(words.cost(figures), float(cost))
    full = rows(
        played,
        "SELECT label FROM api_keys WHERE storage_used_bytes >= 0.8 * storage_quota_bytes "
        " ORDER BY storage_used_bytes::numeric / storage_quota_bytes DESC",
    )
    assert list(words.pressed(figures)["customer"]) == [row.label for row in full]
    assert words.of_pressure(figures).startswith(f"{len(full)} of 10 customers with a quota use")
    shares: dict[str, Any] = {
        row.tier: row.share
        for row in rows(
            played,
            "SELECT l.tier, 100.0 * sum(o.stored_bytes) / sum(sum(o.stored_bytes)) OVER () AS share "
            f"  FROM stored_objects o JOIN locations l ON l.id = o.location_id WHERE {COUNTED} GROUP BY 1",
        )
    }
    assert f"{words.percent(float(shares['warm']))} warm" in words.of_tiers(figures)
    came, went = rows(
        played,
        "SELECT coalesce(sum(bytes) FILTER (WHERE operation IN ('ingest', 'register')), 0)::bigint, "
        "  coalesce(sum(bytes) FILTER (WHERE operation = 'purge'), 0)::bigint FROM operation_log "
        " WHERE (at AT TIME ZONE 'UTC')::date > CAST(:day AS date) - 30", day=DAY,
    )[0]  # fmt: skip
    assert words.of_flow(figures) == (
        f"In the last 30 days {format_bytes(came)} came in, and {format_bytes(went)} were removed."
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0 %"),
        (0.05, "<0.1 %"),
        (12.4, "12 %"),
        (99.7, "99 %"),
        (99.9999, "99 %"),
        (100 - 1e-12, "100 %"),
        (100.0, "100 %"),
    ],
)
def test_what_is_nearly_full_is_not_full(share: float, shown: str) -> None:
    assert words.percent(share) == shown
