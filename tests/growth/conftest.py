"""A catalog that has grown, and small worlds to lay into it."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.chaos.walking import Worlds
from tests.chaos.world import Address, World
from tests.growth.crowd import Size, settle_in

_numbers = itertools.count(1)
IN_A_TEST_RUN = Size(jobs=5_000, objects_a_job=8, customers=700)


@pytest.fixture(scope="session")
def grown(endpoints: Endpoints, sql: Callable[[str], None], template: str) -> Iterator[CatalogDatabase]:
    """Large enough for the planner to show what it would do with millions, and made in seconds."""
    sql(f"CREATE DATABASE catalog_grown TEMPLATE {template}")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="catalog_grown")
    settle_in(catalog, IN_A_TEST_RUN, times=250)
    yield catalog
    catalog.engine.dispose()
    sql("DROP DATABASE catalog_grown WITH (FORCE)")


@pytest.fixture(scope="session")
def worlds(
    endpoints: Endpoints, bucket: str, sql: Callable[[str], None], template: str, capabilities: Capabilities
) -> Worlds:
    """Makes small worlds, each with a database, prefixes and a folder of its own."""

    @contextmanager
    def make() -> Iterator[World]:
        name = f"small_{next(_numbers)}"
        sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        folder = Path(tempfile.mkdtemp(prefix="small-"))
        world = World(
            Address(
                host=str(endpoints.postgres_folder), port=5432, database=name, s3_url=endpoints.s3_url,
                access_key=endpoints.access_key, secret_key=endpoints.secret_key.get_secret_value(),
                bucket=bucket, prefix=f"g/{uuid4()}", folder=folder,
            )
        )  # fmt: skip
        world.found(capabilities)
        try:
            with world.scratch():
                yield world
        finally:
            world.catalog.engine.dispose()
            sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            shutil.rmtree(folder, ignore_errors=True)

    return make
