"""Taking a day's figures in a test, and all that there is of them."""

from __future__ import annotations

from datetime import UTC, datetime

from blocks.catalog import CatalogDatabase, analytics
from blocks.policies import TierPolicy
from tasks.analytics.snapshot import Refreshed, refresh
from tests.helpers import rows

TABLES = (*analytics.DAILY, "operations")
NOW = datetime(2026, 5, 10, 6, 30, tzinfo=UTC)


def take(catalog: CatalogDatabase, now: datetime = NOW, **options: object) -> Refreshed:
    return refresh(catalog, TierPolicy(), now=now, **options)  # type: ignore[arg-type]  # as a flow gives them


def content(catalog: CatalogDatabase) -> dict[str, list[object]]:
    return {table: rows(catalog, f"SELECT * FROM analytics.{table} ORDER BY 1, 2, 3, 4") for table in TABLES}
