"""A day's figures on a real catalog."""

from __future__ import annotations

from blocks.policies import TierPolicy
from tasks.analytics.snapshot import refresh
from tests.helpers import rows


def test_smoke(catalog, location, new_job):  # type: ignore[no-untyped-def]
    new_job(b"x" * 100)
    new_job(b"x" * 100)
    new_job(b"y" * 100)
    print(refresh(catalog, TierPolicy()))
    print(refresh(catalog, TierPolicy()))
    for table in ("usage", "customers", "savings", "notable_jobs", "ages", "operations", "findings", "backups"):
        print(table, [dict(one._mapping) for one in rows(catalog, f"SELECT * FROM analytics.{table}")])
    for t in ("storage_totals", "job_totals", "storage_changes"):
        print(t, [dict(one._mapping) for one in rows(catalog, f"SELECT * FROM {t}")])
