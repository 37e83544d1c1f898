"""A platform for the whole session: it is attacked, and must look afterwards as it did before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.conftest import copy_template, make_store
from tests.hostile.besieged import ELSEWHERE, HERE, VAULT, Platform
from tests.hostile.parameters import DEPLOYED, working


@contextmanager
def laid_out(
    endpoints: Endpoints,
    sql: Callable[[str], None],
    template: str,
    capabilities: Capabilities,
    folder: Path,
    *,
    database: str,
) -> Iterator[Platform]:
    """A platform in a database and folders of its own."""
    copy_template(sql, template, database)
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=database)
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE catalog_identity SET catalog_id = gen_random_uuid()")
    prefix = f"t/{uuid4()}"
    stores = {name: make_store(endpoints, prefix=f"{prefix}/{name}") for name in (HERE, ELSEWHERE, VAULT)}
    (folder / "downloads").mkdir()
    platform = Platform(catalog, stores, folder)
    platform.found(capabilities)
    yield platform
    catalog.disconnect()
    for beside in platform.beside():
        sql(f'DROP DATABASE "{beside}" WITH (FORCE)')
    sql(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture(scope="session")
def platform(
    endpoints: Endpoints,
    sql: Callable[[str], None],
    template: str,
    capabilities: Capabilities,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    """Customers and their jobs, without Prefect."""
    folder = tmp_path_factory.mktemp("besieged")
    with laid_out(endpoints, sql, template, capabilities, folder, database="besieged") as platform:
        yield platform


@pytest.fixture(scope="module")
def besieged(platform: Platform, prefect_api: str) -> Platform:
    """The same, with its blocks on the Prefect server, and a backup."""
    use(platform)
    return platform


_in_use: list[Platform] = []


def use(platform: Platform) -> None:
    """Save a platform's blocks, unless they are there: a second one has blocks of the same names."""
    if _in_use != [platform]:
        _in_use[:] = [platform]
        platform.save()
        DEPLOYED["backup"](**working("backup", platform))
