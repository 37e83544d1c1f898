"""The facts that a day's figures are made of, each one aggregate.

What is stored is read from totals that are kept as things change, so that a night's figures cost what has changed;
never a look at every object.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from blocks.catalog.frames import read_frame

if TYPE_CHECKING:
    import pandas as pd

LISTED = 25
"""Jobs of one customer in one list."""
CUSTOMERS_AT_ONCE = 5_000
"""Customers whose figures are in memory together."""


@dataclass(frozen=True)
class Span:
    """Ids of customers, both included."""

    first: int
    last: int


def spans(connection: Connection) -> list[Span]:
    """All customers in parts that fit into memory."""
    rows = connection.execute(
        text(
            "SELECT min(id), max(id) FROM (SELECT id, (row_number() OVER (ORDER BY id) - 1) / :most AS part "
            "  FROM api_keys) AS numbered GROUP BY part ORDER BY 1"
        ),
        {"most": CUSTOMERS_AT_ONCE},
    )
    return [Span(*row) for row in rows]


def stored(connection: Connection, span: Span) -> pd.DataFrame:
    """What customers store: api_key_id, kind, location_id, codec, state, objects, size_bytes, stored_bytes."""
    return read_frame(
        connection,
        "SELECT api_key_id, kind, location_id, codec, state, objects, size_bytes, stored_bytes FROM storage_totals "
        " WHERE api_key_id BETWEEN :first AND :last",
        **vars(span),
    )


def customers(connection: Connection, span: Span, now: datetime) -> pd.DataFrame:
    """Quotas and counters: api_key_id, customer, disabled, jobs, quota_bytes, used_bytes, reserved_bytes.

    A reservation that has lapsed holds nothing.
    """
    return read_frame(
        connection,
        "SELECT k.id AS api_key_id, k.label AS customer, k.disabled_at IS NOT NULL AS disabled, "
        "       coalesce(a.jobs, 0) AS jobs, k.storage_quota_bytes AS quota_bytes, "
        "       k.storage_used_bytes AS used_bytes, "
        "       k.storage_reserved_bytes - coalesce(r.lapsed, 0) AS reserved_bytes "
        "  FROM api_keys k "
        "  LEFT JOIN (SELECT api_key_id, sum(bytes)::bigint AS lapsed FROM reservations "
        "              WHERE expires_at <= :now GROUP BY api_key_id) r ON r.api_key_id = k.id "
        "  LEFT JOIN (SELECT api_key_id, sum(jobs)::bigint AS jobs FROM age_totals WHERE since = 'created' "
        "                AND api_key_id BETWEEN :first AND :last GROUP BY api_key_id) a ON a.api_key_id = k.id "
        " WHERE k.id BETWEEN :first AND :last ORDER BY k.id",
        now=now,
        **vars(span),
    )


def locations(connection: Connection) -> pd.DataFrame:
    """Every location there is or was: location_id, location, tier, price_per_gib_month (null: by policy), in_use."""
    return read_frame(
        connection,
        "SELECT id AS location_id, name AS location, tier, CAST(price_per_gib_month AS double precision) "
        "       AS price_per_gib_month, retired_at IS NULL AS in_use FROM locations ORDER BY id",
    )


def duplicates(connection: Connection, span: Span) -> pd.DataFrame:
    """Videos that came again, by customer and where the first lies: api_key_id, location_id, objects, saved_bytes."""
    return read_frame(
        connection,
        "SELECT o.api_key_id, o.location_id, sum(d.times)::bigint AS objects, "
        "       sum(d.times * o.size_bytes)::bigint AS saved_bytes "
        "  FROM job_duplicates d JOIN stored_objects o ON o.job_id = d.job_id AND o.kind = 'original' "
        "   AND o.state IN ('live', 'missing', 'corrupt') "
        " WHERE o.api_key_id BETWEEN :first AND :last GROUP BY 1, 2",
        **vars(span),
    )


def shared_originals(connection: Connection) -> pd.DataFrame:
    """Originals that another customer stored before: api_key_id, location_id, objects, saved_bytes.

    The first customer of a video keeps it; what all others store of it is what a wider scope would save.
    """
    return read_frame(
        connection,
        "WITH copies AS (SELECT o.api_key_id, o.location_id, o.size_bytes, "
        "    row_number() OVER by_hash AS nth, first_value(o.api_key_id) OVER by_hash AS first_key "
        "    FROM shared_sources s JOIN stored_objects o ON o.sha256 = s.sha256 AND o.kind = 'original' "
        "     AND o.state IN ('live', 'missing', 'corrupt') "
        "    JOIN jobs j ON j.id = o.job_id AND NOT j.reprocess "
        "    WINDOW by_hash AS (PARTITION BY o.sha256 ORDER BY j.created_at, j.id)) "
        "SELECT api_key_id, location_id, count(*) AS objects, sum(size_bytes)::bigint AS saved_bytes "
        "  FROM copies WHERE nth > 1 AND api_key_id <> first_key GROUP BY 1, 2 ORDER BY 1, 2",
    )


_LISTS = {
    "largest": "ORDER BY t.size_bytes DESC, t.job_id",
    "coldest": "AND t.completed_at IS NOT NULL ORDER BY greatest(t.completed_at, t.read_at), t.job_id",
    "never read": "AND t.completed_at IS NOT NULL AND t.read_at IS NULL ORDER BY t.size_bytes DESC, t.job_id",
}
"""Each as an index has it: a customer's first few are found without looking at the others."""


