"""Ingest for one customer, with the catalog and the bytes compared after every test; and a job to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content
from blocks.embedded import Endpoints
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.probing import Capabilities
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.downloads import DownloadReport, bulk_download
from tasks.intake.ingest import IngestReport, ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.relocation import relocate
from tasks.relocation.relocate import Relocated
from tasks.relocation.rewriting import Target
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.conftest import make_store
from tests.helpers import assert_sound, declared, write_outputs
from tests.tasks.relocation.moves import POLICY, WHY, everything


@pytest.fixture
def ingest(catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str):  # type: ignore[no-untyped-def]
    def run(*sources: Path | str, **options: object) -> IngestReport:
        options = {"api_key": acme, "policy": policy, "location": location} | options
        return ingest_videos(
            catalog, options.pop("location"), options.pop("policy"), sources=[str(s) for s in sources], **options
        )

    yield run
    assert_sound(catalog, location)


@pytest.fixture
def job(catalog, location, policy, new_job, tmp_path):  # type: ignore[no-untyped-def]
    made = new_job()
    register_outputs(catalog, location, policy, job_id=made, outputs=str(write_outputs(tmp_path / "out")))
    return made


@pytest.fixture
def declare(endpoints: Endpoints, catalog: CatalogDatabase, capabilities: Capabilities):  # type: ignore[no-untyped-def]
    """Makes a location: in a bucket of its own on the embedded server, or through a store that is given."""

    def make(name: str, *, tier: str = "hot", store: ObjectStore | None = None, **said: object) -> OpenLocation:
        if store is None:
            store = make_store(endpoints, prefix="", bucket=f"{name}-{uuid4()}", multipart_upload_part_bytes=5 * MIB)
            store.s3.create_bucket(Bucket=store.bucket)
        return declared(catalog, store, name, capabilities, tier=tier, **said)

    return make


@pytest.fixture
def cold(declare) -> OpenLocation:  # type: ignore[no-untyped-def]
    return declare("cold", tier="cold")


@pytest.fixture
def locations(catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation) -> Locations:
    return Locations(catalog, location, [cold])


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation) -> Sweep:
    return Sweep(catalog, (location,), run="the run")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "downloads"
    made.mkdir()
    return made


@pytest.fixture
def download(catalog, location, job, root):  # type: ignore[no-untyped-def]
    def run(**options: object) -> DownloadReport:
        wanted = {"job_ids": [job]} | options
        return bulk_download(catalog, Locations(catalog, location), AccessPolicy(download_roots=str(root)), **wanted)

    return run


@pytest.fixture
def move(catalog: CatalogDatabase, locations: Locations, location: OpenLocation, cold: OpenLocation):  # type: ignore[no-untyped-def]
    """Moves everything, or the rows that are given; whatever happens, everything is sound afterwards."""

    def run(
        target: OpenLocation = cold, rows: list[Content] | None = None, *, codec: str | None = None, **options: Any
    ) -> list[Relocated]:
        found = everything(catalog) if rows is None else rows
        return relocate.relocate(catalog, locations, POLICY, found, Target(target, codec), WHY, **options)

    yield run
    assert_sound(catalog, location, cold)
