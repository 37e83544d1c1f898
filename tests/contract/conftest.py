"""One server a round: every test of this folder runs against each of them, in folders that nothing else is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import InvalidInputError, StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.object_store.probing import Capabilities, probe
from blocks.object_store.transfer import fingerprint
from tasks.stores import OpenLocation
from tests.contract import servers
from tests.contract.servers import Server
from tests.helpers import declared

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing before anything is started."""
    if servers.names() == (servers.YOURS,):
        try:
            servers.yours()
        except InvalidInputError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Too many for the seconds between two edits."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("slow")


@pytest.fixture(scope="session", params=servers.names())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "seaweedfs":
            yield servers.seaweedfs(request.getfixturevalue("endpoints"))
        elif request.param == "rclone":
            yield stack.enter_context(servers.rclone(folder))
        elif request.param == "minio":
            yield stack.enter_context(servers.minio(str(servers.find_minio()), folder))
        else:
            yield from _as_a_guest(servers.yours())


def _as_a_guest(server: Server) -> Iterator[Server]:
    guests = [server.store("", bucket=bucket, prefix=server.folder) for bucket in sorted(set(server.buckets))]
    try:
        for store in guests:
            store_now(store)
    except StorageError as error:
        pytest.exit(f"{server.url}: {error}", returncode=1)
    yield server
    for store in guests:
        for one in list_multipart_uploads(store):
            abort_multipart_upload(store, one.key, one.upload_id)
        # Twice: MinIO shows what lies below an object's own name once that object is gone.
        for _ in range(2):
            delete_keys(store, [one.key for one in list_prefix(store, "")])
        # rclone goes on to list the name of an object that was too long for it, and that is not there.
        left = [one.key for one in list_prefix(store, "") if fingerprint(store, one.key) is not None]
        assert left == [], f"what the contract wrote below {store.bucket}/{store.prefix} has to go again"


@pytest.fixture
def store(server: Server) -> ObjectStore:
    return server.store(str(uuid4()))


@pytest.fixture
def second(server: Server) -> ObjectStore:
    """Another bucket of the same server, or at least another folder."""
    return server.store(str(uuid4()), second=True)


@pytest.fixture(scope="session")
def capabilities(server: Server) -> Capabilities:
    return probe(server.store("probed"))


@pytest.fixture
def does(capabilities: Capabilities) -> Callable[[str], bool]:
    """Whether the probe saw an effect; where it did not, it says what it saw instead."""

    def ask(name: str) -> bool:
        (finding,) = (one for one in capabilities.findings if one.name == name)
        assert finding.works != bool(finding.detail), "a capability works, or the probe says what was seen instead"
        return finding.works

    return ask


@pytest.fixture
def beside(catalog: CatalogDatabase, second: ObjectStore, capabilities: Capabilities) -> OpenLocation:
    """A second location, to move to."""
    return declared(catalog, second, "beside", capabilities, tier="cold")
