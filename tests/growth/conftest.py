"""A catalog that has grown, and small worlds to lay into it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.chaos.conftest import worlds_on
from tests.chaos.walking import Worlds
from tests.conftest import copy_template
from tests.growth.crowd import Size, settle_in

_numbers = itertools.count(1)
IN_A_TEST_RUN = Size(jobs=5_000, objects_a_job=8, customers=700)


@pytest.fixture(scope="session")
def grown(endpoints: Endpoints, sql: Callable[[str], None], template: str) -> Iterator[CatalogDatabase]:
    """Large enough for the planner to show what it would do with millions, and made in seconds."""
    copy_template(sql, template, "catalog_grown")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="catalog_grown")
    settle_in(catalog, IN_A_TEST_RUN, times=250)
    yield catalog
    catalog.disconnect()
    sql("DROP DATABASE catalog_grown WITH (FORCE)")


@pytest.fixture(scope="session")
def worlds(
    endpoints: Endpoints, bucket: str, sql: Callable[[str], None], template: str, capabilities: Capabilities
) -> Worlds:
    return worlds_on(endpoints, bucket, sql, template, capabilities)
