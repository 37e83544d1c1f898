"""Worlds, the line before them, and processes that can be killed."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.chaos.line import Line
from tests.chaos.world import Address, World

Worlds = Callable[[], AbstractContextManager[World]]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def line(endpoints: Endpoints) -> Iterator[Line]:
    port = urlsplit(endpoints.s3_url).port
    assert port is not None
    line = Line(port, endpoints.postgres_folder)
    line.start()
    yield line
    line.stop()


@pytest.fixture
def worlds(
    endpoints: Endpoints, bucket: str, sql: Callable[[str], None], template: str, capabilities: Capabilities
) -> Worlds:
    """Makes worlds, each with a database, prefixes and a folder of its own, and takes them away again."""

    @contextmanager
    def make() -> Iterator[World]:
        name = f"world_{next(_numbers)}"
        sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        folder = Path(tempfile.mkdtemp(prefix="world-"))
        address = Address(
            host=str(endpoints.postgres_folder), port=5432, database=name, s3_url=endpoints.s3_url,
            access_key=endpoints.access_key, secret_key=endpoints.secret_key.get_secret_value(),
            bucket=bucket, prefix=f"w/{uuid4()}", folder=folder,
        )  # fmt: skip
        world = World(address)
        world.found(capabilities)
        try:
            yield world
        finally:
            world.catalog.engine.dispose()
            sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            shutil.rmtree(folder, ignore_errors=True)

    return make


@pytest.fixture
def through(line: Line) -> Callable[[World], World]:
    """The same world, with every call going through the line."""
    return lambda world: world.at(host="127.0.0.1", port=line.catalog_port, s3_url=line.s3_url)
