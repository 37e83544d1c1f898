"""Worlds, the line before them, and processes that can be killed."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.chaos.acts import ACTS
from tests.chaos.victims import import_everything
from tests.chaos.walking import Choice, Walk, Worlds, numbers_in, spread
from tests.chaos.world import Address, World
from tests.conftest import copy_template
from tests.line import Line

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def line(endpoints: Endpoints) -> Iterator[Line]:
    with line_before(endpoints) as line:
        yield line


@contextmanager
def line_before(endpoints: Endpoints) -> Iterator[Line]:
    """A line that listens."""
    port = urlsplit(endpoints.s3_url).port
    assert port is not None
    line = Line(("127.0.0.1", port), endpoints.postgres_folder)
    line.start()
    import_everything()
    yield line
    line.stop()


@pytest.fixture(scope="session")
def worlds(
    endpoints: Endpoints, bucket: str, sql: Callable[[str], None], template: str, capabilities: Capabilities
) -> Worlds:
    return worlds_on(endpoints, bucket, sql, template, capabilities)


def worlds_on(
    endpoints: Endpoints, bucket: str, sql: Callable[[str], None], template: str, capabilities: Capabilities
) -> Worlds:
    """Makes worlds, each with a database, prefixes and a folder of its own, and takes them away again."""

    @contextmanager
    def make() -> Iterator[World]:
        name = f"world_{next(_numbers)}"
        copy_template(sql, template, name)
        folder = Path(tempfile.mkdtemp(prefix="world-"))
        address = Address(
            host=str(endpoints.postgres_folder), port=5432, database=name, s3_url=endpoints.s3_url,
            access_key=endpoints.access_key, secret_key=endpoints.secret_key.get_secret_value(),
            bucket=bucket, prefix=f"w/{uuid4()}", folder=folder,
        )  # fmt: skip
        world = World(address)
        world.found(capabilities)
        try:
            with world.scratch():
                yield world
        finally:
            world.catalog.disconnect()
            sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            shutil.rmtree(folder, ignore_errors=True)

    return make


@pytest.fixture(scope="session")
def through(line: Line) -> Callable[[World], World]:
    return through_line(line)


def through_line(line: Line) -> Callable[[World], World]:
    """The same world, with every call going through the line."""
    return lambda world: world.at(host="127.0.0.1", port=line.catalog_port, s3_url=line.s3_url)


@pytest.fixture(scope="session")
def walk(request: pytest.FixtureRequest, worlds: Worlds, line: Line, through: Callable[[World], World]) -> Walk:
    """One act, which was done once undisturbed. For the session, so that pytest keeps the tests of one act together."""
    return Walk(ACTS[request.param], worlds, line, through)


@pytest.fixture
def choose(request: pytest.FixtureRequest) -> Choice:
    """All points of a walk, or those of `--point`, to see them again, or `--points` of them, in less than a day."""
    only, count = numbers_in(request.config.getoption("--point")), request.config.getoption("--points")
    if only:
        return lambda numbers: [number for number in only if number in numbers]
    return list if count is None else lambda numbers: spread(numbers, count)