def notable_jobs(connection: Connection, span: Span) -> pd.DataFrame:
    """Each customer's largest, coldest and never read jobs: the columns of analytics.notable_jobs but the day."""
    lists = " UNION ALL ".join(
        f"SELECT '{name}' AS list, k.label AS customer, n.* FROM api_keys k, LATERAL ("
        f"  SELECT t.*, row_number() OVER ()::int AS rank FROM (SELECT * FROM job_totals t WHERE t.api_key_id = k.id "
        f"  {which} LIMIT :most) t) n WHERE k.id BETWEEN :first AND :last"
        for name, which in _LISTS.items()
    )
    return read_frame(
        connection,
        "SELECT n.list, n.api_key_id, n.rank, n.customer, CAST(n.job_id AS text) AS job_id, j.filename, j.tier, "
        "       n.objects, n.size_bytes, n.stored_bytes, n.created_at, n.completed_at, n.read_at AS last_read_at "
        f" FROM ({lists}) n JOIN jobs j ON j.id = n.job_id ORDER BY 1, 2, 3",
        most=LISTED,
        **vars(span),
    )


AGES = ("under 7 days", "7 to 30 days", "30 to 90 days", "90 to 180 days", "180 to 365 days", "a year or more", "never")
"""Classes of age, youngest first; `never` is of what nobody ever asked for."""


def ages(connection: Connection, span: Span, now: datetime) -> pd.DataFrame:
    """How old jobs are, and how long unread, in days of UTC: the columns of analytics.ages but the day."""
    return read_frame(
        connection,
        "WITH aged AS (SELECT *, CASE WHEN day = 'infinity' THEN 2147483647 "
        "    ELSE CAST(CAST(:now AS timestamptz) AT TIME ZONE 'UTC' AS date) - day END AS days FROM age_totals "
        "   WHERE api_key_id BETWEEN :first AND :last) "
        "SELECT a.api_key_id, k.label AS customer, a.since, CASE WHEN days = 2147483647 THEN 'never' "
        "         WHEN days < 7 THEN 'under 7 days' WHEN days < 30 THEN '7 to 30 days' "
        "         WHEN days < 90 THEN '30 to 90 days' WHEN days < 180 THEN '90 to 180 days' "
        "         WHEN days < 365 THEN '180 to 365 days' ELSE 'a year or more' END AS age, "
        "       sum(a.jobs)::bigint AS jobs, sum(a.stored_bytes)::bigint AS stored_bytes "
        "  FROM aged a JOIN api_keys k ON k.id = a.api_key_id GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 4",
        now=now,
        **vars(span),
    )


def operations(connection: Connection, since: datetime, until: datetime) -> pd.DataFrame:
    """What was done in a time: the columns of analytics.operations but the day; api_key_id is 0 for nobody's."""
    return read_frame(
        connection,
        "SELECT o.*, coalesce(k.label, '') AS customer FROM ("
        "  SELECT coalesce(api_key_id, 0) AS api_key_id, operation, rule, count(DISTINCT run) AS runs, "
        "         count(DISTINCT job_id) AS jobs, count(*) AS objects, sum(bytes)::bigint AS bytes "
        "    FROM operation_log WHERE at >= :since AND at < :until GROUP BY 1, 2, 3) o "
        "  LEFT JOIN api_keys k ON k.id = o.api_key_id ORDER BY 1, 2, 3",
        since=since,
        until=until,
    )


def first_logged_at(connection: Connection) -> datetime | None:
    """When the log begins: ids are given in the order of time, and have an index."""
    at: datetime | None = connection.execute(text("SELECT at FROM operation_log ORDER BY id LIMIT 1")).scalar()
    return at


def log_kept_since(connection: Connection) -> datetime:
    """Since when the log is whole: whole months of it go, and what went is told by figures alone."""
    since: datetime = connection.execute(
        text(
            "SELECT coalesce(min(to_date(right(c.relname, 7), 'YYYY_MM')), 'infinity')::timestamp AT TIME ZONE 'UTC' "
            "  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            " WHERE i.inhparent = 'operation_log'::regclass AND c.relname ~ '^operation_log_[0-9]{4}_[0-9]{2}$'"
        )
    ).scalar_one()
    return since


