"""The blocks that the flows' defaults name, on the real Prefect server."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate, WorkPoolCreate
from prefect.variables import Variable
from prefect_aws.credentials import MinIOCredentials
from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.embedded import Endpoints
from blocks.object_store import ObjectStore
from blocks.policies import POLICIES, BackupPolicy, IngestPolicy
from tasks.backups.cutover import drop_leftovers
from tasks.customers import create_key
from tasks.stores import OpenLocation
from tests.conftest import RunningStack
from tests.helpers import assert_sound, write_video

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def saved(prefect_api, default_blocks, catalog, store, location, tmp_path):  # type: ignore[no-untyped-def]
    """The blocks that the flows' defaults name."""
    save_block(catalog, "main")
    save_block(store.model_copy(update={"credentials": default_blocks}), "main")
    save_policy(IngestPolicy(source_roots=str(tmp_path), batch_files=3))
    create_key(catalog, "acme", "10 MiB")
    yield prefect_api
    for kind in _changed - {IngestPolicy}:
        save_block(kind(), "default")
    _changed.clear()
    assert_sound(catalog, location)


@pytest.fixture(scope="session")
def default_blocks(prefect_api: str, endpoints: Endpoints) -> MinIOCredentials:
    """What is the same for all tests; the credentials of the embedded store, as they are saved."""
    credentials = MinIOCredentials(
        minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key.get_secret_value()
    )
    credentials.save("main", overwrite=True)
    for policy in POLICIES:
        save_block(policy(), "default")
    return MinIOCredentials.load("main")


_saved: dict[tuple[type[Block], str], UUID] = {}
_changed: set[type[Block]] = set()


def save_block(block: Block, name: str) -> None:
    """As `Block.save`, which makes the JSON schema of the whole block twice for each field: a third of a second.

    Only the first of a name is saved like that; of those that follow, all fields are sent but secrets.
    """
    if (document := _saved.get((type(block), name))) is None:
        _saved[type(block), name] = cast(UUID, block.save(name, overwrite=True, _sync=True))
        return
    fields = {field: getattr(block, field) for field in type(block).model_fields}
    data = {
        field: {"$ref": {"block_document_id": str(value._block_document_id)}} if isinstance(value, Block)
        else to_jsonable_python(value)
        for field, value in fields.items() if not isinstance(value, SecretStr)
    }  # fmt: skip
    with get_client(sync_client=True) as client:
        client.update_block_document(document, BlockDocumentUpdate(data=data, merge_existing_data=True))


def save_policy(policy: Block) -> None:
    """Save a policy as the default of this test; the next one finds the usual one again."""
    _changed.add(type(policy))
    save_block(policy, "default")


def delete_policy(kind: type[Block]) -> None:
    """Leave this test without a default of this type; the next one finds the usual one again."""
    kind.delete("default")
    _changed.add(kind)
    _saved.pop((kind, "default"), None)


@pytest.fixture
def vault(
    saved: str, default_blocks: MinIOCredentials, store: ObjectStore, catalog: CatalogDatabase
) -> Iterator[ObjectStore]:
    vault = store.model_copy(update={"prefix": f"{store.prefix}-backups", "credentials": default_blocks})
    save_block(vault, "backups")
    save_policy(BackupPolicy(compression_level=1, restore_jobs=1))
    yield vault
    catalog.disconnect()
    for purpose in ("before", "restore", "drill"):
        drop_leftovers(catalog, purpose, keep=lambda note: False)


@pytest.fixture
def new_jobs(saved: str, tmp_path: Path) -> Callable[[int], list[UUID]]:
    """Makes jobs of the customer acme, each with a video of its own."""
    numbers = itertools.count()

    def make(count: int) -> list[UUID]:
        from flows.ingest_videos import ingest_videos

        videos = [write_video(tmp_path / f"{n}.mp4", f"video {n}".encode()) for n in itertools.islice(numbers, count)]
        report: Any = ingest_videos(api_key="acme", sources=[str(video) for video in videos])
        return [outcome.job_id for outcome in report.outcomes]

    return make


@pytest.fixture
def cold(
    saved: str, catalog: CatalogDatabase, store: ObjectStore, location: OpenLocation, default_blocks: MinIOCredentials
) -> str:
    """A second store, on a server that is down."""
    save_block(
        store.model_copy(
            update={
                "endpoint_url": "http://127.0.0.1:9",
                "prefix": "cold",
                "credentials": default_blocks,
                "attempts": 1,
            }
        ),
        "cold",
    )
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="cold", store="cold", bucket=store.bucket, prefix="cold",
            capabilities=location.capabilities.as_json(),
        )
    )  # fmt: skip
    return saved


@pytest.fixture(scope="session")
def worker(running_stack: RunningStack, prefect_api: str) -> RunningStack:
    """Deployments and a worker, which ends with the stack."""
    Variable.set("storage_timezone", "UTC", overwrite=True)
    names = [option for name in ("delete-jobs", "cleanup", "restore", "set-quota") for option in ("--name", name)]
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="local", type="process"), overwrite=True)
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *names,
         "--prefect-file", str(PROJECT / "prefect.yaml")],
        cwd=PROJECT, env={**os.environ, **running_stack.stack.environment()}, check=True, capture_output=True,
    )  # fmt: skip
    running_stack.stack.start_worker(cwd=running_stack.stack.folder)
    return running_stack
