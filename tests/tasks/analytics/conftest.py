"""A catalog with known content: some weeks of the example, played once for all tests that only read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.embedded import Endpoints
from tasks.example import seed_example

PLAYED_DAYS = 120
NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)


@pytest.fixture(scope="session")
def played(endpoints: Endpoints, sql: Callable[[str], None], template: str) -> Iterator[CatalogDatabase]:
    """Not to be changed by any test."""
    sql(f"CREATE DATABASE catalog_played TEMPLATE {template}")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="catalog_played")
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="main", store="main", bucket="played", prefix="", capabilities={}
        )
    )
    seed_example(catalog, now=NOW, days=PLAYED_DAYS)
    yield catalog
    catalog.engine.dispose()
    sql("DROP DATABASE catalog_played WITH (FORCE)")
