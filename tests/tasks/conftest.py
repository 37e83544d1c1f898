"""Ingest for one customer, with the catalog and the bytes compared after every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks.catalog import CatalogDatabase
from blocks.policies import IngestPolicy
from tasks.ingest import IngestReport, ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import assert_sound


@pytest.fixture
def ingest(catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str):  # type: ignore[no-untyped-def]
    def run(*sources: Path | str, **options: object) -> IngestReport:
        options = {"api_key": acme, "policy": policy, "location": location} | options
        return ingest_videos(
            catalog, options.pop("location"), options.pop("policy"), sources=[str(s) for s in sources], **options
        )

    yield run
    assert_sound(catalog, location)
