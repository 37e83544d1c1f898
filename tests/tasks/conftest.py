"""Ingest for one customer, with the catalog and the bytes compared after every test; and a job to download."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks.catalog import CatalogDatabase
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.downloads import DownloadReport, bulk_download
from tasks.ingest import IngestReport, ingest_videos
from tasks.outputs import register_outputs
from tasks.stores import Locations, OpenLocation
from tests.helpers import assert_sound, write_outputs


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