def findings(connection: Connection, now: datetime) -> pd.DataFrame:
    """What each operation found last, and what is due by now: the columns of analytics.findings but the day."""
    return read_frame(
        connection,
        "WITH newest AS (SELECT f.operation, f.location, max(f.at) AS at FROM findings f "
        "    JOIN locations l ON l.name = f.location AND l.retired_at IS NULL WHERE f.at <= :now GROUP BY 1, 2) "
        "SELECT f.operation, f.location, f.finding, sum(f.objects)::bigint AS objects, "
        "       sum(f.size_bytes)::bigint AS size_bytes, min(f.oldest_at) AS oldest_at, f.at AS found_at "
        "  FROM findings f JOIN newest n USING (operation, location, at) GROUP BY 1, 2, 3, f.at "
        "UNION ALL "
        "SELECT 'catalog', l.name, t.state, sum(t.objects)::bigint, sum(t.stored_bytes)::bigint, NULL, "
        "       CAST(:now AS timestamptz) FROM storage_totals t JOIN locations l ON l.id = t.location_id "
        " WHERE t.state IN ('missing', 'corrupt') GROUP BY 2, 3 "
        "UNION ALL "
        "SELECT 'cleanup', l.name, 'released bytes', count(*), sum(o.stored_bytes)::bigint, NULL, "
        "       CAST(:now AS timestamptz) FROM stored_objects o JOIN locations l ON l.id = o.location_id "
        " WHERE o.state = 'purging' GROUP BY l.name "
        "UNION ALL "
        "SELECT 'cleanup', l.name, 'old copies past their date', count(*), "
        "       coalesce(sum(r.old_stored_bytes), 0)::bigint, min(r.release_after), CAST(:now AS timestamptz) "
        "  FROM relocations r JOIN locations l ON l.id = r.old_location_id "
        " WHERE r.state = 'swapped' AND r.release_after < :now GROUP BY l.name "
        "UNION ALL "
        "SELECT 'cleanup', l.name, 'trash past its date', count(*), sum(o.stored_bytes)::bigint, "
        "       min(j.purge_after), CAST(:now AS timestamptz) "
        "  FROM jobs j JOIN stored_objects o ON o.job_id = j.id JOIN locations l ON l.id = o.location_id "
        " WHERE j.deleted_at IS NOT NULL AND j.status <> 'cleaned_up' AND j.purge_after < :now AND j.hold IS NULL "
        "   AND o.state = 'trashed' "
        " GROUP BY l.name "
        " ORDER BY 1, 2, 3",
        now=now,
    )


def backups(connection: Connection, now: datetime) -> pd.DataFrame:
    """How the backups are, from what was written down about them: one row, the columns of analytics.backups."""
    return read_frame(
        connection,
        # Of each backup what was found last: a damaged one counts no more. Its id begins with the moment it is of.
        "WITH newest AS (SELECT DISTINCT ON (backup) *, CASE WHEN backup ~ '^[0-9]{8}T[0-9]{6}Z' "
        "           THEN to_timestamp(left(backup, 15), 'YYYYMMDD\"T\"HH24MISS') ELSE at END AS made "
        "    FROM backup_checks WHERE what IN ('backup', 'verification') AND at <= :now AND backup <> '' "
        "   ORDER BY backup, at DESC), "
        "good AS (SELECT * FROM newest WHERE ok ORDER BY backup DESC LIMIT 1) "
        "SELECT v.at AS verified_at, EXTRACT(epoch FROM CAST(:now AS timestamptz) - v.made)::double precision / 3600 "
        "         AS hours_since_verified, coalesce(v.backup, '') AS backup, coalesce(v.bytes, 0) AS bytes, "
        "       coalesce(w.taken, 0) AS taken, coalesce(w.failed, 0) AS failed, d.at AS drilled_at, d.ok AS drill_ok, "
        "       d.seconds AS recovery_seconds, coalesce(CASE WHEN NOT d.ok THEN d.because END, '') AS because "
        "  FROM (SELECT count(*) FILTER (WHERE c.ok AND coalesce(n.ok, true)) AS taken, "
        "               count(*) FILTER (WHERE NOT c.ok) AS failed "
        "          FROM backup_checks c LEFT JOIN newest n ON n.backup = c.backup "
        "         WHERE c.what = 'backup' AND c.at <= :now AND c.at > CAST(:now AS timestamptz) - interval '7 days') w "
        "  LEFT JOIN good v ON true "
        "  LEFT JOIN (SELECT * FROM backup_checks WHERE what = 'drill' AND at <= :now ORDER BY at DESC LIMIT 1) d "
        "    ON true",
        now=now,
    )
